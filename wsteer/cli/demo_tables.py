"""An experiment's findings, as lines for the terminal."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.demo.page import ExperimentReport


def finding_lines(report: "ExperimentReport") -> Iterator[str]:
    """Each finding's figures, verdict and the number that decides; then the steps left out, and the page's path."""
    rows = []
    for each in report.findings:
        told = each.deciding
        number = f"{told.decisive} {told.compared}" if told is not None and told.decisive else ""
        rows.append([each.finding.figures, each.finding.name, each.verdict, number])
    yield from table(["figure", "finding", "agrees here?", "the number that decides"], rows, texts=4)
    yield ""
    for line in report.left_out:
        yield f"left out, {line}"
    yield report.output
