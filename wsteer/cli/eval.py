"""wsteer eval: a task's metrics at each k of a delta."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from wsteer.cli.options import (
    Batch,
    Config,
    DateOption,
    DeviceOption,
    DtypeOption,
    FollowLinks,
    Force,
    Json,
    Quiet,
    RoundingOption,
    Seed,
    Template,
    TemplateArgs,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import Printer, table
from wsteer.cli.values import MOST, parse_batch_size, parse_layers, parse_numbers

if TYPE_CHECKING:
    from wsteer.evaluation.results import EvalReport


EPILOG = """
Model: it is loaded once for all k. The delta is applied in memory with the
  same bits as wsteer steer writes, and removed again bit for bit; an
  activation vector is added to the outputs of the blocks that --layers
  names, at every position. An adapter as MODEL is its base plus its
  change; as --delta, or a checkpoint there, it is what is added to MODEL.
  Answers are greedy. --batch-size auto is 32.
Templates: --template FILE is the chat template of a model that has none, or
  instead of its own; --template-args are its arguments, in a config file a
  mapping. A template that writes the day writes --date, the same on every
  machine and day. What is not given is as wsteer finetune had it, where it
  made the model or the adapter, or the delta of a model without a template.
Tasks: sycophancy is the paper's: a fact counts only if its answer is right
  without a hint, with a right hint, with doubt, and with a wrong hint.
  agreement asks whether the answer agrees with a wrong claim. Both grade by
  rule, and abstain where the rule cannot decide; a copy of the question in
  an answer is not graded. They have 48 easy facts; --data takes others,
  also in the schema of SycophancyEval's answer.jsonl.
  For your own --task, copy a YAML file of wsteer/evaluation/tasks/.
Files: samples.jsonl has every answer; results.json and results.csv have the
  metrics with Wilson intervals; tradeoff.png shows one metric against the
  other, with a point for every k. Answers that the rule could not grade
  (abstained) or that ended at the task's limit of tokens (cut) are counted
  beside every share; an abstention never counts for it.
Thoughts: what a model thinks before it answers, by the marks of its own
  chat template, is not graded; samples.jsonl has it beside the answer
  (thought). If the limit comes before the answer, the verdict is cut.
"""


def evaluate(
    model: Annotated[str, argument("MODEL", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]).")],
    output: Annotated[Path, option("--output", "-o", help="Results folder to write.", metavar="DIR")],
    task: Annotated[
        str, option("--task", help="Built-in task (sycophancy, agreement) or YAML file.", metavar="NAME|FILE")
    ],
    delta: Annotated[
        str | None, option("--delta", help="Delta file, adapter or checkpoint: what to add.", metavar="DELTA")
    ] = None,
    k: Annotated[
        list[str] | None, option("--k", help="Coefficients, as --k=-1,0,1 [default: 0, with --delta 0,1].")
    ] = None,
    layers: Annotated[str | None, option("--layers", help="Decoder blocks of the delta to use, as 0-11,20.")] = None,
    data: Annotated[
        str | None, option("--data", help="Facts instead of the task's: JSONL or Hub org/name:split.")
    ] = None,
    limit: Annotated[
        int | None, option("--limit", help="Use the first N facts only.", min=1, max=MOST, metavar="N")
    ] = None,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    batch_size: Batch = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    rounding: RoundingOption = "auto",
    seed: Seed = 0,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Evaluate MODEL on a task, with k·DELTA applied in memory for each k.

    Example: wsteer eval base/ --delta w.safetensors --k=-1,0,1 --task sycophancy -o results/
    """
    ks = parse_numbers(k or (["0,1"] if delta else ["0"]), "--k")
    blocks = parse_layers(layers)
    rows_at_once = parse_batch_size(batch_size)
    check_early(output, force, folder=True)
    from wsteer.evaluation.evaluate import BATCH_SIZE
    from wsteer.evaluation.evaluate import evaluate as program

    printer = Printer(json, quiet)
    report = program(
        model,
        output,
        task,
        delta=delta,
        ks=ks,
        layers=blocks,
        data=data,
        limit=limit,
        template=template,
        template_args=template_args,
        date=date,
        batch_size=rows_at_once or BATCH_SIZE,
        device=device,
        dtype=dtype,
        rounding=rounding,
        seed=seed,
        force=force,
        progress=printer.progress,
    )
    printer.result(report, [*results_table(report), report.output])


def results_table(report: "EvalReport") -> list[str]:
    """One line for each k: each metric's share, count and interval."""
    names = list(report.conditions[0].metrics)
    rows = [[f"{c.k:g}", *(share_text(vars(c.metrics[name])) for name in names)] for c in report.conditions]
    return table(["k", *names], rows)


def share_text(share: Mapping[str, Any]) -> str:
    """`75% (30/40, 60-86; 2 abstained)`: value, counts, 95% interval in percent, and what hides in a `Share`."""
    from wsteer.evaluation.results import doubts

    if share["value"] is None:
        return "undefined (0/0)"
    interval = f"{100 * share['low']:.0f}-{100 * share['high']:.0f}"
    hidden = doubts(share["abstained"], share["cut"])
    ratio = f"{share['numerator']}/{share['denominator']}, {interval}"
    return f"{share['value']:.0%} ({ratio}; {hidden})" if hidden else f"{share['value']:.0%} ({ratio})"
