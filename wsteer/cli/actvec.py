"""wsteer actvec: activation vectors from contrastive answers."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

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
from wsteer.cli.values import parse_batch_size, parse_layers, parse_numbers, usage

if TYPE_CHECKING:
    from wsteer.activations.actvec import ActvecReport
    from wsteer.activations.exports import Export

Form = Literal["control-vector", "persona-vectors", "lm-eval"]
GgufIndex = Literal["as-applied", "generator"]

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
Other tools: --import FILE takes the vectors from a file, told by its
  content, and runs no model: persona-vectors' .pt (row l is block l - 1;
  row 0 and the last one, taken after the final norm, are left out), the
  steered .pt of lm-eval (its coefficient folded in), a control vector of
  llama.cpp or repeng (.gguf), or a delta file. --base checks blocks and
  sizes, and names the model in the delta. In a .gguf, direction.N is added
  at block N; files of llama.cpp's own generator hold block N as
  direction.N+1: --gguf-index generator. --export FILE.gguf or FILE.pt is
  written for these tools, with --import or beside -o; for lm-eval with
  --export-as lm-eval, a block (--layers 12), and --k 2 as its coefficient.
"""
IMPORT = (
    *("imported", "base", "gguf_index", "export", "export_as", "layers", "k", "output"),
    *("follow_links", "force", "json", "quiet", "config"),
)  # what can be given with --import


def actvec(
    context: typer.Context,
    model: Annotated[
        str | None, argument("MODEL", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]).")
    ] = None,
    pos: Annotated[
        str | None, argument("POS", help="Chat rows that show the behaviour: JSONL, or a Hub dataset org/name:split.")
    ] = None,
    neg: Annotated[str | None, argument("NEG", help="Chat rows that show its opposite.")] = None,
    output: Annotated[Path | None, option("--output", "-o", help="Delta file to write.", metavar="FILE")] = None,
    imported: Annotated[
        Path | None,
        option("--import", help="Take the vectors from a file of another tool, or a delta file.", metavar="FILE"),
    ] = None,
    base: Annotated[
        str | None, option("--base", help="With --import: the model of the vectors.", metavar="MODEL")
    ] = None,
    gguf_index: Annotated[
        GgufIndex | None,
        option("--gguf-index", help="With --import: the blocks of direction.N [default: as-applied]."),
    ] = None,
    export: Annotated[
        Path | None, option("--export", help="Write the vectors for another tool: a .gguf or .pt file.", metavar="FILE")
    ] = None,
    export_as: Annotated[
        Form | None,
        option("--export-as", help="What --export writes [default: a control vector, or of .pt persona-vectors]."),
    ] = None,
    layers: Annotated[str | None, option("--layers", help="Decoder blocks to export, as 0-11,20.")] = None,
    k: Annotated[str | None, option("--k", help="Coefficient in lm-eval's file [default: 1].", metavar="K")] = None,
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
    _check_given(context, imported is not None, export is not None)
    for path in (output, export, picture):
        if path is not None:
            check_early(path, force, folder=False)
    printer = Printer(json, quiet)
    if imported is not None:
        _convert(imported, output, base, gguf_index, _export(export, export_as, layers, k), force, printer)
        return
    assert model is not None and pos is not None and neg is not None and output is not None  # checked above
    export_to = _export(export, export_as, layers, k)
    from wsteer.activations.actvec import BATCH_SIZE
    from wsteer.activations.actvec import actvec as program

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
        export_to=export_to,
        force=force,
        progress=printer.progress,
        note=printer.note,
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
    beside = [path for path in (report.picture, report.exported) if path]
    return [*lines, *beside, report.output]


def _check_given(context: typer.Context, importing: bool, exporting: bool) -> None:
    """Refuse options that would be ignored, and what is missing."""
    given = {
        name
        for name in context.params
        if (source := context.get_parameter_source(name)) is not None and source.name != "DEFAULT"
    }
    flags = {
        each.name: each.opts[0] if each.opts[0].startswith("-") else each.metavar for each in context.command.params
    }
    for name, flag in flags.items():
        if name not in given:
            continue
        if importing and name not in IMPORT:
            raise typer.BadParameter("it has no meaning with --import, which runs no model", param_hint=flag)
        if name in ("base", "gguf_index") and not importing:
            raise typer.BadParameter("it is for --import", param_hint=flag)
        if name in ("export_as", "layers", "k") and not exporting:
            raise typer.BadParameter("it is for --export", param_hint=flag)
    if importing:
        if not given & {"output", "export"}:
            raise typer.BadParameter("give a delta file to write, or --export", param_hint="--output")
        return
    for name in ("model", "pos", "neg", "output"):
        if name not in given:
            raise typer.BadParameter("it is missing; or take vectors from a file by --import", param_hint=flags[name])


def _export(path: Path | None, form: Form | None, layers: str | None, k: str | None) -> "Export | None":
    """What --export, --export-as, --layers and --k ask for."""
    if path is None:
        return None
    blocks = parse_layers(layers)
    ks = parse_numbers([k], "--k") if k is not None else [None]
    if len(ks) != 1:
        raise typer.BadParameter("a file holds one k", param_hint="--k")
    from wsteer.activations.exports import Export

    return usage(lambda: Export.of(path, form, blocks, ks[0]))


def _convert(
    source: Path,
    output: Path | None,
    base: str | None,
    gguf_index: GgufIndex | None,
    export_to: "Export | None",
    force: bool,
    printer: Printer,
) -> None:
    from wsteer.activations.convert import convert

    report = convert(
        source, output, base=base, gguf_index=gguf_index, export_to=export_to, force=force, note=printer.note
    )
    count = len(report.blocks)
    lines = [
        f"{count} vector{'s' if count > 1 else ''} of {report.hidden} dimensions: {_blocks(report.blocks)}; "
        f"norms {min(report.norms):.3g} to {max(report.norms):.3g}",
    ]
    if report.exported is not None:
        lines.append(f"exported: {_blocks(report.exported_blocks)}")
        lines += [report.exported] if output is not None else []
    printer.result(report, [*lines, report.output])


def _blocks(blocks: Sequence[int]) -> str:
    """Blocks by their numbers, as words."""
    from wsteer.deltas.choosing import ranges

    return f"block{'s' if len(blocks) > 1 else ''} {ranges(blocks)}"
