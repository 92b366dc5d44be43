"""A MODEL loaded: a checkpoint, or an adapter's base with the adapter's change, in the bits that `steer` writes."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from wsteer.deltas.delta import Delta
from wsteer.deltas.model_input import ModelInput, open_model
from wsteer.errors import WsteerError
from wsteer.models import loading
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel
from wsteer.steering.memory import added, fold_in


def load(
    reference: str | Path | ModelInput,
    device: str = "auto",
    dtype: str = "auto",
    load_in: str | None = None,
    chat_format: ChatFormat | None = None,
) -> LoadedModel:
    """Load the model that `reference` names, never running code that it ships.

    It is a checkpoint (a folder or a Hub id), or an adapter: its base with its change folded in, as in the checkpoint
    that `steer` writes of the two with k = 1. (To apply a delta to it, give `applied` no `base`.) An adapter's own chat
    template is used before the base's. The options are those of `models.loading.load`.
    """
    given = reference if isinstance(reference, ModelInput) else open_model(reference)
    if given.change is not None and load_in:
        raise WsteerError(f"--load-in {load_in}: an adapter is not folded into a quantised base; leave it out")
    adapter_folder = given.change.files[0].parent if given.change is not None else None
    loaded = loading.load(given.reference, device, dtype, load_in, chat_format, adapter_folder, given.checkpoint)
    if given.change is None:
        return loaded
    fold_in(loaded.model, given.change.delta, given.checkpoint)
    return replace(loaded, change=given.change)


@contextlib.contextmanager
def changed(
    loaded: LoadedModel,
    delta: Delta,
    k: float,
    rounding: str = "auto",
    seed: int = 0,
    positions: str = "all",
    in_memory: bool = False,
) -> Iterator[None]:
    """`applied` to a loaded model, for the `with` body.

    A model with an adapter's change gets the sum of the two, folded into its checkpoint at once, as `steer` does.
    `in_memory` adds to the model's own weights instead, without the checkpoint's rounding where it has 16 bits and the
    model 32.
    """
    if not in_memory and k and loaded.change is not None and delta.kind != "activation":
        own = loaded.change.delta
        # where the two cancel, the adapter's change is in the model all the same: it is taken out by 0 times it
        cancelled = {name: tuple((0.0, term) for _, term in terms) for name, terms in own.terms.items()}
        delta = own + k * delta
        delta, k = replace(delta, terms={**cancelled, **delta.terms}), 1.0
    with added(loaded.model, delta, k, loaded.checkpoint, rounding, seed, positions, in_memory):
        yield
