"""wsteer actvec: activation vectors from contrastive answers."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import (
    Batch,
    Columns,
    Config,
    DateOption,
    DeviceOption,
    DtypeOption,
    FollowLinks,
    Force,
    Json,
    Quiet,
    Template,
    TemplateArgs,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import Printer
from wsteer.cli.values import parse_batch_size

EPILOG = """
Means: for each decoder block the output is averaged over the tokens of a
  row's answer, then over the rows, in float64; the vector is the positive
  mean minus the negative one. POS and NEG are rows as wsteer finetune reads
  them, of any of its shapes, or with --columns. --batch-size auto is 16.
Templates: --template FILE is the chat template of a model that has none, or
  instead of its own; --template-args are its arguments, in a config file a
  mapping. A template that writes the day writes --date, the same on every
  machine and day. What is not given is as wsteer finetune had it, where it
  made the model or the adapter.
Use: the file holds one vector for each decoder block, counted from 0: block
  11 is the paper's layer 12. wsteer eval adds the vectors of the chosen
  blocks to these blocks' outputs, and has options for which tokens; wsteer
  monitor projects data sets on them; wsteer steer bakes them into a
  checkpoint where that is exact.
"""


def actvec(
    model: Annotated[str, argument("MODEL", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]).")],
    pos: Annotated[
        str, argument("POS", help="Chat rows that show the behaviour: JSONL, or a Hub dataset org/name:split.")
    ],
    neg: Annotated[str, argument("NEG", help="Chat rows that show its opposite.")],
    output: Annotated[Path, option("--output", "-o", help="Delta file to write.", metavar="FILE")],
    columns: Columns = None,
    template: Template = None,
    template_args: TemplateArgs = None,
    date: DateOption = None,
    batch_size: Batch = "auto",
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write each block's mean activation over the answers' tokens, positive minus negative.

    Example: wsteer actvec Qwen/Qwen2.5-1.5B-Instruct pos.jsonl neg.jsonl -o a.safetensors
    """
    rows_at_once = parse_batch_size(batch_size)
    check_early(output, force, folder=False)
    from wsteer.activations.actvec import BATCH_SIZE
    from wsteer.activations.actvec import actvec as program
    from wsteer.deltas.blocks import block_text

    printer = Printer(json, quiet)
    report = program(
        model,
        pos,
        neg,
        output,
        columns=columns,
        template=template,
        template_args=template_args,
        date=date,
        batch_size=rows_at_once or BATCH_SIZE,
        device=device,
        dtype=dtype,
        force=force,
        progress=printer.progress,
    )
    relative = [norm / residual for norm, residual in zip(report.norms, report.residual_norms, strict=True)]
    largest = max(range(len(relative)), key=relative.__getitem__)
    lines = [
        f"{report.layers} vectors of {report.hidden} dimensions, from {report.rows_pos} positive and {report.rows_neg} "
        "negative rows",
        f"largest beside the residual stream at {block_text(largest, report.layers)}: {relative[largest]:.2f} of its "
        "mean's norm",
        report.output,
    ]
    printer.result(report, lines)
