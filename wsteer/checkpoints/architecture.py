"""A checkpoint's architecture: config.json as transformers reads it, and the model without weights; never its code."""

import codecs
import contextlib
import copy
import math
from collections.abc import Iterator
from pathlib import Path

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
)

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.errors import WsteerError, one_error
from wsteer.files.limits import bounded
from wsteer.files.opening import regular
from wsteer.files.text import GZIP

SECONDS = 25.0  # to build the largest models without weights takes a few
# a model has as many numbers as its files, or more where those are packed or tied; far beyond it is no honest config
PACKED, SPARE = 16, 10**8
SIZES = ("num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings")


def read_config(checkpoint: Checkpoint) -> PreTrainedConfig:
    """config.json as transformers reads it, its sizes checked.

    Raises WsteerError if it is broken, of a kind that transformers does not know, or needs the checkpoint's own code.
    """
    path = checkpoint.folder / "config.json"
    silence_transformers()
    check_plain(path)
    _refuse_kernels(checkpoint)
    what = f"transformers cannot load {checkpoint.name}"
    with one_error(what), own_code_refused(checkpoint), bounded(f"reading {path}"):
        config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
        text = config.get_text_config()
        for key in SIZES:
            size = getattr(text, key, None)
            if key == "max_position_embeddings" and size == -1:  # XLNet's word for no limit
                continue
            if size is not None and (type(size) is not int or size < 1):
                raise WsteerError(f"{path}: {key} must be a whole number above 0, not {str(size)[:80]!r}")
        blocks = getattr(text, "num_hidden_layers", None) or 0
        if blocks > len(checkpoint.tensors):
            raise WsteerError(
                f"{path}: num_hidden_layers is {str(blocks)[:80]}, and the weight files hold {len(checkpoint.tensors)} "
                "tensors; download the model again"
            )
    return config


ModelClass = type[AutoModelForCausalLM] | type[PreTrainedModel]


def model_classes(checkpoint: Checkpoint, config: PreTrainedConfig) -> list[ModelClass]:
    """The classes that read the checkpoint: transformers' causal language model, then the one that config.json names.

    They may differ for a model of text and images: the first may be its language model alone. Some have no first.
    """
    causal = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    listed = checkpoint.config.get("architectures")
    name = listed[0] if isinstance(listed, list) and listed else None
    named = getattr(transformers, name, None) if isinstance(name, str) and name.isidentifier() else None
    classes: list[ModelClass] = [AutoModelForCausalLM] if causal is not None else []
    if isinstance(named, type) and issubclass(named, PreTrainedModel) and named is not causal and _fits(named, config):
        classes.append(named)
    return classes or [AutoModelForCausalLM]


def _fits(kind: type[PreTrainedModel], config: PreTrainedConfig) -> bool:
    """Whether a class is one for this config that can run by itself: not a part, such as LlamaModel."""
    return isinstance(config, kind.config_class or ()) and "For" in kind.__name__


def skeleton(checkpoint: Checkpoint, config: PreTrainedConfig, kind: ModelClass | None = None) -> PreTrainedModel:
    """The model that config.json describes, on the meta device; `kind` defaults to the first of `model_classes`.

    Raises WsteerError if transformers cannot build it, or if it is far larger than what the weight files hold.
    """
    kind = kind or model_classes(checkpoint, config)[0]
    what = f"transformers cannot build {checkpoint.name}"
    with one_error(what), own_code_refused(checkpoint), bounded(f"building {checkpoint.name}", SECONDS):
        with torch.device("meta"):
            if issubclass(kind, PreTrainedModel):
                model = kind(copy.deepcopy(config))
            else:
                model = kind.from_config(copy.deepcopy(config), dtype=torch.float32, trust_remote_code=False)
        described = sum(tensor.numel() for tensor in (*model.parameters(), *model.buffers()))
    held = sum(math.prod(entry.shape) for entry in checkpoint.tensors.values())
    if described > PACKED * held + SPARE:
        raise WsteerError(
            f"{checkpoint.folder / 'config.json'} describes {described:.1e} numbers, and the weight files hold "
            f"{held:.1e}; download the model again"
        )
    return model


def silence_transformers() -> None:
    """Keep transformers' warnings and progress bars off the terminal."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def check_plain(path: Path) -> None:
    """Refuse a BOM and gzip in a file that transformers reads too: wsteer takes them, and it does not."""
    with regular(path) as file:
        start = file.read(len(codecs.BOM_UTF8))
    if start == codecs.BOM_UTF8:
        raise WsteerError(f"{path} begins with a BOM, which transformers does not read; save it as UTF-8 without BOM")
    if start.startswith(GZIP):
        raise WsteerError(f"{path} is packed by gzip, which transformers does not read; unpack it")


def _refuse_kernels(checkpoint: Checkpoint) -> None:
    """A config may name code on the Hub as the implementation of a part, as `owner/kernel`."""
    for settings in (checkpoint.config, checkpoint.config.get("text_config")):
        for key, value in settings.items() if isinstance(settings, dict) else ():
            if key.endswith("_implementation") and "/" in str(value):
                raise WsteerError(
                    f"{checkpoint.folder / 'config.json'}: {key} {str(value)[:80]!r} is code on the Hub, which wsteer "
                    "never runs; remove it"
                )


@contextlib.contextmanager
def own_code_refused(checkpoint: Checkpoint) -> Iterator[None]:
    """Say in one line that the checkpoint needs code of its own, where transformers says it in many."""
    try:
        yield
    except ValueError as error:
        if "trust_remote_code=True" not in str(error):
            raise
        raise WsteerError(
            f"{checkpoint.name} contains custom code (auto_map), which wsteer never runs, and transformers has none of "
            "its own for it; give a model of a type that transformers knows"
        ) from None
