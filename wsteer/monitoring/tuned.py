"""Models tuned from a base, opened from their headers and run one at a time: changes of it, checkpoints, runs."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wsteer.checkpoints.architecture import read_config
from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.deltas.bases import check_bases
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import WeightsInput, open_change, open_input, seed_folders
from wsteer.errors import WsteerError
from wsteer.models.loading import LoadedModel, dtype_name, load_weights
from wsteer.monitoring.items import members, short_names, step_name
from wsteer.steering.loading import changed


class OfAnotherBase(WsteerError):
    """What was named was not tuned from the base; no waiting mends that."""


@dataclass(frozen=True)
class Tuned:
    """A model tuned from a base: its change, to be added to the base, or a checkpoint, to be loaded.

    A checkpoint of a training run has its `run` and `step`; the run's final result has the run alone.
    """

    name: str
    weights: Delta | Checkpoint
    run: str | None = None
    step: int | None = None


def open_tuned(references: Sequence[str | Path], base: Checkpoint) -> list[Tuned]:
    """The tuned models that the references name; of a training folder each checkpoint by step, then its result."""
    found: list[Tuned] = []
    for reference, label in zip(references, short_names([str(each) for each in references]), strict=True):
        for path, name, run, step in members(str(reference), label):
            found.append(Tuned(name, open_weights(path, base), run, step))
    return found


def open_step(path: Path, run: str, step: int, base: Checkpoint) -> Tuned:
    """One checkpoint of a training run."""
    return Tuned(step_name(run, path), open_weights(path, base), run, step)


def open_weights(reference: str | Path, base: Checkpoint) -> Delta | Checkpoint:
    """What one reference names. Raises OfAnotherBase if it is not of the base, or no tuned model."""
    if not seed_folders(reference):
        given = open_input(reference, "shift", base)
        if isinstance(given, WeightsInput):
            _check_sizes(reference, given.checkpoint, base)
            return given.checkpoint
        if given.delta.kind == "activation":
            raise OfAnotherBase(
                f"{reference} is an activation vector, no tuned model; give --shift checkpoints or changes"
            )
    change = open_change(reference, "shift", base).delta
    try:
        check_bases(
            [(str(reference), change.base), (f"--base {base.name}", base.identity)], "name the --base it was tuned from"
        )
    except WsteerError as error:
        raise OfAnotherBase(str(error)) from None
    return change


def _check_sizes(reference: str | Path, checkpoint: Checkpoint, base: Checkpoint) -> None:
    text, own = read_config(checkpoint).get_text_config(), read_config(base).get_text_config()
    for name in ("num_hidden_layers", "hidden_size"):
        found, expected = getattr(text, name), getattr(own, name)
        if found != expected:
            raise OfAnotherBase(
                f"{reference} has a {name} of {found} and the base {base.name} of {expected}; "
                "it was tuned from another model"
            )


@contextlib.contextmanager
def running(tuned: Tuned, base: LoadedModel) -> Iterator[LoadedModel]:
    """The tuned model, on the base's device and in its dtype, for the `with` body; a change is added to the base.

    It is added to the weights in memory: rounded to a 16-bit checkpoint, the change of the first steps would drown.
    """
    if isinstance(tuned.weights, Delta):
        with changed(base, tuned.weights, 1.0, in_memory=True):
            yield base
    else:
        model = load_weights(tuned.weights, base.model.device.type, dtype_name(base))
        yield replace(base, model=model, checkpoint=tuned.weights, change=None)
