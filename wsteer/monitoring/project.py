"""Projections on activation vectors: of the answers of data sets, and of what fine-tuning shifts, with intervals."""

import contextlib
import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from wsteer.activations.recording import recorded
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import layer_of
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import open_side
from wsteer.errors import WsteerError
from wsteer.files.pictures import save
from wsteer.files.provenance import RECORD, record, recordable, source_entry
from wsteer.files.rows import read_chats
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json
from wsteer.models.batches import batches, padded
from wsteer.models.loading import LoadedModel, check_lengths, load
from wsteer.models.rendering import Example, render
from wsteer.monitoring.items import open_item, short_names
from wsteer.monitoring.pictures import PANELS
from wsteer.progress import Track, labelled, silent
from wsteer.statistics import interval
from wsteer.steering.memory import activation_vectors, applied


@dataclass(frozen=True)
class Projection:
    """The projections of a data set's rows on one vector at one decoder block, summed up.

    `model` is None for the answers as the base reads them, else the tuned model whose shift from the base, at the last
    token of each prompt, was projected. `low` and `high` bound Student's 95% interval of the mean, None for one row.
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
    """What was written to `output`; projections are in units of the residual stream, along the unit vector."""

    output: str
    projections: tuple[Projection, ...]


@dataclass(frozen=True)
class Direction:
    """The unit vector of one delta at one decoder block."""

    delta: str
    block: int
    unit: Tensor


def project(
    deltas: Sequence[str | Path],
    data: Sequence[str | Path],
    base: str | Path,
    output: str | Path,
    shift: Sequence[str | Path] = (),
    *,
    layers: Sequence[int] | None = None,
    batch_size: int = 16,
    device: str = "auto",
    dtype: str = "auto",
    force: bool = False,
    track: Track = silent,
) -> ProjectionReport:
    """Project the data sets' answers, read by `base`, on activation deltas: ⟨mean over the answer's tokens, v⟩/‖v‖.

    With `shift`, models tuned from `base` (checkpoints, adapters, delta files): also the mean over the data sets'
    prompts of ⟨tuned - base, v⟩/‖v‖ at the prompt's last token. (Persona vectors' projection and finetuning shift,
    arXiv 2507.21509; notes/activations.md A5.)
    """
    output = Path(output)
    check_output(output, force, folder=True, inputs=[*deltas, *data, base, *shift])
    names = short_names([str(path) for path in deltas])
    loaded_deltas = {name: _activation(path, layers) for name, path in zip(names, deltas, strict=True)}
    chats = {name: read_chats(path) for name, path in zip(_data_names(data), data, strict=True)}
    loaded = load(base, device, dtype)
    directions = _directions(loaded_deltas, loaded)
    examples = {name: [render(loaded.tokenizer, chat) for chat in rows] for name, rows in chats.items()}
    for rows in examples.values():
        check_lengths(loaded, (example.answer.stop for example in rows))
    tuned = {name: _Tuned(path, loaded) for name, path in zip(short_names([str(s) for s in shift]), shift, strict=True)}
    inputs = [source_entry("delta", path) for path in deltas] + [source_entry("data", path) for path in data]
    inputs += [
        {"role": "base", **loaded.checkpoint.identity},
        *({"role": "shift", "path": recordable(s)} for s in shift),
    ]
    with new_folder(output, force) as partial:
        found: list[Projection] = []
        for name, rows in examples.items():
            answers = projected(loaded, rows, directions, _answer, batch_size, labelled(track, name))
            found += _summed(None, name, directions, answers)
        found += _shifts(loaded, tuned, examples, directions, batch_size, track)
        report = ProjectionReport(str(output), tuple(found))
        write_json(partial / "projections.json", {"projections": [asdict(each) for each in found]})
        _write_csv(partial / "projections.csv", found)
        save(projection_picture(found), partial / "projections.png")
        write_json(partial / RECORD, record("monitor", {"layers": layers, "batch_size": batch_size}, inputs))
    return report


def _activation(path: str | Path, layers: Sequence[int] | None) -> Delta:
    delta = Delta.load(path)
    if delta.kind != "activation":
        raise WsteerError(
            f"{path} is a change of weights; data sets are projected on activation vectors (wsteer actvec)"
        )
    return delta.select_layers(layers)


def _data_names(data: Sequence[str | Path]) -> list[str]:
    return short_names([str(path).removesuffix(".jsonl") for path in data])


def _directions(deltas: dict[str, Delta], loaded: LoadedModel) -> list[Direction]:
    text = loaded.model.config.get_text_config()
    found = []
    for delta, parts in deltas.items():
        fingerprint = parts.base.get("fingerprint")
        if fingerprint not in (None, loaded.checkpoint.fingerprint):
            raise WsteerError(
                f"{delta} was made on {parts.base['name']}, not on {loaded.checkpoint.name}; name its own --base"
            )
        vectors = activation_vectors(parts, text.num_hidden_layers, text.hidden_size)
        for name, vector in sorted(vectors.items(), key=lambda named: layer_of(named[0])):
            norm = float(vector.double().norm())
            if not 0 < norm < math.inf:
                raise WsteerError(f"{delta}: the vector {name} is zero or not finite, so that it has no direction")
            found.append(Direction(delta, layer_of(name), vector.double() / norm))
    return found


def _answer(example: Example) -> tuple[Tensor, int, int]:
    """The tokens to read and the span whose mean counts: that of the answer."""
    return example.tokens[: example.answer.stop], example.answer.start, example.answer.stop


def _prompt_end(example: Example) -> tuple[Tensor, int, int]:
    """The prompt, of which the last token counts: what the answer's first is predicted from."""
    return example.tokens[: example.answer.start], example.answer.start - 1, example.answer.start


def projected(
    loaded: LoadedModel,
    examples: Sequence[Example],
    directions: Sequence[Direction],
    span,
    batch_size: int,
    track: Track,
) -> Tensor:
    """The mean of each row's block outputs over a span of tokens, along each direction: float64 [rows, directions]."""
    spans = [span(example) for example in examples]
    values = torch.empty(len(spans), len(directions), dtype=torch.float64)
    for indices in track(list(batches([len(tokens) for tokens, _, _ in spans], batch_size)), "record"):
        ids, mask = padded([spans[index][0] for index in indices], loaded.tokenizer.pad_token_id)
        weights = torch.zeros(ids.shape, dtype=torch.float64)
        for row, index in enumerate(indices):
            _, start, stop = spans[index]
            weights[row, start:stop] = 1 / (stop - start)
        device = loaded.model.device
        with recorded(loaded.model, weights) as means, torch.inference_mode():
            loaded.model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
        for j, direction in enumerate(directions):
            values[torch.tensor(indices), j] = means[direction.block] @ direction.unit
    return values


def _shifts(
    loaded: LoadedModel,
    tuned: dict[str, "_Tuned"],
    examples: dict[str, list[Example]],
    directions: Sequence[Direction],
    batch_size: int,
    track: Track,
) -> list[Projection]:
    def at_prompts(model: LoadedModel, label: str) -> dict[str, Tensor]:
        return {
            name: projected(model, rows, directions, _prompt_end, batch_size, labelled(track, f"{label} {name}"))
            for name, rows in examples.items()
        }

    found: list[Projection] = []
    before = at_prompts(loaded, "base") if tuned else {}
    for name, model in tuned.items():
        with model.loaded() as changed:
            after = at_prompts(changed, name)
        for data in examples:
            found += _summed(name, data, directions, after[data] - before[data])
    return found


class _Tuned:
    """A model tuned from the base: a checkpoint, loaded when it is its turn, or a change, applied to the base."""

    def __init__(self, reference: str | Path, base: LoadedModel) -> None:
        self.reference, self.base = reference, base
        side = open_side(reference, "shift", base.checkpoint)
        self.checkpoint: Checkpoint | None = side.checkpoint
        if side.delta is not None:
            self.delta = open_item(str(reference), side.path, "shift", base.checkpoint).delta

    @contextlib.contextmanager
    def loaded(self) -> Iterator[LoadedModel]:
        """The tuned model, on the base's device and in its dtype."""
        if self.checkpoint is not None:
            dtype = str(self.base.model.dtype).removeprefix("torch.")
            yield load(self.reference, self.base.model.device.type, dtype)
        else:
            with applied(self.base.model, self.delta, 1.0, self.base.checkpoint):
                yield self.base


def _summed(model: str | None, data: str, directions: Sequence[Direction], values: Tensor) -> list[Projection]:
    found = []
    for direction, column in zip(directions, values.T, strict=True):
        mean, reach = float(column.mean()), interval(column)
        low, high = (None, None) if reach is None else (mean - reach, mean + reach)
        found.append(Projection(model, data, direction.delta, direction.block, mean, low, high, len(column)))
    return found


def _write_csv(path: Path, found: Sequence[Projection]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Projection.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(each) for each in found)


def projection_picture(found: Sequence["Projection"]) -> Figure:
    """Mean projections by decoder block with their intervals: a panel a delta, and one a delta and tuned model."""
    panels = list(dict.fromkeys((each.model, each.delta) for each in found))
    across = min(PANELS, len(panels))
    down = -(-len(panels) // across)
    figure = Figure(figsize=(0.8 + 4.4 * across, 0.6 + 3.4 * down), layout="constrained")
    for axes, (model, delta) in zip(figure.subplots(down, across, squeeze=False).flatten(), panels, strict=False):
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
        axes.set_ylabel(f"projection on {delta}", parse_math=False)
        title = "answers" if model is None else f"shift of {model} at the prompts' ends"
        axes.set_title(f"{title} (bands: 95%)", fontsize=10, parse_math=False)
        axes.grid(alpha=0.25)
        for text in axes.legend(fontsize=8, framealpha=0.8, edgecolor="none").get_texts():
            text.set_parse_math(False)
    for axes in figure.axes[len(panels) :]:
        axes.set_visible(False)
    return figure
