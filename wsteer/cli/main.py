"""The app and its commands; errors become exit codes here."""

import getpass
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from wsteer import __version__
from wsteer.cli import actvec, demo, diff, finetune, generate, monitor, report, steer
from wsteer.cli import eval as evaluation
from wsteer.cli.command import Command, Stopped
from wsteer.cli.terminal import escaped_streams, one_line
from wsteer.errors import WsteerError, out_of_memory, reason

app = typer.Typer(
    name="wsteer",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
# \b keeps an epilog's line breaks: click's wrapping would break option names at their hyphens
app.command(cls=Command, epilog=f"\b{generate.EPILOG}")(generate.generate)
app.command(cls=Command, epilog=f"\b{finetune.EPILOG}")(finetune.finetune)
app.command(cls=Command, epilog=f"\b{diff.EPILOG}")(diff.diff)
app.command(cls=Command, epilog=f"\b{steer.EPILOG}")(steer.steer)
app.command(cls=Command, epilog=f"\b{actvec.EPILOG}")(actvec.actvec)
app.command("eval", cls=Command, epilog=f"\b{evaluation.EPILOG}")(evaluation.evaluate)
app.command(cls=Command, epilog=f"\b{report.EPILOG}")(report.report)
app.command(cls=Command, epilog=f"\b{monitor.EPILOG}")(monitor.monitor)
app.command(cls=Command, epilog=f"\b{demo.EPILOG}")(demo.demo)


def _show_version(shown: bool) -> None:
    if shown:
        print(f"wsteer {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", is_eager=True, callback=_show_version),
    ] = False,
) -> None:
    """Steer language models by arithmetic on their weights.

    Example: wsteer diff pos/ neg/ -o w.safetensors, then wsteer steer BASE w.safetensors --k -1.5
    """


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; always ends in SystemExit: 0 done, 1 expected failure, 2 usage, 3 a gate, 130 Ctrl-C."""
    # hides libraries' warnings, which are for developers; wsteer's own warnings do not use this module
    warnings.filterwarnings("ignore", module=r"(torch|transformers|peft|accelerate)\b")
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns where the home folder cannot be written
    os.environ["MPLBACKEND"] = "agg"  # pictures are files, never windows
    name_the_home()
    with escaped_streams():
        try:
            try:
                app(args=argv, prog_name="wsteer")
            finally:
                sys.stdout.flush()
        except Stopped as error:
            print(f"wsteer: {one_line(str(error))}", file=sys.stderr)
            sys.exit(130)
        except (WsteerError, OSError) as error:  # an OSError comes from the system, such as a full disk
            if debugging():
                raise
            _fail(str(error))
        except Exception as error:
            if debugging():
                raise
            if out_of_memory(error):
                _fail(f"out of memory ({reason(error)}); lower the batch size, or free memory")
            if not while_importing(error):
                raise
            _fail(f"a library cannot be imported ({reason(error)}); mend its installation, or the variables it reads")


def debugging() -> bool:
    """Whether WSTEER_DEBUG asks for tracebacks."""
    return os.environ.get("WSTEER_DEBUG", "").lower() not in ("", "0", "false", "no", "off")


def while_importing(error: Exception) -> bool:
    """Whether a library raised it when it was imported, as torch does for TORCH_LOGS that it does not know."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    bodies = [each.f_globals.get("__name__", "") for each in frames if each.f_code.co_name == "<module>"]
    return any(name.split(".")[0] != "wsteer" for name in bodies)


def _fail(text: str) -> NoReturn:
    print(f"wsteer: error: {one_line(' '.join(text.split()))}", file=sys.stderr)
    sys.exit(1)


def name_the_home() -> None:
    """Give a user without a home folder or a name what libraries ask for as soon as they are imported.

    A home that does not exist is named, never a folder that others can write: caches, with models, are read from there.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = "/nonexistent"
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())
