"""wsteer report: one page from the logs of others' runs."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.eval_tables import tables
from wsteer.cli.options import Config, Force, Json, Quiet, argument, check_early, option
from wsteer.cli.output import Printer

EPILOG = """
Logs: .eval and .json files of inspect_ai, results_*.json of lm-eval with
  the samples_*.jsonl beside them (run it with its option log_samples),
  folders that wsteer eval wrote, or folders of any of these. They become
  one report, so that conditions may be run on several machines, and tasks
  by both tools.
  inspect_ai's logs need the extra: pip install 'wsteer[inspect]'.
Conditions: told from the model's name or arguments. vllm/MODEL:sweep/k1,
  peft=sweep/k1 and pretrained=sweep/k1 are k = 1 of `sweep`, as a sweep of
  wsteer steer names its folders; wsteer/MODEL has its delta and k;
  checkpoint-N is a training step.
Base: what the others are compared with is the model to which nothing is
  added, else k = 0. Where several could be it, --base names one, as the
  log does.
Rows: compared by their ids in the task; if prompts differ, they are not
  compared. A task under one condition may be there once; an unfinished log
  gives way to a finished one, and else counts with a warning.
Page: one file without a network, with pictures, intervals, differences to
  the base, and each question's answers side by side. It holds no times, and
  equal logs make equal pages. --force replaces a page of wsteer only.
"""


def report(
    logs: Annotated[
        list[str], argument("LOGS", help="Logs of inspect_ai, lm-eval or wsteer eval, or folders of them.")
    ],
    output: Annotated[Path, option("--output", "-o", help="Page to write, as report.html.", metavar="FILE")],
    base: Annotated[
        str | None,
        option("--base", help="The model that the others are compared with, as logs name it.", metavar="NAME"),
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write one page from LOGS that others' runs wrote: pictures, intervals, answers side by side.

    Example: wsteer report logs/ lm/ -o report.html
    """
    check_early(output, force, folder=False)
    from wsteer.evaluation.report import report as program

    printer = Printer(json, quiet)
    found = program(logs, output, base=base, force=force, progress=printer.progress).as_json()
    printer.result(found, [*tables(found), str(output)])
