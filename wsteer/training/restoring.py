"""A base that several runs train one after another, loaded once and set back after each."""

import contextlib
import copy
import gc
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import nn

from wsteer.deltas.adapters.reading import MUTATING_INITS
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import LoadedModel, load, resolve_device
from wsteer.training import processes
from wsteer.training.recipe import Recipe


class SharedBase:
    """A base for several runs, each of which gets it as it was loaded.

    It is loaded on first use. Runs that change the base's own weights (`spoilt`), as full fine-tuning does, get it from
    its files again, since a copy of all weights would need their memory a second time. Others give it back as it was.
    """

    def __init__(self, load: Callable[[], LoadedModel], spoilt: bool) -> None:
        self._load = load
        self._spoilt = spoilt
        self._loaded: LoadedModel | None = None

    @property
    def loaded(self) -> LoadedModel:
        """The base, to look at; what trains it uses `lent`."""
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded

    @contextlib.contextmanager
    def lent(self) -> Iterator[LoadedModel]:
        """The base for the `with` body, which may put adapters into it and train it."""
        given = self.loaded
        try:
            if self._spoilt:
                self._loaded = None
                yield given
            else:
                with restored(given.model):
                    yield given
        finally:
            del given
            free_memory()


def shared_base(
    base: str | Path, recipe: Recipe, device: str, dtype: str, load_in: str | None, chat_format: ChatFormat
) -> SharedBase:
    """The base for runs of a recipe, loaded on the device when the first of them begins.

    If it will be spread over processes it is loaded on the CPU, as it may fit no single device, and for each run anew.
    """
    sharded = processes.is_sharded()
    if dtype == "auto" and (recipe.method == "full" or sharded):
        dtype = "float32"  # for trained weights, and spread parts need one type

    def load_base() -> LoadedModel:
        place = resolve_device(device)
        processes.join(place)
        return load(base, "cpu" if sharded else place, dtype, load_in, chat_format)

    return SharedBase(load_base, recipe.method == "full" or recipe.init in MUTATING_INITS or sharded)


@contextlib.contextmanager
def restored(model: nn.Module) -> Iterator[None]:
    """Set the model back after the `with` body: its modules, parameters, buffers, hooks and settings.

    What a method puts into the model goes: adapters of any kind, added biases, checkpointed gradients. The values of
    weights are not copied: the body must not train those that the model had before.
    """
    before = [(module, type(module), _copied(vars(module))) for module in model.modules()]
    trained = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        yield
    finally:
        for module, kind, attributes in before:
            module.__class__ = kind
            vars(module).clear()
            vars(module).update(attributes)
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)
            parameter.grad = None


def _copied(attributes: dict[str, object]) -> dict[str, object]:
    """A module's attributes, with its own tables (modules, parameters, hooks) copied one level deep."""
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def free_memory() -> None:
    """Free what the last run left in circles of references, also for programs that ask a GPU what is free."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
