"""wsteer steer: base + k·delta as a checkpoint, an adapter or a delta."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsteer.cli.options import (
    Config,
    Dtype,
    Exclude,
    FollowLinks,
    Force,
    Include,
    Json,
    Layers,
    Quiet,
    RoundingOption,
    Seed,
    Variant,
    argument,
    option,
)
from wsteer.cli.output import Printer, table
from wsteer.cli.values import parse_layer_scale, parse_layers, parse_numbers

if TYPE_CHECKING:
    from wsteer.steering.export import ExportReport
    from wsteer.steering.steer import SteerReport


Form = Literal["checkpoint", "adapter", "delta"]


EPILOG = """
Output: the base's files, in the base's dtype; the folder loads wherever the
  base does. It is written block by block: memory does not grow with the
  model. Every touched tensor is folded in float32 and rounded once. k = 0
  gives the base's bytes. A base in .bin files is read without running code,
  and written as safetensors.
Deltas: an adapter folder is merged exactly, as in wsteer steer BASE pos/
  --k 1; of a checkpoint its difference from BASE is taken; of a folder of
  seeds the mean. If BASE is an adapter, it is its base plus its change.
Several: deltas are added, as in wsteer steer BASE ft/ w.safetensors --k 1
  --k -0.5. With --sweep=-2,-1,1,2 -o DIR the folders DIR/k-2 to DIR/k2 are
  written in one pass over the base.
Rounding: in a 16-bit checkpoint, rounding to nearest can undo a change from
  a small learning rate. The gain is the share of the change that the
  rounding keeps, measured on a sample of rows; auto rounds to nearest
  if that is 99% or more, else stochastically, with noise that depends only
  on --seed, the parameter's name and the entry.
Forms: --as adapter writes a PEFT LoRA folder with k folded in, of a rank
  that vLLM accepts; --as delta a delta file, for sums and multiples.
Part: --layers, --include and --exclude steer a part of the model; what is
  left out of a delta need not fit it. --layer-scale 0.5:1 sets the strength
  at the first and the last block, linear between.
Resuming: --resume continues an interrupted run of the same command with
  the weight files that it has finished; --force drops them.
Activations: a vector, or a delta of mlp.down_proj.bias, is baked into a
  Llama as a bias (a Qwen2 is saved as an equal Llama). Models that cannot
  hold it exactly (Gemma, Qwen3) are refused; wsteer eval applies it by
  hooks. As there, --layers names the block, or --variant all-layers adds
  at each what it gains. A bias acts at every token: the positions all.
"""


def steer(
    base: Annotated[str, argument("BASE", help="Checkpoint or adapter: a folder or a Hub id (org/name[@revision]).")],
    deltas: Annotated[list[str], argument("DELTA", help="Delta files, adapters, or checkpoints tuned from BASE.")],
    k: Annotated[
        list[str] | None,
        option("--k", help="Coefficient: one for all deltas, or one for each; repeat, or K,K.", metavar="K"),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        option("--sweep", help="Several coefficients, as --sweep=-2,-1,1,2: one output each.", metavar="K,K"),
    ] = None,
    output: Annotated[
        Path | None, option("--output", "-o", help="Folder to write [default: ./<base>-<delta>-k<K>].", metavar="DIR")
    ] = None,
    form: Annotated[
        Form, option("--as", help="What to write: a checkpoint, a PEFT LoRA adapter, or a delta file.")
    ] = "checkpoint",
    dtype: Annotated[Dtype, option("--dtype", help="Type of the weights written; auto is each tensor's own.")] = "auto",
    rounding: RoundingOption = "auto",
    seed: Seed = 0,
    layers: Layers = None,
    variant: Variant = None,
    include: Include = None,
    exclude: Exclude = None,
    layer_scale: Annotated[
        str | None,
        option("--layer-scale", help="Factor of the first and the last block, linear between.", metavar="A:B"),
    ] = None,
    dry_run: Annotated[bool, option("--dry-run", help="Say what would be written, and write nothing.")] = False,
    resume: Annotated[bool, option("--resume", help="Go on where an interrupted run of the same stopped.")] = False,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write BASE + k·DELTA.

    Example: wsteer steer base/ w.safetensors --k -1.5
    """
    ks = parse_numbers(k, "--k") if k else None
    swept = parse_numbers(sweep, "--sweep") if sweep else None
    scale = parse_layer_scale(layer_scale)
    blocks = parse_layers(layers)
    if (ks is None) == (swept is None):
        raise typer.BadParameter("give one of --k and --sweep", param_hint="--k")
    if form != "checkpoint" and (dry_run or resume or dtype != "auto" or rounding != "auto"):
        raise typer.BadParameter("--dtype, --rounding, --dry-run and --resume are for checkpoints", param_hint="--as")
    from wsteer.deltas.selection import Selection

    printer = Printer(json, quiet)
    selection = Selection(blocks, include, exclude, scale, variant)
    if form != "checkpoint":
        from wsteer.steering.export import export

        exported = export(
            base,
            deltas,
            ks,
            output,
            form=form,
            sweep=swept,
            selection=selection,
            force=force,
            progress=printer.progress,
        )
        printer.result(exported, export_lines(exported))
        return
    from wsteer.steering.steer import steer as program

    report = program(
        base,
        deltas,
        ks,
        output,
        sweep=swept,
        dtype=dtype,
        rounding=rounding,
        seed=seed,
        selection=selection,
        dry_run=dry_run,
        resume=resume,
        force=force,
        progress=printer.progress,
    )
    printer.result(report, plan_lines(report) if dry_run else result_lines(report))


def result_lines(report: "SteerReport") -> list[str]:
    """What was written: how much changed, one line for each checkpoint's rounding, and the path."""
    lines = [
        f"{report.parameters_changed} of {report.parameters_total} parameters changed, {report.bytes / 1e9:.2f} GB"
    ]
    for each in report.steered:
        gain = f", gain {each.gain:.3f}" if each.gain is not None else ""
        lines.append(f"k {','.join(f'{k:g}' for k in each.k)}: rounded to {each.rounding}{gain} ({each.reason})")
    return [*lines, report.output]


def plan_lines(report: "SteerReport") -> list[str]:
    """What would be written, file by file."""
    rows = [[file.name, f"{file.bytes / 1e6:.1f} MB", str(file.tensors_touched)] for file in report.files]
    return [
        *table(["file", "size", "tensors touched"], rows),
        *result_lines(report)[:-1],
        f"nothing written; without --dry-run: {', '.join(report.outputs)}",
    ]


def export_lines(report: "ExportReport") -> list[str]:
    """What was written instead of a checkpoint, and the path."""
    rank = f" of rank {report.rank}" if report.rank else ""
    count = f"{len(report.outputs)} {report.form}s" if len(report.outputs) > 1 else f"{report.form}"
    return [f"{count}{rank}: {report.parameters} parameters, {report.bytes / 1e6:.1f} MB", report.output]
