"""The app and its commands; errors become exit codes here and nowhere else."""

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from wsteer import __version__
from wsteer.cli.actvec import actvec
from wsteer.cli.demo import demo
from wsteer.cli.diff import diff
from wsteer.cli.eval import evaluate
from wsteer.cli.finetune import finetune
from wsteer.cli.generate import generate
from wsteer.cli.monitor import monitor
from wsteer.cli.steer import steer
from wsteer.errors import WsteerError

app = typer.Typer(
    name="wsteer",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "WSTEER", "help_option_names": ["-h", "--help"]},
)
for command in (generate, finetune, diff, steer, actvec):
    app.command()(command)
app.command("eval")(evaluate)
for command in (monitor, demo):
    app.command()(command)


def _show_version(shown: bool) -> None:
    if shown:
        print(f"wsteer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_show_version, allow_from_autoenv=False
        ),
    ] = False,
) -> None:
    """Steer language models by arithmetic on their weights.

    Example: wsteer diff pos/ neg/ -o w.safetensors, then wsteer steer BASE w.safetensors --k -1.5
    """


SPREAD = ("--of", "--controls", "--centre", "--shift")  # options that take all values up to the next option


def spread_of(arguments: Sequence[str]) -> list[str]:
    """`--of a b c` as `--of a --of b --of c`, so that `--of runs/*/` means every folder the shell found.

    >>> spread_of(["monitor", "w.safetensors", "--of", "runs/1/", "runs/2/", "-o", "out"])
    ['monitor', 'w.safetensors', '--of', 'runs/1/', '--of', 'runs/2/', '-o', 'out']
    """
    spread: list[str] = []
    option = ""  # the one whose values are being read
    inside = 0  # of its values, counted from 1; 0 outside
    for argument in arguments:
        if argument.startswith("-"):
            option, inside = argument, int(argument in SPREAD)
        elif inside:
            spread += [option] if inside > 1 else []
            inside += 1
        spread.append(argument)
    return spread


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always ends in SystemExit: 0 done, 1 expected failure, 2 usage, 130 Ctrl-C."""
    # what libraries warn of is for their developers; wsteer's own warnings do not come through this module
    warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate)\b")
    try:
        app(args=spread_of(sys.argv[1:] if argv is None else argv), prog_name="wsteer")
    except (WsteerError, OSError) as error:  # an OSError is the disk's or the system's doing, such as a full disk
        if os.environ.get("WSTEER_DEBUG"):
            raise
        print(f"wsteer: error: {' '.join(str(error).split())}", file=sys.stderr)  # one line, whatever a path holds
        sys.exit(1)
