"""The model under test: loaded once, and the change that each condition adds to it."""

import contextlib
import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.files.provenance import key
from wsteer.files.rows import Message
from wsteer.models.loading import LoadedModel, dtype_name
from wsteer.steering.loading import changed
from wsteer.steering.rounding import Rounding

SAMPLES, SAMPLED = 32, 1 << 14  # blocks of each weight file that tell a model, and their bytes


@dataclass(frozen=True)
class Subject:
    """A model in memory, and by the name of each condition what it adds; conditions without a delta are not in there.

    `batch_size` is how many rows run at once, `seed` that of sampled answers.
    """

    loaded: LoadedModel
    deltas: Mapping[str, Delta]
    batch_size: int = 32
    seed: int = 0

    @contextlib.contextmanager
    def under(self, condition: Condition) -> Iterator[None]:
        """Run the `with` body on the model under `condition`; then the weights are as before, bit for bit.

        Raises WsteerError, which names the condition, where its change cannot be added.
        """
        with contextlib.ExitStack() as changes:
            if (delta := self.deltas.get(condition.name)) is not None:
                positions = condition.positions or "all"
                change = changed(self.loaded, delta, condition.k, condition.rounding, condition.seed, positions)
                try:
                    changes.enter_context(change)
                except WsteerError as error:
                    raise WsteerError(f"{condition.label}: {error}") from error
            yield

    def check_vectors(self, conditions: Iterable[Condition]) -> None:
        """Refuse activation vectors that the model cannot add before any answer: hooks cost nothing to set."""
        for condition in conditions:
            if condition.positions is not None:
                with self.under(condition):
                    pass


def common_settings(loaded: LoadedModel, rounding: Rounding) -> dict[str, Any]:
    """The settings that all conditions of a run on this model have in common."""
    return {
        "model": _model_digest(loaded),
        "rounding": rounding.mode,
        "seed": rounding.seed,
        "dtype": dtype_name(loaded),
    }


def _model_digest(loaded: LoadedModel) -> str:
    """What tells the model from others, wherever it lies: its names and shapes, samples of its weights, its adapter."""
    entries = [{name: value for name, value in entry.items() if name != "path"} for entry in loaded.entries("model")]
    samples = hashlib.sha256()
    for shard in loaded.checkpoint.shards:
        size = shard.stat().st_size
        with shard.open("rb") as file:
            for place in range(SAMPLES):
                file.seek(place * max(size - SAMPLED, 0) // (SAMPLES - 1))
                samples.update(file.read(SAMPLED))
    return key([[{**entry, "name": None} for entry in entries], samples.hexdigest()])


def with_system(condition: Condition, chat: Sequence[Message]) -> list[Message]:
    """The chat with the condition's system prompt before it; one that the chat has of its own comes after it."""
    if condition.system is None:
        return list(chat)
    own = [message["content"] for message in chat[:1] if message["role"] == "system"]
    return [{"role": "system", "content": "\n\n".join([condition.system, *own])}, *chat[len(own) :]]
