"""Load a model and its tokenizer, and apply a delta to it in memory."""

import contextlib
import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import transformers
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from wsteer.checkpoint import Checkpoint, open_checkpoint
from wsteer.delta import Delta, layer_of
from wsteer.errors import WsteerError
from wsteer.folding import Rounding, base_rows, choose_rounding, fold
from wsteer.lora import base_entry
from wsteer.names import in_memory
from wsteer.tensorfile import DTYPES, TensorEntry, row_blocks
from wsteer.terms import Change
from wsteer.workers import in_order

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
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    checkpoint = open_checkpoint(reference)
    device = resolve_device(device)
    chosen = {"auto": torch.float32 if device == "cpu" else "auto", **DTYPE_NAMES}[dtype]
    quantised = _quantised(load_in, device) if load_in else {}
    try:
        tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
        model, loading = AutoModelForCausalLM.from_pretrained(
            checkpoint.folder, dtype=chosen, use_safetensors=True, output_loading_info=True, **quantised
        )
    except Exception as error:  # whatever a folder's config makes transformers raise, the folder is the user's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise WsteerError(f"transformers cannot load {reference}: {reason}") from error
    # transformers fills what is missing with random numbers
    missing = sorted(loading["missing_keys"]) + sorted(str(key) for key in loading["mismatched_keys"])
    if missing:
        raise WsteerError(f"{reference} lacks {missing[0]!r}, or has it in another shape than config.json says")
    _reset_generation(model, tokenizer)
    return LoadedModel((model if quantised else model.to(device)).eval(), tokenizer, checkpoint)


def _quantised(load_in: str, device: str) -> dict[str, object]:
    """What makes transformers quantise the model with bitsandbytes as it loads."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise WsteerError(f"--load-in {load_in} needs bitsandbytes: pip install 'wsteer[quant]'")
    if device != "cuda":
        raise WsteerError(f"--load-in {load_in} needs a CUDA device, and this runs on {device}; leave it out")
    four = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16)
    config = {"4bit": four, "8bit": BitsAndBytesConfig(load_in_8bit=True)}[load_in]
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}


def dtype_name(loaded: LoadedModel) -> str:
    """The dtype that the model runs in, as --dtype names it."""
    return str(loaded.model.dtype).removeprefix("torch.")


def positions(loaded: LoadedModel) -> int | None:
    """How many tokens the model takes at most, where it says so."""
    return getattr(loaded.model.config.get_text_config(), "max_position_embeddings", None)


def check_lengths(loaded: LoadedModel, lengths: Iterable[int]) -> None:
    """Refuse rows of more tokens than the model has positions."""
    limit = positions(loaded)
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
    """Keep the end tokens alone: a checkpoint's sampling settings, such as a repetition penalty, must not leak."""
    ends = model.generation_config.eos_token_id
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token_id = tokenizer.eos_token_id or 0
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id if ends is None else ends, pad_token_id=tokenizer.pad_token_id
    )


def decoder_blocks(model: nn.Module) -> nn.ModuleList:
    """The model's decoder blocks, in order: its one module list as long as the config's `num_hidden_layers`."""
    count = model.config.get_text_config().num_hidden_layers
    found = [module for module in model.modules() if isinstance(module, nn.ModuleList) and len(module) == count]
    # a one-block model may hold other lists of length one inside its block; the outermost comes first
    if not found:
        raise WsteerError(f"{type(model).__name__} has no list of {count} decoder blocks that wsteer could find")
    return found[0]


@contextlib.contextmanager
def applied(
    model: PreTrainedModel,
    delta: Delta,
    k: float = 1.0,
    base: Checkpoint | None = None,
    rounding: str = "auto",
    seed: int = 0,
) -> Iterator[None]:
    """Run the `with` body with `k·delta` added to the model; then its weights are restored bit for bit.

    A change of weights is folded as `steer` folds it: with `base`, the checkpoint that the model was loaded from, the
    weights are then those of the steered checkpoint, bit for bit, even where the model runs in another dtype. An
    activation vector is added to the output of its decoder blocks, a change of a bias that the model lacks to the
    output of its module, at every position, by hooks.

    >>> import torch, wsteer
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    >>> model = LlamaForCausalLM(LlamaConfig(**sizes))
    >>> w = wsteer.Delta.of_tensors({"model.norm.weight": torch.ones(8)})
    >>> with wsteer.applied(model, w, k=0.5):
    ...     model.model.norm.weight.data[0].item()
    1.5
    >>> model.model.norm.weight.data[0].item()
    1.0
    """
    if k == 0:
        yield
    elif delta.kind == "activation":
        with _hooked(model, delta, k):
            yield
    else:
        biases = missing_biases(model, delta)
        weights = replace(delta, terms={name: terms for name, terms in delta.terms.items() if name not in biases})
        with _biased(model, delta, k, biases), _folded_in(model, weights, k, base, rounding, seed):
            yield


@contextlib.contextmanager
def _folded_in(
    model: PreTrainedModel, delta: Delta, k: float, base: Checkpoint | None, rounding: str, seed: int
) -> Iterator[None]:
    with _untied(model, delta):
        weights = _weights(model, delta)
        targets = [(name, base_entry(name, base) if base else weight.data) for name, weight in weights.items()]
        sources = [(name, source, _dtype(source)) for name, source in targets]
        ((how, _, _),) = choose_rounding(delta, sources, [k], rounding, seed)
        originals: dict[str, Tensor] = {}
        try:
            for name, source, _ in sources:
                originals[name] = weights[name].to("cpu", copy=True)
                source = source if base else originals[name]
                weights[name].copy_(steered_tensor(name, source, delta.change(name), k, how))
            yield
        finally:
            for name, original in originals.items():
                weights[name].copy_(original)


def _dtype(source: TensorEntry | Tensor) -> torch.dtype:
    return DTYPES[source.dtype] if isinstance(source, TensorEntry) else source.dtype


def steered_tensor(name: str, source: TensorEntry | Tensor, change: Change, k: float, rounding: Rounding) -> Tensor:
    """Parameter `name` plus k times its change, in the dtype of `source`, with the bits that `steer` writes."""
    dtype = _dtype(source)
    steered = torch.empty(change.shape, dtype=dtype)
    by_rows = steered if steered.dim() else steered[None]  # a scalar has one row

    def fold_block(block: tuple[int, int]) -> None:
        rows = base_rows(source, change.shape, dtype, *block)
        by_rows[slice(*block)] = fold(name, rows, change, block[0], k, rounding)

    for _ in in_order(fold_block, row_blocks(change.shape)):
        pass
    return steered


def _weights(model: PreTrainedModel, delta: Delta) -> dict[str, Tensor]:
    """The model's own memory for each parameter of the delta, which is named as in the checkpoint's files."""
    parameters = dict(model.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    found = {}
    for name in delta.terms:
        try:
            parameter, index = in_memory(name, shapes, model.base_model_prefix)
        except KeyError:
            raise WsteerError(
                f"the model has no parameter {name!r}, which the delta changes; was it made on another model?"
            ) from None
        found[name] = parameters[parameter].data[index] if index else parameters[parameter].data
        if tuple(found[name].shape) != delta.shape(name):
            raise WsteerError(f"{name} is {tuple(found[name].shape)} in the model but {delta.shape(name)} in the delta")
    return found


@contextlib.contextmanager
def _untied(model: PreTrainedModel, delta: Delta) -> Iterator[None]:
    """Give the head its own copy of a tied embedding while a delta is applied that changes the two separately."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not delta.untied or head is None or head.weight is not embedding.weight:
        yield
        return
    head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
    try:
        yield
    finally:
        head.weight = embedding.weight


def missing_biases(model: PreTrainedModel, delta: Delta) -> dict[str, nn.Module]:
    """The biases that the delta changes and the model lacks, with the modules whose output they would be added to."""
    modules = dict(model.named_modules())
    paths = {name: name.removesuffix(".bias") for name in delta.terms if name.endswith(".bias")}
    return {
        name: modules[path]
        for name, path in paths.items()
        if path in modules and isinstance(getattr(modules[path], "weight", None), Tensor) and modules[path].bias is None
    }


@contextlib.contextmanager
def _biased(model: PreTrainedModel, delta: Delta, k: float, modules: Mapping[str, nn.Module]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            if delta.shape(name) != (module.out_features,):
                raise WsteerError(f"{name} is {delta.shape(name)} in the delta, its module gives {module.out_features}")
            vector = k * delta.change(name).rows(0, module.out_features)
            stack.callback(module.register_forward_hook(_adding(vector)).remove)
        yield


@contextlib.contextmanager
def _hooked(model: PreTrainedModel, delta: Delta, k: float) -> Iterator[None]:
    blocks = decoder_blocks(model)
    hooks = []
    try:
        for name, vector in activation_vectors(delta, len(blocks), model.config.get_text_config().hidden_size).items():
            hooks.append(blocks[layer_of(name)].register_forward_hook(_adding(k * vector)))
        yield
    finally:
        for hook in hooks:
            hook.remove()


def activation_vectors(delta: Delta, blocks: int, hidden: int) -> dict[str, Tensor]:
    """The float32 vectors [hidden] of an activation delta, checked against the model they are meant for."""
    vectors = {}
    for name in delta.terms:
        if layer_of(name) >= blocks or delta.shape(name) != (hidden,):
            raise WsteerError(
                f"the activation vector {name} {delta.shape(name)} does not fit a model of {blocks} blocks and "
                f"{hidden} dimensions; was it made on another model?"
            )
        vectors[name] = delta.change(name).rows(0, hidden)
    return vectors


def _adding(vector: Tensor):
    def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> Tensor | tuple:
        # transformers 5 blocks return a tensor; older ones a tuple that begins with it
        hidden = output[0] if isinstance(output, tuple) else output
        steered = hidden + vector.to(hidden.device, hidden.dtype)
        return (steered, *output[1:]) if isinstance(output, tuple) else steered

    return hook
