"""What is measured of each model: rows of data sets, read at fixed tokens, along activation vectors."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from wsteer.activations.recording import Span, span_means
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.bases import check_bases
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.rows import Message, read_chats, read_prompts
from wsteer.files.shapes import Shape
from wsteer.models.loading import LoadedModel, check_rows
from wsteer.models.rendering import examples, prompts
from wsteer.monitoring.projections import PROMPT_END, RESPONSE, Projection
from wsteer.progress import Progress, labelled, silent
from wsteer.statistics import interval
from wsteer.steering.memory import activation_vectors


@dataclass(frozen=True)
class Direction:
    """The unit vector of one delta at one decoder block, and the vector's norm; whether it is a control's."""

    delta: str
    block: int
    unit: Tensor
    norm: float
    control: bool = False


@dataclass(frozen=True)
class Reading:
    """How a model reads spans of tokens: along each direction, and the mean of each block's output over the spans.

    `along` is float64 [spans, directions], `mean` float64 [blocks, hidden].
    """

    along: Tensor
    mean: Tensor


@dataclass(frozen=True)
class Chats:
    """A data set's chats; `answered`: they end in answers, else in what is asked."""

    rows: list[list[Message]]
    answered: bool


@dataclass(frozen=True)
class Spans:
    """A data set's rows as tokens: the answers (None of prompts alone), and the ends of the prompts."""

    answers: list[Span] | None
    prompts: list[Span]

    def at(self, positions: str) -> list[Span]:
        """Those at which a shift is measured."""
        return self.prompts if positions == PROMPT_END else self.answers or []


@dataclass(frozen=True)
class Probe:
    """What is measured of each model. `base` is how the base reads the rows at `positions`, once `started`."""

    directions: Sequence[Direction]
    data: Mapping[str, Spans]
    positions: str
    batch_size: int
    base: Mapping[str, Reading] = field(default_factory=dict)

    def started(self, loaded: LoadedModel, progress: Progress = silent) -> "Probe":
        """The probe with the base's readings, from which shifts are measured."""
        return replace(self, base=self._readings(loaded, "base", progress))

    def answers(self, loaded: LoadedModel, progress: Progress = silent) -> list[Projection]:
        """The projections of the answers as the base reads them; prompts alone have none."""
        found: list[Projection] = []
        for name, each in self.data.items():
            if each.answers is not None:
                known = self.base.get(name) if self.positions == RESPONSE else None
                reading = known or self._reading(loaded, each.answers, labelled(progress, name))
                for direction, column in zip(self.directions, reading.along.T, strict=True):
                    found.append(_summed(None, name, direction, column, RESPONSE))
        return found

    def shifts(
        self,
        loaded: LoadedModel,
        model: str,
        run: str | None = None,
        step: int | None = None,
        progress: Progress = silent,
    ) -> list[Projection]:
        """The projections of a tuned model's shift from the base: row by row, tuned minus base."""
        found: list[Projection] = []
        for name, after in self._readings(loaded, model, progress).items():
            before = self.base[name]
            noise = (after.mean - before.mean).norm(dim=1) / math.sqrt(after.mean.shape[1])
            for direction, column in zip(self.directions, (after.along - before.along).T, strict=True):
                each = _summed(model, name, direction, column, self.positions)
                found.append(replace(each, run=run, step=step, noise=float(noise[direction.block])))
        return found

    def _readings(self, loaded: LoadedModel, label: str, progress: Progress) -> dict[str, Reading]:
        return {
            name: self._reading(loaded, each.at(self.positions), labelled(progress, f"{label}, {name}:"))
            for name, each in self.data.items()
        }

    def _reading(self, loaded: LoadedModel, spans: Sequence[Span], progress: Progress) -> Reading:
        along = torch.empty(len(spans), len(self.directions), dtype=torch.float64)
        total = torch.zeros((), dtype=torch.float64)
        for indices, means in span_means(loaded, spans, self.batch_size, progress):
            rows = torch.tensor(indices)
            for j, direction in enumerate(self.directions):
                along[rows, j] = means[direction.block] @ direction.unit
            total = total + means.sum(dim=1)
        return Reading(along, total / len(spans))


def _summed(model: str | None, data: str, direction: Direction, values: Tensor, positions: str) -> Projection:
    mean, reach = float(values.mean()), interval(values)
    low, high = (None, None) if reach is None else (mean - reach, mean + reach)
    return Projection(
        model,
        data,
        direction.delta,
        direction.block,
        mean,
        low,
        high,
        len(values),
        positions,
        direction.norm,
        control=direction.control,
    )


def vector_of(name: str | Path, delta: Delta, layers: Sequence[int] | None) -> Delta:
    """An activation delta at these decoder blocks; `name` is what an error calls it."""
    if delta.kind != "activation":
        raise WsteerError(
            f"{name} is a change of weights; data sets are projected on activation vectors (wsteer actvec)"
        )
    return delta.select_layers(layers)


def directions(
    name: str, delta: Delta, base: Checkpoint, sizes: tuple[int, int], control: bool = False
) -> list[Direction]:
    """An activation delta's directions, by block, for a model of these `sizes`: blocks, and dimensions.

    Raises WsteerError if it is of another model, or a vector is zero.
    """
    check_bases([(name, delta.base), (f"the base {base.name}", base.identity)], "name the base it was made on")
    found = []
    for block, vector in sorted(activation_vectors(delta, *sizes).items()):
        norm = float(vector.double().norm())
        if not 0 < norm < math.inf:
            raise WsteerError(f"{name}: the vector blocks.{block} is zero or not finite, so that it has no direction")
        found.append(Direction(name, block, vector.double() / norm, norm, control))
    return found


def read_rows(source: str | Path, columns: Shape | None, answers_needed: bool) -> Chats:
    """The chats of a data set. If its answers are not needed, the rows of a file may be prompts alone."""
    try:
        return Chats(read_chats(source, columns), True)
    except WsteerError:
        if answers_needed or not Path(source).is_file():  # a pipe cannot be read again
            raise
        return Chats([chat for _, chat in read_prompts(source, columns)], False)


def spans(loaded: LoadedModel, chats: Chats) -> Spans:
    """The chats rendered by the model's template, and checked to fit the model."""
    if chats.answered:
        rows = examples(loaded.chat, chats.rows)
        found = Spans([Span.of_answer(row) for row in rows], [Span.of_prompt_end(row) for row in rows])
    else:
        tokens = [torch.tensor(ids, dtype=torch.int32) for ids in prompts(loaded.chat, chats.rows)]
        found = Spans(None, [Span(ids, len(ids) - 1, len(ids)) for ids in tokens])
    check_rows(loaded, (span.tokens for span in found.answers or found.prompts))
    return found
