"""wsteer eval: what deltas, prompts and checkpoints do to a model's answers, and at what cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsteer.cli.eval_tables import retained_table, tables
from wsteer.cli.options import (
    Batch,
    Config,
    DateOption,
    Deltas,
    DeviceOption,
    DtypeOption,
    FollowLinks,
    Force,
    Json,
    Ks,
    LayersOrEach,
    PositionsOption,
    Quiet,
    RoundingOption,
    Seed,
    Template,
    TemplateArgs,
    Variant,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import GATE_FAILED, Printer
from wsteer.cli.values import (
    MOST,
    parse_added,
    parse_arguments,
    parse_batch_size,
    parse_blocks,
    parse_bounds,
    parse_ks,
    parse_share,
    shown,
)

if TYPE_CHECKING:
    from wsteer.evaluation.results import EvalReport

EPILOG = """
Model: it is loaded once for all conditions. The model as it is (k = 0) is
  always one of them, once. A change of weights is applied in memory with
  the same bits as wsteer steer writes, and removed again bit for bit. An
  adapter as MODEL is its base plus its change; as --delta, or a checkpoint
  there, it is what is added to MODEL.
Compared: --delta [NAME=]DELTA[@LAYERS], repeated, is a delta file, an
  adapter, a checkpoint or an activation vector; --checkpoints RUN are the
  checkpoint-N of a training; --system is a prompt, or a file of one;
  --control adds to each delta a random one of the same norms (random), or
  its own numbers in another order (shuffled). --k=-2,1 or --k=-2:2:0.5.
  --calibrate kl=0.5 instead finds for each delta the two k, of both signs,
  at which the 95th percentile of the KL to the model as it is, per token of
  its own greedy answers, is 0.5 nats: methods at an equal budget.
Activation vectors: each block's vector has what the blocks before it add,
  so that --layers names where to add (each: every block by itself, at one
  k), or --variant all-layers adds at each block what it gains. They are
  added at the last token of the prompt and at the answer (response, as in
  the paper), at the prompt, at its last token alone (prompt-last), or at
  all; never at padding. Blocks count from 0: block 11 is the paper's layer
  12. @40% is the block at 40% of the model's depth, of 30 blocks block 12.
Parts: --attribute layers (or modules) keeps and drops every part of one
  delta at one k, beside a random part of the same norm.
Tasks, repeated: sycophancy is the paper's: a fact counts only if its answer
  is right without a hint, with a right hint, with doubt, and with a wrong
  hint. agreement asks whether the answer agrees with a wrong claim. A YAML
  file is your own; wsteer/evaluation/tasks/README.md has its keys.
  perplexity:FILE and repetition show damage. lm:NAME or lm:FILE.yaml is a
  task of lm-evaluation-harness (pip install 'wsteer[lm-eval]').
  inspect:FILE.py or inspect:package/name is one of inspect ('wsteer
  [inspect]'), graded by --judge MODEL, a name of inspect's; several are a
  panel with a majority. Task files of both are programs, and run.
Paper's tasks: inspect:wsteer/sycophancy, gcd_sycophancy, evil_mcqa,
  cot_consistency, tinymmlu, gsm8k, harm_refusal, emergent_misalignment and
  trait. -T data=FILE gives one its data, -T TASK.data=FILE one of several;
  wsteer/evaluation/paper/README.md has the other arguments.
Numbers: shares have Wilson intervals; the change from k = 0 is over the
  same rows, with intervals (Bonett-Price) and exact tests (McNemar), Holm
  over the conditions. What a rule could not grade (abstained) or a limit
  cut is counted, never graded. Above --max-unscored rows that a judge left
  without a verdict the exit code is 1.
  --choose 'max non_sycophancy s.t. lo(accuracy) > -0.03' chooses a
  condition on half of the rows, and reports it on the other half.
Gates: --fail-above METRIC=X and --fail-below METRIC=X end with exit code 3
  if a condition's value is beyond, as for CI.
Files: rows.jsonl has a line for each metric, condition and row; all else is
  computed from it: results.json and .csv, the pictures, and report.html,
  which needs no network. samples.jsonl has the answers to built-in tasks.
  inspect's and lm-eval's own results lie beside them.
  A run that was interrupted goes on with --resume.
Templates: --template FILE is the chat template of a model that has none, or
  instead of its own; --template-args are its arguments, in a config file a
  mapping. A template that writes the day writes --date, the same on every
  machine and day. What is not given is as wsteer finetune had it, where it
  made the model or the adapter, or the delta of a model without a template.
Thoughts: what a model thinks before it answers, by the marks of its own
  chat template, is not graded; samples.jsonl has it beside the answer
  (thought). If the limit comes before the answer, the verdict is cut.
"""
CONTROLS = ("random", "shuffled")


def evaluate(
    model: Annotated[str, argument("MODEL", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]).")],
    output: Annotated[Path, option("--output", "-o", help="Results folder to write.", metavar="DIR")],
    task: Annotated[
        list[str],
        option("--task", help="Built-in task, YAML file, lm:TASK or inspect:TASK; repeat.", metavar="TASK"),
    ],
    delta: Deltas = None,
    k: Ks = None,
    layers: LayersOrEach = None,
    variant: Variant = None,
    positions: PositionsOption = "response",
    checkpoints: Annotated[
        list[str] | None,
        option("--checkpoints", help="Training folder, whose checkpoints are compared; repeat.", metavar="RUN"),
    ] = None,
    system: Annotated[
        list[str] | None,
        option("--system", help="System prompt to compare with, or a file of one; repeat.", metavar="TEXT|FILE"),
    ] = None,
    control: Annotated[
        list[str] | None,
        option(
            "--control", help="Compare each delta with one without its direction; repeat.", metavar="random|shuffled"
        ),
    ] = None,
    attribute: Annotated[
        Literal["layers", "modules"] | None, option("--attribute", help="Keep and drop each part of the delta.")
    ] = None,
    calibrate: Annotated[
        str | None, option("--calibrate", help="Instead of --k: the k of both signs with this KL.", metavar="kl=NATS")
    ] = None,
    judge: Annotated[
        list[str] | None, option("--judge", help="Model of inspect's that grades; repeat for a panel.", metavar="MODEL")
    ] = None,
    task_arg: Annotated[
        list[str] | None,
        option(
            "--task-arg", "-T", help="Argument of inspect tasks, as data=FILE; repeat.", metavar="[TASK.]NAME=VALUE"
        ),
    ] = None,
    choose: Annotated[
        str | None,
        option("--choose", help="Choose a condition, as 'max METRIC s.t. lo(METRIC) > -0.03'.", metavar="RULE"),
    ] = None,
    fail_above: Annotated[
        list[str] | None, option("--fail-above", help="Exit with 3 if a metric is above; repeat.", metavar="METRIC=X")
    ] = None,
    fail_below: Annotated[
        list[str] | None, option("--fail-below", help="Exit with 3 if a metric is below; repeat.", metavar="METRIC=X")
    ] = None,
    max_unscored: Annotated[
        str, option("--max-unscored", help="Exit with 1 if a judge left more rows ungraded.", metavar="SHARE")
    ] = "5%",
    data: Annotated[
        str | None, option("--data", help="Rows instead of the built-in task's: JSONL or Hub org/name:split.")
    ] = None,
    limit: Annotated[
        int | None, option("--limit", help="Use the first N rows only.", min=1, max=MOST, metavar="N")
    ] = None,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    batch_size: Batch = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    rounding: RoundingOption = "auto",
    seed: Seed = 0,
    resume: Annotated[bool, option("--resume", help="Go on with an interrupted run.")] = False,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Evaluate MODEL on tasks, as it is and with deltas, prompts or checkpoints.

    Example: wsteer eval base/ --delta w.safetensors --k=-1,1 --task sycophancy -o results/
    """
    added, ks = parse_added(delta or []), parse_ks(k) if k else None
    blocks = parse_blocks(layers)
    above, below = parse_bounds(fail_above or [], "--fail-above"), parse_bounds(fail_below or [], "--fail-below")
    most, rows_at_once = parse_share(max_unscored, "--max-unscored"), parse_batch_size(batch_size)
    arguments = parse_arguments(task_arg or [], "--task-arg")
    target = parse_bounds([calibrate], "--calibrate") if calibrate else {}
    if target and target.keys() != {"kl"}:
        raise typer.BadParameter(f"{calibrate!r} is not kl=NATS, as kl=0.5", param_hint="--calibrate")
    for kind in control or []:
        if kind not in CONTROLS:
            raise typer.BadParameter(f"{shown(kind)} is none of {', '.join(CONTROLS)}", param_hint="--control")
    check_early(output, force, folder=True, resume=resume)
    from wsteer.evaluation.evaluate import BATCH_SIZE
    from wsteer.evaluation.evaluate import evaluate as program

    printer = Printer(json, quiet)
    report = program(
        model,
        output,
        task,
        delta=added,
        ks=ks,
        layers=blocks,
        variant=variant,
        positions=positions,
        checkpoints=checkpoints or [],
        system=system or [],
        controls=control or [],
        attribute=attribute,
        calibrate=target.get("kl"),
        judges=judge or [],
        task_args=arguments,
        choose=choose,
        fail_above=above,
        fail_below=below,
        max_unscored=most,
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
        resume=resume,
        force=force,
        progress=printer.progress,
    )
    found = report.as_json()
    printer.result(found, [*tables(found), *retained_table(found), *report.told, report.output])
    _fail(printer, report)


def _fail(printer: Printer, report: "EvalReport") -> None:
    """End with the code of what the results fail: rows without a verdict, or a gate."""
    for failure in report.unscored:
        printer.failure(f"error: {failure}")
    for failure in report.failures:
        printer.failure(f"gate failed: {failure}")
    if report.unscored:
        raise typer.Exit(1)
    if report.failures:
        raise typer.Exit(GATE_FAILED)
