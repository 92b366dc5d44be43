"""wsteer steer: base + k·delta as a checkpoint."""

from pathlib import Path
from typing import Annotated

from wsteer.cli.options import Config, Force, Json, Quiet, argument, option, parse_numbers
from wsteer.cli.output import Printer


def steer(
    base: Annotated[str, argument("BASE", help="Checkpoint folder or Hub id (org/name[@revision]).")],
    deltas: Annotated[list[Path], argument("DELTA", help="Delta files.")],
    k: Annotated[list[str], option("--k", help="Coefficient: one for all deltas, or one for each.", metavar="K")],
    output: Annotated[
        Path | None, option("--output", "-o", help="Folder to write [default: ./<base>-<delta>-k<K>].", metavar="DIR")
    ] = None,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the checkpoint BASE + k·DELTA.

    Example: wsteer steer base/ w.safetensors --k -1.5
    """
    from wsteer.steering import steer as run

    printer = Printer(json, quiet)
    report = run(base, deltas, parse_numbers(k, "--k"), output, force=force, track=printer.track)
    gain = f", gain {report.gain:.3f}" if report.gain is not None else ""
    lines = [
        f"{report.parameters_changed} of {report.parameters_total} parameters changed, "
        f"{report.bytes / 1e9:.2f} GB, rounded to {report.rounding}{gain}",
        report.output,
    ]
    printer.result(report, lines)
