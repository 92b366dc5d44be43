"""wsteer actvec: activation vectors from contrastive answers."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

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
    Positions,
    Quiet,
    Template,
    TemplateArgs,
    argument,
    check_early,
    option,
)
from wsteer.cli.output import Printer
from wsteer.cli.values import parse_batch_size

if TYPE_CHECKING:
    from wsteer.activations.actvec import ActvecReport

Method = Literal["mean", "pca"]

EPILOG = """
Vectors: for each decoder block the output is averaged over the tokens of a
  row, then over the rows, in float64; the vector is the positive mean minus
  the negative one (--method mean, the paper's). POS and NEG are rows as
  wsteer finetune reads them, of any of its shapes, or with --columns.
  --method pca takes the first principal direction of the differences of
  paired rows instead, not centred, and of the length that the mean
  difference has along it, so that k means the same. Row i of POS and row i
  of NEG must then answer the same prompt.
Tokens: --positions response are the answer's own tokens, as in the paper;
  prompt-last is the last token before them, prompt all of those, and all
  is both. The sides must differ there: prompts do by their system turns.
  wsteer eval adds vectors at positions of the same names, where response
  also has the prompt's last token, at which the answer's first is chosen.
System turns: rows that have one are read with it, as persona vectors are
  (wsteer generate --keep-system writes such rows); --strip-system reads
  them without, as wsteer finetune --strip-system learns them.
Stable: half_cosines, in --json, compares by block the vectors of the rows
  of even and odd number: near 1, more rows would change little; near 0, the
  vector is noise. --picture FILE.png (or .svg) draws norms and cosines over
  the blocks. Empty answers are counted, and left out; thoughts in answers
  are counted, and averaged with them. --batch-size auto is 16.
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
    method: Annotated[
        Method, option("--method", help="Difference of means, or first principal direction of pairs' differences.")
    ] = "mean",
    positions: Annotated[
        Positions, option("--positions", help="Tokens over which activations are averaged.")
    ] = "response",
    strip_system: Annotated[
        bool, option("--strip-system/--keep-system", help="Leave the rows' system turns out, or read them.")
    ] = False,
    picture: Annotated[
        Path | None, option("--picture", help="PNG or SVG file to write: the report over blocks.", metavar="FILE")
    ] = None,
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
    """Write each block's activation, averaged over the answers' tokens: positive minus negative.

    Example: wsteer actvec Qwen/Qwen2.5-1.5B-Instruct pos.jsonl neg.jsonl -o a.safetensors
    """
    rows_at_once = parse_batch_size(batch_size)
    check_early(output, force, folder=False)
    if picture is not None:
        check_early(picture, force, folder=False)
    from wsteer.activations.actvec import BATCH_SIZE
    from wsteer.activations.actvec import actvec as program

    printer = Printer(json, quiet)
    report = program(
        model,
        pos,
        neg,
        output,
        method=method,
        positions=positions,
        strip_system=strip_system,
        picture=picture,
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
    for note in notes(report, strip_system):
        printer.note(note)
    printer.result(report, result_lines(report))


def notes(report: "ActvecReport", strip_system: bool) -> list[str]:
    """What stands out in the rows: system turns, thoughts."""
    found = []
    if report.system_pos or report.system_neg:
        how = "is left out" if strip_system else "is read with them (--strip-system leaves it out)"
        found.append(f"{_of_both(report, 'system')} rows have a system turn, which {how}")
    if report.thoughts_pos or report.thoughts_neg:
        found.append(
            f"{_of_both(report, 'thoughts')} answers have a thought, which counts to the answer where it is read"
        )
    return found


def _of_both(report: "ActvecReport", name: str) -> str:
    """`3 of 10 positive and 0 of 10 negative`."""
    counts = [
        f"{getattr(report, f'{name}_{role}')} of {getattr(report, f'rows_{role}')} {side}"
        for role, side in (("pos", "positive"), ("neg", "negative"))
    ]
    return " and ".join(counts)


def result_lines(report: "ActvecReport") -> list[str]:
    """What was written, where it is largest, and how far halves of the rows agree."""
    from wsteer.deltas.blocks import block_text

    relative = [
        norm / residual if residual else 0.0 for norm, residual in zip(report.norms, report.residual_norms, strict=True)
    ]
    largest = max(range(len(relative)), key=relative.__getitem__)
    lines = [
        f"{report.layers} vectors of {report.hidden} dimensions, from {report.rows_pos} positive and {report.rows_neg} "
        "negative rows",
        f"largest beside the residual stream at {block_text(largest, report.layers)}: {relative[largest]:.2f} of its "
        "mean's norm",
    ]
    cosines = [each for each in report.half_cosines or () if each is not None]
    if cosines and report.half_cosines is not None:
        there = report.half_cosines[largest]
        at = "" if there is None else f"{there:.2f} there, "
        lines.append(
            f"cosine between the halves of the rows: {at}{min(cosines):.2f} to {max(cosines):.2f} over all blocks"
        )
    if report.explained is not None:
        lines.append(f"share of the differences that the direction explains there: {report.explained[largest]:.2f}")
    return [*lines, *([report.picture] if report.picture else []), report.output]
