"""wsteer demo: the whole chain on a small real model."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import Config, Force, Json, Quiet, option
from wsteer.cli.output import Printer
from wsteer.saving import check_output


def demo(
    output: Annotated[Path, option("--output", "-o", help="Folder to write.", metavar="DIR")] = Path("wsteer-demo"),
    model: Annotated[
        str | None, option("--model", help="Model to steer [default: SmolLM2-135M-Instruct].", metavar="MODEL")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Make a small model more and less sycophantic, from data to pictures, in a few minutes on a CPU.

    Example: wsteer demo
    """
    check_output(output, force)  # before seconds of imports
    from wsteer.demo.chain import run

    printer = Printer(json, quiet)
    report, lines = run(output, model, printer, force)
    printer.result(report, lines)
