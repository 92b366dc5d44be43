"""wsteer diff: POS - NEG as a delta file."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from wsteer.cli.options import Config, Exclude, FollowLinks, Force, Include, Json, Layers, Quiet, argument, option
from wsteer.cli.output import Printer, table
from wsteer.cli.values import MOST, parse_layers

if TYPE_CHECKING:
    from wsteer.deltas.diff import DiffReport

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
  energy it keeps. --layers, --include and --exclude take a part; the last
  two are regexes on parameter names. What is left out need not fit.
Report: energy is the share of the squared norm, by module and by layer;
  --json has it for every layer. A warning says if a pair of 16-bit
  checkpoints cannot resolve the delta.
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
    from wsteer.deltas.diff import diff as program
    from wsteer.deltas.selection import Selection

    printer = Printer(json, quiet)
    selection = Selection(blocks, include, exclude)
    report = program(
        pos, neg, output, base=base, rank=rank, selection=selection, force=force, progress=printer.progress
    )
    printer.result(report, result_lines(report))


def result_lines(report: "DiffReport") -> list[str]:
    """What was written, its norms, the energy by module and layer, and the path."""
    rank = f", rank {report.rank}" if report.rank else ""
    lines = [
        f"{report.kind} delta of {report.parameters} parameters: "
        f"{report.low_rank} low-rank{rank}, {report.dense} dense, {report.bytes / 1e6:.1f} MB",
        f"norm {report.norm:.4g}",
    ]
    if report.norm_neg is not None:
        lines[1] += f", of pos {report.norm_pos:.4g}, of neg {report.norm_neg:.4g}"
    if report.norm_ratio is not None:
        lines[1] += f" (ratio {report.norm_ratio:.3g})"
    if report.cos_pos_neg is not None:
        lines[1] += f", cosine of pos and neg {report.cos_pos_neg:.3f}"
    if report.seeds:
        lines.append(f"mean of the seeds {', '.join(map(str, report.seeds))}; {_seed_cosines(report)}")
    if report.retained is not None:
        lines.append(f"rank {report.rank} keeps {report.retained:.2%} of the energy")
    if report.pos_only or report.neg_only:
        lines.append(f"changed on one side only: {report.pos_only} by pos, {report.neg_only} by neg")
    if report.untied:
        lines.append("the embedding and the head, tied in the base, change separately: steering unties them")
    if report.below_half_ulp:
        lines.append(f"{report.below_half_ulp:.1%} of the entries differ by less than half an ulp of the checkpoints")
    return [*lines, "", *energy_table(report), "", report.output]


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
