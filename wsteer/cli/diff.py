"""wsteer diff: POS - NEG as a delta file."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import Config, Force, Json, Quiet, argument, option
from wsteer.cli.output import Printer


def diff(
    pos: Annotated[str, argument("POS", help="LoRA adapter folder, checkpoint folder, delta file or Hub id.")],
    output: Annotated[Path, option("--output", "-o", help="Delta file to write.", metavar="FILE")],
    neg: Annotated[str | None, argument("NEG", help="The same; without it, POS's task vector is written.")] = None,
    base: Annotated[
        str | None, option("--base", help="Model that a checkpoint was fine-tuned from.", metavar="BASE")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the weight delta POS - NEG, or the task vector of POS alone.

    Example: wsteer diff pos/ neg/ -o w.safetensors
    """
    from wsteer.differencing import diff as run

    printer = Printer(json, quiet)
    report = run(pos, neg, output, base=base, force=force, track=printer.track)
    rank = f", rank {report.rank}" if report.rank else ""
    lines = [
        f"{report.kind} delta of {report.parameters} parameters: "
        f"{report.low_rank} low-rank{rank}, {report.dense} dense, {report.bytes / 1e6:.1f} MB",
        f"norm {report.norm:.4g}",
    ]
    if report.norm_neg is not None:
        lines[1] += f", of pos {report.norm_pos:.4g}, of neg {report.norm_neg:.4g}"
    if report.cos_pos_neg is not None:
        lines[1] += f", cosine of pos and neg {report.cos_pos_neg:.3f}"
    printer.result(report, [*lines, report.output])
