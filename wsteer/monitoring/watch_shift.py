"""Follow a training run: when a checkpoint appears, its shift's projections are appended to a file and drawn."""

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record, recordable
from wsteer.files.saving import check_output, growing_folder
from wsteer.monitoring.following import (
    LINES,
    Following,
    Incomplete,
    add_line,
    check_followed,
    follow,
    replace_picture,
    replace_table,
    written,
)
from wsteer.monitoring.gates import Failure
from wsteer.monitoring.items import listed, short_names
from wsteer.monitoring.probe import Probe
from wsteer.monitoring.project import Opened, Projecting, opened_probe
from wsteer.monitoring.projection_pictures import projections_by_step
from wsteer.monitoring.projections import Projection, gated, shown_blocks, write_steps
from wsteer.monitoring.trajectories import read_scores
from wsteer.monitoring.tuned import OfAnotherBase, open_step, running
from wsteer.progress import Note, Progress, silent, unsaid

FILES = (RECORD, *written("trajectory"))


@dataclass(frozen=True)
class ShiftReport:
    """What `monitor --watch` saw of a run's shift until it ended; `interrupted` by Ctrl-C."""

    output: str
    projections: tuple[Projection, ...]
    failures: tuple[Failure, ...]
    interrupted: bool
    notes: tuple[str, ...] = ()


def watch_shift(
    deltas: str | Path | Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    base: str | Path,
    run: str | Path,
    output: str | Path,
    settings: Projecting | None = None,
    *,
    until_step: int | None = None,
    interval: float = 10.0,
    force: bool = False,
    note: Note = unsaid,
    progress: Progress = silent,
) -> ShiftReport:
    """Follow the training folder `run`, of a model tuned from `base`, as `watch` does, by projections of its shift.

    The base is loaded and reads the data sets once. Each checkpoint's projections, as `project` gives them, become a
    line of `trajectory.jsonl` in `output`, a call of `note` and points of `trajectory.png`. Raises WsteerError if the
    folder does not exist, or its checkpoints are not of the base.
    """
    settings = settings or Projecting()
    deltas, data, output = listed(deltas), listed(data), Path(output)
    check_followed(run, interval)
    check_output(output, force, folder=True, inputs=[*deltas, *data, base, run, *settings.read])
    scores = read_scores(settings.scores) if settings.scores else None
    opened = opened_probe(deltas, data, base, settings)
    seen = _Seen(opened, opened.probe.started(opened.loaded, progress), short_names([str(run)])[0])
    count = opened.loaded.model.config.get_text_config().num_hidden_layers
    inputs = list(opened.inputs)
    inputs += [{"role": "shift", "path": recordable(run)}]
    with growing_folder(output, force, record("monitor", opened.options, inputs), FILES):
        (output / LINES).touch()

        def add(found: list[Projection]) -> tuple[Failure, ...]:
            _append(output, found)
            note(_line(found))
            return settings.gates.failures(gated(found))

        def draw() -> None:
            replace_picture(output, projections_by_step(seen.projections, count, scores))
            replace_table(output, lambda path: write_steps(path, seen.projections))

        failures, interrupted = follow(Following(Path(run), seen.measure, note), until_step, interval, add, draw)
    return ShiftReport(str(output), tuple(seen.projections), failures, interrupted, opened.notes)


class _Seen:
    """The checkpoints of a run that have been measured."""

    def __init__(self, opened: Opened, probe: Probe, run: str) -> None:
        self.loaded, self.probe, self.run = opened.loaded, probe, run
        self.projections: list[Projection] = []

    def measure(self, step: int, path: Path) -> list[Projection]:
        """The checkpoint's projections."""
        with contextlib.ExitStack() as stack:
            try:
                tuned = open_step(path, self.run, step, self.loaded.checkpoint)
                model = stack.enter_context(running(tuned, self.loaded))
            except OfAnotherBase:
                raise
            except (WsteerError, OSError) as error:
                raise Incomplete(str(error)) from None
            found = self.probe.shifts(model, tuned.name, self.run, step)
        self.projections += found
        return found


def _line(found: Sequence[Projection]) -> str:
    """`step 40: a at block 12 0.31 (0.22 to 0.40)`, of a few blocks and no control; of several data sets with names."""
    shown, several = shown_blocks(found), len({each.data for each in found}) > 1
    parts = []
    for each in found:
        if each.block in shown and not each.control:
            reach = "" if each.low is None else f" ({each.low:.3g} to {each.high:.3g})"
            of = f" of {each.data}" if several else ""
            parts.append(f"{each.delta} at block {each.block}{of} {each.mean:.3g}{reach}")
    return f"step {found[0].step}: {', '.join(parts)}"


def _append(output: Path, found: Sequence[Projection]) -> None:
    left_out = ("model", "run", "step")
    rows = [{name: value for name, value in asdict(each).items() if name not in left_out} for each in found]
    add_line(output, {"step": found[0].step, "projections": rows})
