"""wsteer diff: POS - NEG as a delta file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsteer.cli.options import Config, Exclude, FollowLinks, Force, Include, Json, Layers, Quiet, argument, option
from wsteer.cli.output import Printer, table
from wsteer.cli.values import MOST, parse_layers

if TYPE_CHECKING:
    from wsteer.deltas.diff import DiffReport
    from wsteer.deltas.spectrum import SpectrumReport

SHOWN_LAYERS = 8  # rows of the table of layers; more are shown as ranges


EPILOG = """
Inputs: the difference of two LoRA adapters is taken from their factors,
  exactly and without the base: never from merged 16-bit checkpoints, where
  rounding hides a small change. The difference of two checkpoints is dense.
  POS alone gives its task vector; a checkpoint then needs --base, and so do
  adapters whose change depends on the base's weights (DoRA, PiSSA, trained
  modules), unless their own base is on this machine. Other kinds of PEFT
  adapters are read by peft's own layers. An input that cannot be read
  exactly is refused, with the reason.
Seeds: from two folders that wsteer finetune wrote for several seeds, one
  delta per seed is taken; their mean is written, and the cosines between
  them are reported.
Part: --rank writes the closest delta of that rank and says how much of the
  energy it keeps; with --complement what that leaves is written, so that
  both add up to the delta. --layers, --include and --exclude take a part
  before; the last two are regexes on parameter names. What is left out need
  not fit.
Bisector: sides of unequal length are divided by their norms first, over
  what is selected; a k of the plain delta is then about k times the mean of
  both norms. Two checkpoints need --base for it.
Report: energy is the share of the squared norm, by module and by layer;
  --json has it for every layer. Where both sides' task vectors are known,
  the shared drift is (pos + neg)/2, and its ratio that to (pos - neg)/2;
  --json also has cos_opposite, minus the cosine of both. Warnings say if a
  pair of 16-bit checkpoints cannot resolve the delta, and if the records of
  the sides differ in more than the data.
Spectrum: --spectrum is of what is written, after all other options. Its
  folder gets spectrum.csv (each singular value), matrices.csv (each matrix:
  rank, stable rank, Marchenko-Pastur edge of noise of the same norm, values
  above it) and a picture. For LoRA, above_random_b counts those above the
  edge of a random B on the A as it is. Dense deltas take longer: half a
  minute on a core for a matrix of 4096 x 14336. Stacked experts count one
  by one; vectors have none.
"""


def diff(
    pos: Annotated[str, argument("POS", help="PEFT adapter folder, checkpoint folder, delta file or Hub id.")],
    output: Annotated[Path, option("--output", "-o", help="Delta file to write.", metavar="FILE")],
    neg: Annotated[str | None, argument("NEG", help="The same; without it, POS's task vector is written.")] = None,
    base: Annotated[
        str | None, option("--base", help="Model that POS and NEG were fine-tuned from.", metavar="BASE")
    ] = None,
    rank: Annotated[
        int | None, option("--rank", help="Write the closest delta of this rank.", min=1, max=MOST, metavar="R")
    ] = None,
    complement: Annotated[
        bool, option("--complement", help="Write what the closest delta of --rank R leaves instead.")
    ] = False,
    bisector: Annotated[
        bool, option("--bisector", help="Divide POS's and NEG's task vectors by their norms first.")
    ] = False,
    spectrum: Annotated[
        Path | None,
        option("--spectrum", help="New folder for the singular values of what is written.", metavar="DIR"),
    ] = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    follow_links: FollowLinks = False,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the weight delta POS - NEG, or the task vector of POS alone.

    Example: wsteer diff pos/ neg/ -o w.safetensors
    """
    blocks = parse_layers(layers)
    if complement and rank is None:
        raise typer.BadParameter(
            "it is what the closest delta of a rank leaves; give --rank", param_hint="--complement"
        )
    if bisector and neg is None:
        raise typer.BadParameter("two sides are needed; give NEG", param_hint="--bisector")
    from wsteer.deltas.diff import diff as program
    from wsteer.deltas.selection import Selection

    printer = Printer(json, quiet)
    selection = Selection(blocks, include, exclude)
    report = program(
        pos,
        neg,
        output,
        base=base,
        rank=rank,
        complement=complement,
        bisector=bisector,
        spectrum=spectrum,
        selection=selection,
        force=force,
        progress=printer.progress,
    )
    printer.result(report, result_lines(report))


def result_lines(report: "DiffReport") -> list[str]:
    """What was written, its norms, the energy by module and layer, and the path."""
    rank = f", rank {report.rank}" if report.rank else ""
    lines = [
        f"{report.kind} delta of {report.parameters} parameters: "
        f"{report.low_rank} low-rank{rank}, {report.dense} dense, {report.bytes / 1e6:.1f} MB",
        _norms(report),
        *_sides(report),
    ]
    if report.retained is not None:
        left = report.complement_of is not None
        what = f"what rank {report.complement_of} leaves has" if left else f"rank {report.rank} keeps"
        lines.append(f"{what} {report.retained:.2%} of the energy")
    if report.pos_only or report.neg_only:
        lines.append(f"changed on one side only: {report.pos_only} by pos, {report.neg_only} by neg")
    if report.untied:
        lines.append("the embedding and the head, tied in the base, change separately: steering unties them")
    if report.below_half_ulp:
        lines.append(f"{report.below_half_ulp:.1%} of the entries differ by less than half an ulp of the checkpoints")
    lines += ["", *energy_table(report), ""]
    if report.spectrum is not None:
        lines += [*spectrum_table(report.spectrum), "", report.spectrum.output]
    return [*lines, report.output]


def _norms(report: "DiffReport") -> str:
    line = f"norm {report.norm:.4g}"
    if report.norm_neg is not None:
        line += f", of pos {report.norm_pos:.4g}, of neg {report.norm_neg:.4g}"
    if report.norm_ratio is not None:
        line += f" (ratio {report.norm_ratio:.3g})"
    if report.cos_pos_neg is not None:
        line += f", cosine of pos and neg {report.cos_pos_neg:.3f}"
    return line


def _sides(report: "DiffReport") -> list[str]:
    """What both sides did alike, and how they and the seeds were put together."""
    lines = []
    if report.norm_drift is not None:
        lines.append(_shared_drift(report))
    if report.bisector:
        lines.append(_bisector(report))
    if report.seeds:
        lines.append(f"mean of the seeds {', '.join(map(str, report.seeds))}; {_seed_cosines(report)}")
    return lines


def _shared_drift(report: "DiffReport") -> str:
    """What both sides did alike, beside what sets them apart."""
    line = f"shared drift {report.norm_drift:.4g}"
    if report.drift_ratio is not None:
        line += f", {report.drift_ratio:.3g} times half the difference"
    if report.cos_drift is not None:
        line += f", cosine with the delta {report.cos_drift:.3f}"
    return line


def _bisector(report: "DiffReport") -> str:
    mean = ((report.norm_pos or 0) + (report.norm_neg or 0)) / 2
    return f"bisector: k = 1 of the plain difference is about k = {mean:.4g} of this one"


def spectrum_table(spectrum: "SpectrumReport") -> list[str]:
    """Medians over the matrices of each kind of module."""
    header = ["module", "matrices", "rank", "stable rank", "above edge"]
    random_b = any(each.above_random_b is not None for each in spectrum.modules.values())
    rows = [
        [
            *(kind, str(each.matrices), f"{each.rank:g}", f"{each.stable_rank:.2f}", f"{each.above:g}"),
            *([] if not random_b else ["" if each.above_random_b is None else f"{each.above_random_b:g}"]),
        ]
        for kind, each in spectrum.modules.items()
    ]
    return table([*header, *(["above random B"] if random_b else [])], rows)


def _seed_cosines(report: "DiffReport") -> str:
    """The cosine between two seeds' deltas, or the range over all pairs of more seeds."""
    pairs = [cosine for i, row in enumerate(report.cos_seeds) for cosine in row[:i]]
    if len(pairs) == 1:
        return f"cosine between them {pairs[0]:.3f}"
    return f"cosines between them {min(pairs):.3f} to {max(pairs):.3f}"


def energy_table(report: "DiffReport") -> list[str]:
    """The shares of the squared norm by module type and, beside them, by layer."""
    modules = sorted(report.modules.items(), key=lambda item: -item[1])
    layers = grouped_layers(report.layers)
    height = max(len(modules), len(layers))
    rows = [[*_cells(modules, row), *_cells(layers, row)] for row in range(height)]
    return table(["module", "energy", "   layer", "energy"], rows)


def _cells(shares: list[tuple[str, float]], row: int) -> list[str]:
    return [shares[row][0], f"{shares[row][1]:.1%}"] if row < len(shares) else ["", ""]


def grouped_layers(layers: dict[str, float]) -> list[tuple[str, float]]:
    """Shares by layer, neighbours grouped if there are many: (`0-3`, 0.12)."""
    numbered = [int(layer) for layer in layers if layer.isdigit()]
    size = -(-len(numbered) // SHOWN_LAYERS) or 1
    groups = [numbered[start : start + size] for start in range(0, len(numbered), size)]
    shares = [
        (f"{group[0]}-{group[-1]}" if len(group) > 1 else str(group[0]), sum(layers[str(layer)] for layer in group))
        for group in groups
    ]
    return shares + [(layer, share) for layer, share in layers.items() if not layer.isdigit()]
