"""Load a model and its tokenizer."""

import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wsteer.checkpoints.checkpoint import Checkpoint, open_checkpoint
from wsteer.errors import WsteerError, reason

DTYPE_NAMES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to run, its tokenizer, and the checkpoint that both came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    checkpoint: Checkpoint


def load(reference: str | Path, device: str = "auto", dtype: str = "auto", load_in: str | None = None) -> LoadedModel:
    """Load the checkpoint that `reference` names (a folder or a Hub id), never running code that it ships.

    `device` auto is CUDA, else Apple's MPS, else the CPU; `dtype` auto is float32 on the CPU, where 16 bits are slower
    and less exact, and the checkpoint's own dtype elsewhere. `load_in` 4bit or 8bit quantises the linear layers.
    """
    silence_transformers()
    checkpoint = open_checkpoint(reference)
    device = resolve_device(device)
    chosen = {"auto": torch.float32 if device == "cpu" else "auto", **DTYPE_NAMES}[dtype]
    quantised = _quantised(load_in, device) if load_in else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
        found: Any = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, dtype=chosen, use_safetensors=True, output_loading_info=True, **quantised
        )
    except Exception as error:  # the user's files can make transformers raise anything
        raise WsteerError(f"transformers cannot load {reference}: {reason(error)}") from error
    model, loading = found
    # transformers fills missing weights with random numbers
    missing = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if missing:
        raise WsteerError(f"{reference} lacks {missing[0]!r}, or has it in another shape than config.json says")
    _reset_generation(model, tokenizer)
    return LoadedModel((model if quantised else model.to(device)).eval(), tokenizer, checkpoint)


def _quantised(load_in: str, device: str) -> dict[str, object]:
    """The arguments with which transformers quantises the model by bitsandbytes while loading it."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise WsteerError(f"--load-in {load_in} needs bitsandbytes: pip install 'wsteer[quant]'")
    if device != "cuda":
        raise WsteerError(f"--load-in {load_in} needs a CUDA device, and this runs on {device}; leave it out")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    config = {"4bit": four, "8bit": BitsAndBytesConfig(load_in_8bit=True)}[load_in]
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def silence_transformers() -> None:
    """Keep transformers' warnings and progress bars off the terminal."""
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def dtype_name(loaded: LoadedModel) -> str:
    """The dtype that the model runs in, as --dtype names it."""
    return str(loaded.model.dtype).removeprefix("torch.")


def max_positions(loaded: LoadedModel) -> int | None:
    """The most tokens that the model takes, if its config says so."""
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)


def check_lengths(loaded: LoadedModel, lengths: Iterable[int]) -> None:
    """Refuse rows of more tokens than the model takes."""
    limit = max_positions(loaded)
    longest = max(lengths)
    if limit is not None and longest > limit:
        raise WsteerError(f"a row of {longest} tokens is longer than the {limit} positions of {loaded.checkpoint.name}")


def resolve_device(device: str) -> str:
    """The device that --device names; auto is CUDA, else Apple's MPS, else the CPU."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise WsteerError("--device cuda: this machine has no CUDA device that torch can use; use --device cpu")
    if device == "mps" and not torch.backends.mps.is_available():
        raise WsteerError("--device mps: this machine has no MPS device that torch can use; use --device cpu")
    return device


def _reset_generation(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Keep only the end tokens: a checkpoint's sampling settings, such as a repetition penalty, must have no effect."""
    ends = model.generation_config.eos_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id if ends is None else ends, pad_token_id=tokenizer.pad_token_id
    )


def decoder_blocks(model: PreTrainedModel) -> nn.ModuleList:
    """The model's decoder blocks, in order: its first module list with `num_hidden_layers` entries."""
    count = model.config.get_text_config().num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    # a model of one block may have other lists of length one inside the block; the outermost comes first
    if not found:
        raise WsteerError(f"{type(model).__name__} has no list of {count} decoder blocks that wsteer could find")
    return found[0]
