"""Projections on activation vectors, with intervals: of data sets' answers, and of shifts by fine-tuning."""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from wsteer.activations.recording import Span, span_means
from wsteer.deltas.bases import check_bases
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import WeightsInput, open_change, open_input
from wsteer.errors import WsteerError
from wsteer.files.opening import check_streams
from wsteer.files.pictures import own_style, save
from wsteer.files.provenance import RECORD, record, recordable, source_entry
from wsteer.files.rows import read_chats
from wsteer.files.saving import check_output, new_folder
from wsteer.files.shapes import Shape
from wsteer.files.text import write_csv, write_json
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel, check_rows, dtype_name
from wsteer.models.rendering import Example, examples
from wsteer.monitoring.items import check_named_once, listed, short_names
from wsteer.monitoring.pictures import panels, small_legend
from wsteer.progress import Progress, labelled, silent
from wsteer.statistics import interval
from wsteer.steering.loading import changed, load
from wsteer.steering.memory import activation_vectors

BATCH_SIZE = 16  # rows that run at once by default


@dataclass(frozen=True)
class Projection:
    """The mean projection of a data set's rows on one vector at one decoder block.

    `model` is None for answers, read by the base, else the tuned model whose shift from the base, at the last token of
    each prompt, was projected. `low` and `high` bound Student's 95% interval of the mean, None for one row.
    """

    model: str | None
    data: str
    delta: str
    block: int
    mean: float
    low: float | None
    high: float | None
    rows: int


@dataclass(frozen=True)
class ProjectionReport:
    """What was written to `output`; projections are on unit vectors, in units of the residual stream."""

    output: str
    projections: tuple[Projection, ...]


@dataclass(frozen=True)
class Direction:
    """The unit vector of one delta at one decoder block."""

    delta: str
    block: int
    unit: Tensor


def project(
    deltas: str | Path | Sequence[str | Path],
    data: str | Path | Sequence[str | Path],
    base: str | Path,
    output: str | Path,
    shift: str | Path | Sequence[str | Path] = (),
    *,
    layers: Sequence[int] | None = None,
    columns: Shape | None = None,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
    progress: Progress = silent,
) -> ProjectionReport:
    """Project the data sets' answers, read by `base`, on activation deltas: ⟨mean over the answer's tokens, v⟩/‖v‖.

    With `shift`, models tuned from `base` (checkpoints, adapters, delta files): also the mean over the data sets'
    prompts of ⟨tuned - base, v⟩/‖v‖ at the prompt's last token. (Persona vectors' projection and finetuning shift,
    arXiv 2507.21509; notes/activations.md A5.) `columns` name where rows have a chat. `template` (a jinja file),
    `template_args` and `date` say how chats become text.
    """
    deltas, data, shift, output = listed(deltas), listed(data), listed(shift), Path(output)
    if not deltas or not data or batch_size < 1:
        raise WsteerError("project needs one delta and one data set or more, and a batch_size from 1 up")
    chat_format = ChatFormat(template, template_args, date)
    check_output(output, force, folder=True, inputs=[*deltas, *data, base, *shift, *chat_format.files])
    for references, role in ((deltas, "DELTA"), (data, "--of"), (shift, "--shift")):
        check_named_once(references, role)
    names = short_names([str(path) for path in deltas])
    loaded_deltas = {name: _activation(path, layers) for name, path in zip(names, deltas, strict=True)}
    check_streams(map(str, data))
    sets = zip(short_names([str(path) for path in data]), data, strict=True)
    chats = {name: read_chats(path, columns) for name, path in sets}
    loaded = load(base, device, dtype, chat_format=chat_format)
    directions = _directions(loaded_deltas, loaded)
    rendered = {name: examples(loaded.chat, rows) for name, rows in chats.items()}
    for rows in rendered.values():
        check_rows(loaded, (example.tokens[: example.answer.stop] for example in rows))
    tuned = {name: _tuned(path, loaded) for name, path in zip(short_names([str(s) for s in shift]), shift, strict=True)}
    inputs = [source_entry("delta", path) for path in deltas]
    inputs += [source_entry("data", path) for path in data]
    inputs += loaded.entries("base")
    inputs += [{"role": "shift", "path": recordable(path)} for path in shift]
    inputs += chat_format.inputs
    with new_folder(output, force) as partial:
        found: list[Projection] = []
        for name, rows in rendered.items():
            spans = [Span.of_answer(row) for row in rows]
            answers = projected(loaded, spans, directions, batch_size, labelled(progress, name))
            found += _summed(None, name, directions, answers)
        found += _shifts(loaded, tuned, rendered, directions, batch_size, progress)
        report = ProjectionReport(str(output), tuple(found))
        write_json(partial / "projections.json", {"projections": [asdict(each) for each in found]})
        fields = list(Projection.__dataclass_fields__)
        write_csv(partial / "projections.csv", fields, (asdict(each) for each in found))
        save(projection_picture(found), partial / "projections.png", svg=True)
        given = {"layers": layers, "columns": columns, "batch_size": batch_size, "dtype": dtype_name(loaded)}
        write_json(partial / RECORD, record("monitor", {**given, **loaded.chat.recorded}, inputs))
    return report


def _activation(path: str | Path, layers: Sequence[int] | None) -> Delta:
    delta = Delta.load(path)
    if delta.kind != "activation":
        raise WsteerError(
            f"{path} is a change of weights; data sets are projected on activation vectors (wsteer actvec)"
        )
    return delta.select_layers(layers)


def _directions(deltas: dict[str, Delta], loaded: LoadedModel) -> list[Direction]:
    text = loaded.model.config.get_text_config()
    found = []
    for delta, parts in deltas.items():
        base = loaded.checkpoint
        check_bases([(delta, parts.base), (f"--base {base.name}", base.identity)], "name the --base it was made on")
        vectors = activation_vectors(parts, text.num_hidden_layers, text.hidden_size)
        for block, vector in sorted(vectors.items()):
            norm = float(vector.double().norm())
            if not 0 < norm < math.inf:
                raise WsteerError(
                    f"{delta}: the vector blocks.{block} is zero or not finite, so that it has no direction"
                )
            found.append(Direction(delta, block, vector.double() / norm))
    return found


def projected(
    loaded: LoadedModel,
    spans: Sequence[Span],
    directions: Sequence[Direction],
    batch_size: int,
    progress: Progress,
) -> Tensor:
    """The mean of the block outputs over each span, along each direction: float64 [spans, directions]."""
    values = torch.empty(len(spans), len(directions), dtype=torch.float64)
    for indices, means in span_means(loaded, spans, batch_size, progress):
        for j, direction in enumerate(directions):
            values[torch.tensor(indices), j] = means[direction.block] @ direction.unit
    return values


def _shifts(
    loaded: LoadedModel,
    tuned: dict[str, str | Delta],
    rendered: dict[str, list[Example]],
    directions: Sequence[Direction],
    batch_size: int,
    progress: Progress,
) -> list[Projection]:
    def at_prompts(model: LoadedModel, label: str) -> dict[str, Tensor]:
        spans = {name: [Span.of_prompt_end(row) for row in rows] for name, rows in rendered.items()}
        return {
            name: projected(model, each, directions, batch_size, labelled(progress, f"{label} {name}"))
            for name, each in spans.items()
        }

    found: list[Projection] = []
    before = at_prompts(loaded, "base") if tuned else {}
    for name, model in tuned.items():
        with _running(model, loaded) as changed:
            after = at_prompts(changed, name)
        for data in rendered:
            found += _summed(name, data, directions, after[data] - before[data])
    return found


def _tuned(reference: str | Path, base: LoadedModel) -> str | Delta:
    """A model tuned from the base: a checkpoint's reference, to be loaded later, or the change of weights."""
    given = open_input(reference, "shift", base.checkpoint)
    if isinstance(given, WeightsInput):
        return str(reference)
    if given.delta.kind == "activation":
        raise WsteerError(f"{reference} is an activation vector, no tuned model; give --shift checkpoints or changes")
    own = base.checkpoint
    check_bases(
        [(str(reference), given.base), (f"--base {own.name}", own.identity)], "name the --base it was tuned from"
    )
    return open_change(reference, "shift", own).delta


@contextlib.contextmanager
def _running(tuned: str | Delta, base: LoadedModel) -> Iterator[LoadedModel]:
    """The tuned model, on the base's device and in its dtype; a change is applied to the base itself."""
    if isinstance(tuned, Delta):
        with changed(base, tuned, 1.0):
            yield base
    else:
        yield load(tuned, base.model.device.type, dtype_name(base))


def _summed(model: str | None, data: str, directions: Sequence[Direction], values: Tensor) -> list[Projection]:
    found = []
    for direction, column in zip(directions, values.T, strict=True):
        mean, reach = float(column.mean()), interval(column)
        low, high = (None, None) if reach is None else (mean - reach, mean + reach)
        found.append(Projection(model, data, direction.delta, direction.block, mean, low, high, len(column)))
    return found


@own_style
def projection_picture(found: Sequence[Projection]) -> Figure:
    """Mean projections by decoder block with intervals: a panel for each delta, and for each delta and tuned model."""
    drawn = list(dict.fromkeys((each.model, each.delta) for each in found))
    figure, panel_axes = panels(len(drawn), width=4.4, height=3.4, margin=0.8)
    for axes, (model, delta) in zip(panel_axes, drawn, strict=True):
        for data in dict.fromkeys(each.data for each in found):
            points = [each for each in found if (each.model, each.delta, each.data) == (model, delta, data)]
            blocks, means = [each.block for each in points], [each.mean for each in points]
            (line,) = axes.plot(blocks, means, marker="o", markersize=3, label=data)
            lows = [each.mean if each.low is None else each.low for each in points]
            highs = [each.mean if each.high is None else each.high for each in points]
            axes.fill_between(blocks, lows, highs, color=line.get_color(), alpha=0.2, linewidth=0)
        axes.axhline(0, color="0.4", linewidth=0.8)
        axes.set_xlabel("decoder block")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylabel(f"projection on {delta}")
        title = "answers" if model is None else f"shift of {model} at the prompts' ends"
        axes.set_title(f"{title} (bands: 95%)", fontsize=10)
        axes.grid(alpha=0.25)
        small_legend(axes)
    return figure
