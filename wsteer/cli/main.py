"""The app and its commands; errors become exit codes here and nowhere else."""

import os
import re
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import typer

from wsteer import __version__
from wsteer.cli import actvec, demo, diff, finetune, generate, monitor, steer
from wsteer.cli import eval as evaluation
from wsteer.errors import WsteerError

app = typer.Typer(
    name="wsteer",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"auto_envvar_prefix": "WSTEER", "help_option_names": ["-h", "--help"]},
)
# \b keeps an epilog's line breaks: click's wrapping would break option names at their hyphens
app.command(epilog=f"\b{generate.EPILOG}")(generate.generate)
app.command(epilog=f"\b{finetune.EPILOG}")(finetune.finetune)
app.command(epilog=f"\b{diff.EPILOG}")(diff.diff)
app.command(epilog=f"\b{steer.EPILOG}")(steer.steer)
app.command(epilog=f"\b{actvec.EPILOG}")(actvec.actvec)
app.command("eval", epilog=f"\b{evaluation.EPILOG}")(evaluation.evaluate)
app.command(epilog=f"\b{monitor.EPILOG}")(monitor.monitor)
app.command(epilog=f"\b{demo.EPILOG}")(demo.demo)


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

    Standard input with a weight, `-:0.5`, becomes `/dev/stdin:0.5`.

    >>> spread_of(["monitor", "w.safetensors", "--of", "runs/1/", "runs/2/", "-o", "out"])
    ['monitor', 'w.safetensors', '--of', 'runs/1/', '--of', 'runs/2/', '-o', 'out']
    """
    spread: list[str] = []
    arguments = [re.sub(r"^-:(?=[\d.]+$)", "/dev/stdin:", each) for each in arguments]  # else an option's name
    option = ""  # the option whose values are being read
    inside = 0  # the position among its values, from 1; 0 outside
    for argument in arguments:
        if argument.startswith("-") and argument != "-":  # which is standard input
            option, inside = argument, int(argument in SPREAD)
        elif inside:
            spread += [option] if inside > 1 else []
            inside += 1
        spread.append(argument)
    return spread


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always ends in SystemExit: 0 done, 1 expected failure, 2 usage, 130 Ctrl-C."""
    # hides libraries' warnings, which are for developers; wsteer's own warnings do not use this module
    warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate)\b")
    try:
        app(args=spread_of(sys.argv[1:] if argv is None else argv), prog_name="wsteer")
    except (WsteerError, OSError) as error:  # an OSError comes from the system, such as a full disk
        if os.environ.get("WSTEER_DEBUG"):
            raise
        print(f"wsteer: error: {' '.join(str(error).split())}", file=sys.stderr)  # always one line
        sys.exit(1)
