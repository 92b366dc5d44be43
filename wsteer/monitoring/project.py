"""Projections on activation vectors, with intervals: of data sets' answers, and of shifts by fine-tuning."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wsteer.checkpoints.architecture import read_config
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import checkpoints_in
from wsteer.deltas.model_input import open_model
from wsteer.errors import WsteerError
from wsteer.files.opening import check_streams
from wsteer.files.pictures import save
from wsteer.files.provenance import RECORD, record, recordable, source_entry
from wsteer.files.saving import check_output, new_folder
from wsteer.files.shapes import Shape
from wsteer.files.text import write_json
from wsteer.models.arguments import check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel, dtype_name
from wsteer.monitoring.gates import Failure, Gates
from wsteer.monitoring.items import check_named_once, listed, short_names
from wsteer.monitoring.probe import Chats, Probe, directions, read_rows, spans, vector_of
from wsteer.monitoring.projection_pictures import projection_picture, projections_by_step
from wsteer.monitoring.projections import (
    PROMPT_END,
    ROWS_OF,
    Projection,
    by_step,
    ends,
    gated,
    write_projections,
    write_steps,
)
from wsteer.monitoring.trajectories import Scores, check_beside, read_scores
from wsteer.monitoring.tuned import Tuned, open_tuned, running
from wsteer.progress import Progress, silent
from wsteer.steering.loading import load

BATCH_SIZE = 16  # rows that run at once by default


@dataclass(frozen=True)
class Projecting:
    """How data sets are projected: the options of `wsteer monitor` with data sets, besides its inputs.

    `controls`: activation deltas of no interest, whose projections show what is usual. `positions`: where the shift by
    tuning is measured, prompt-last (the prompts' last token) or response (the mean over the answers' tokens).
    `fail_above` and `fail_below`: bounds of mean projections by `DELTA` (at every measured block) or `DELTA:BLOCK`.
    `columns` name where rows have a chat; `template` (a jinja file), `template_args` and `date` say how chats become
    text.
    """

    controls: Sequence[str | Path] = ()
    layers: Sequence[int] | None = None
    positions: str = PROMPT_END
    scores: Path | None = None
    fail_above: Mapping[str, float] = field(default_factory=dict)
    fail_below: Mapping[str, float] = field(default_factory=dict)
    columns: Shape | None = None
    template: str | Path | None = None
    template_args: Mapping[str, object] | None = None
    date: str | None = None
    batch_size: int = BATCH_SIZE
    device: str = "auto"
    dtype: str = "auto"

    def __post_init__(self) -> None:
        object.__setattr__(self, "controls", listed(self.controls))
        check_run(self.batch_size, self.device, self.dtype)
        if self.positions not in ROWS_OF:
            raise WsteerError(f"positions={self.positions!r}: give one of {', '.join(ROWS_OF)}")
        self.gates.check_bounds()

    @property
    def chat_format(self) -> ChatFormat:
        """How chats become text."""
        return ChatFormat(self.template, self.template_args, self.date)

    @property
    def gates(self) -> Gates:
        """The bounds that projections must keep."""
        return Gates(self.fail_above, self.fail_below)

    @property
    def read(self) -> list[str | Path]:
        """All files that the settings name."""
        return [*self.controls, *([self.scores] if self.scores else ()), *self.chat_format.files]


@dataclass(frozen=True)
class ProjectionReport:
    """What was written to `output`; projections are on unit vectors, in units of the residual stream."""

    output: str
    projections: tuple[Projection, ...]
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Opened:
    """The base, loaded, and what is measured of it and of the models `tuned` from it; `inputs` are a record's."""

    loaded: LoadedModel
    probe: Probe
    tuned: list[Tuned]
    inputs: list[dict[str, object]]
    options: dict[str, object]
    notes: tuple[str, ...]


def project(
    deltas: str | Path | Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    base: str | Path,
    output: str | Path,
    shift: str | Path | Sequence[str | Path] = (),
    settings: Projecting | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> ProjectionReport:
    """Project the data sets' answers, read by `base`, on activation deltas: ⟨mean over the answer's tokens, v⟩/‖v‖.

    With `shift`, models tuned from `base` (checkpoints, adapters, delta files, and training folders, each of whose
    checkpoints is a step): also the mean over the data sets' prompts of ⟨tuned - base, v⟩/‖v‖ at the prompt's last
    token; the rows may then be prompts alone. (Persona vectors' projection and finetuning shift, arXiv 2507.21509;
    notes/activations.md A5.)

    Raises WsteerError for vectors or models that are not of the base, and for gates that bound nothing.
    """
    settings = settings or Projecting()
    deltas, data, shift, output = listed(deltas), listed(data), listed(shift), Path(output)
    check_output(output, force, folder=True, inputs=[*deltas, *data, base, *shift, *settings.read])
    check_named_once(shift, "--shift")
    scores = read_scores(settings.scores) if settings.scores else None
    check_beside(scores, any(map(checkpoints_in, shift)), "--shift")
    opened = opened_probe(deltas, data, base, settings, shift, answers_needed=not shift)
    loaded, probe, models = opened.loaded, opened.probe, opened.tuned
    inputs = list(opened.inputs)
    inputs += [{"role": "shift", "path": recordable(path)} for path in shift]
    with new_folder(output, force) as partial:
        probe = probe.started(loaded, progress) if models else probe
        found = probe.answers(loaded, progress)
        for each in models:
            with running(each, loaded) as model:
                found += probe.shifts(model, each.name, each.run, each.step, progress)
        failures = settings.gates.failures(gated(found))
        report = ProjectionReport(str(output), tuple(found), failures, opened.notes)
        _write(partial, report, scores, loaded)
        write_json(partial / RECORD, record("monitor", opened.options, inputs))
    return report


def opened_probe(
    deltas: Sequence[str | Path],
    data: Sequence[str | Path],
    base: str | Path,
    settings: Projecting,
    shift: Sequence[str | Path] = (),
    answers_needed: bool = False,
) -> Opened:
    """Read vectors and rows, open the models of `shift`, then load the base and check that all fit it.

    The base's readings are still to be made. If answers are not needed, they still are for a shift at the answers.
    """
    if not deltas or not data:
        raise WsteerError("projections need one activation delta and one data set or more")
    check_named_once([*deltas, *settings.controls], "DELTA and --controls")
    check_named_once(data, "--of")
    names = short_names([str(path) for path in [*deltas, *settings.controls]])
    vectors = {
        name: vector_of(path, Delta.load(path), settings.layers)
        for name, path in zip(names, [*deltas, *settings.controls], strict=True)
    }
    own = names[: len(deltas)]
    _check_gates(settings.gates, {name: vectors[name] for name in own})
    check_streams(map(str, data))
    answers_needed = answers_needed or settings.positions != PROMPT_END
    chats = {
        name: read_rows(path, settings.columns, answers_needed)
        for name, path in zip(short_names([str(path) for path in data]), data, strict=True)
    }
    given = open_model(base)
    tuned = open_tuned(shift, given.checkpoint)
    text = read_config(given.checkpoint).get_text_config()
    sizes = text.num_hidden_layers, text.hidden_size
    along = [
        each
        for name, vector in vectors.items()
        for each in directions(name, vector, given.checkpoint, sizes, control=name not in own)
    ]
    loaded = load(given, settings.device, settings.dtype, chat_format=settings.chat_format)
    rendered = {name: spans(loaded, rows) for name, rows in chats.items()}
    inputs = [source_entry("delta", path) for path in deltas]
    inputs += [source_entry("control", path) for path in settings.controls]
    inputs += [source_entry("data", path) for path in data]
    inputs += [*loaded.entries("base"), *settings.chat_format.inputs]
    options = {
        **{name: getattr(settings, name) for name in ("layers", "columns", "batch_size", "positions")},
        **{name: dict(bounds) for name in ("fail_above", "fail_below") if (bounds := getattr(settings, name))},
        "dtype": dtype_name(loaded),
        **loaded.chat.recorded,
    }
    return Opened(
        loaded, Probe(along, rendered, settings.positions, settings.batch_size), tuned, inputs, options, _notes(chats)
    )


def _check_gates(gates: Gates, vectors: Mapping[str, Delta]) -> None:
    """Refuse a gate on a vector, or on a block of it, that is not measured."""
    blocks = {name: [part.rpartition(".")[2] for part in vector.terms] for name, vector in vectors.items()}
    gates.check_names(list(vectors), {block for each in blocks.values() for block in each})
    for gate in (*gates.above, *gates.below):
        name, _, block = gate.rpartition(":")
        if gate not in vectors and block not in blocks[name]:
            raise WsteerError(f"the gate {gate!r}: {name} has no vector of block {block} that is measured")


def _notes(chats: Mapping[str, Chats]) -> tuple[str, ...]:
    return tuple(
        f"{name} has rows without answers, so that only what tuning shifts at its prompts' ends is measured"
        for name, each in chats.items()
        if not each.answered
    )


def _write(folder: Path, report: ProjectionReport, scores: Scores | None, loaded: LoadedModel) -> None:
    fields = {name: value for name, value in asdict(report).items() if name != "output"}
    write_json(folder / "projections.json", fields)
    write_projections(folder / "projections.csv", report.projections)
    save(projection_picture(ends(report.projections)), folder / "projections.png", svg=True)
    if steps := by_step(report.projections):
        write_steps(folder / "trajectory.csv", steps)
        count = loaded.model.config.get_text_config().num_hidden_layers
        save(projections_by_step(steps, count, scores), folder / "trajectory.png", svg=True)
