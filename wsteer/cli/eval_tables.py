"""eval's results, as lines for the terminal."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.evaluation.results import EvalReport


def result_lines(report: "EvalReport") -> list[str]:
    """A table for each task, what was chosen, and the path."""
    return [*_tables(report), *report.remarks, report.output]
