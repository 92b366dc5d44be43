"""wsteer monitor: cosines between deltas."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import Config, Force, Json, Quiet, argument, option
from wsteer.cli.output import Printer, table
from wsteer.saving import check_output


def monitor(
    deltas: Annotated[
        list[str], argument("DELTA", help="Delta files or LoRA adapters: the directions to compare with.")
    ],
    output: Annotated[Path, option("--output", "-o", help="Folder to write.", metavar="DIR")],
    of: Annotated[
        list[str] | None, option("--of", help="Delta or adapter to compare; repeat it. Without: all pairs of DELTA.")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the cosines of weight changes with deltas, as a table and a heat map.

    Example: wsteer monitor w.safetensors --of run1/ --of run2/ -o monitor/
    """
    check_output(output, force, folder=True)  # before seconds of imports
    from wsteer.monitoring.comparing import monitor as run

    printer = Printer(json, quiet)
    report = run(deltas, output, of or (), force=force, track=printer.track)
    rows = [
        [name, *(f"{cosine:.3f}" for cosine in cosines)]
        for name, cosines in zip(report.rows, report.cosines, strict=True)
    ]
    printer.result(report, [*table(["cosine", *report.columns], rows), report.output])
