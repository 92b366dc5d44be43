"""A delta applied to a model in memory, with the same bits as steering on disk, and undone bit for bit."""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wsteer.checkpoints.checkpoint import Checkpoint, base_entry
from wsteer.checkpoints.conversion import Place, places
from wsteer.checkpoints.names import layer_of
from wsteer.deltas.bases import check_bases
from wsteer.deltas.blocks import varied
from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import Change
from wsteer.errors import WsteerError
from wsteer.files.tensors import DTYPES, TensorEntry, row_blocks
from wsteer.models.loading import decoder_blocks
from wsteer.steering.folding import base_rows, fold
from wsteer.steering.gains import Target, choose_rounding
from wsteer.steering.positions import Tokens, tokens_of
from wsteer.steering.rounding import DROPPED_BITS, Rounding
from wsteer.workers import in_order

FOLDED = "wsteer_has_a_change"  # the attribute of a model whose weights are not its checkpoint's


@contextlib.contextmanager
def applied(
    model: PreTrainedModel,
    delta: Delta,
    k: float = 1.0,
    base: Checkpoint | None = None,
    rounding: str = "auto",
    seed: int = 0,
    positions: str = "all",
    variant: str | None = None,
) -> Iterator[None]:
    """Run the `with` body with `k·delta` added to the model, then restore its weights bit for bit.

    A change of weights is folded as `steer` folds it. With `base`, the checkpoint that the model was loaded from, the
    weights then equal those of the steered checkpoint bit for bit, even if the model runs in another dtype. A change of
    a bias that the model lacks is added to the output of its module, at every position, as the bias would be.

    Activation vectors are added to the outputs of decoder blocks at the tokens of `positions`, never at padding:
    `response` (the prompt's last token and all that follow), `prompt`, `prompt-last`, or `all`. `model.generate` tells
    where prompts end; a forward pass must be told by `prompt_lengths`, unless it is `all`. The vectors of all blocks of
    the delta are added: choose with `delta.select_layers`, or with the `variant` all-layers, which adds at every block
    what they gain there.

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
    if base is not None and delta.kind != "activation" and getattr(model, FOLDED, False):
        raise WsteerError("the model has an adapter's change, which its base lacks; give applied no base")
    if variant is not None:
        delta = varied(delta, variant, len(decoder_blocks(model)))
    with added(model, delta, k, base, rounding, seed, positions):
        yield


@contextlib.contextmanager
def added(
    model: PreTrainedModel,
    delta: Delta,
    k: float,
    base: Checkpoint | None,
    rounding: str,
    seed: int,
    positions: str = "all",
    in_memory: bool = False,
) -> Iterator[None]:
    """`applied` without its guard: with `base`, the weights in the `with` body are those of base + k·delta.

    `in_memory`: they are those in the model plus k·delta, in the model's own dtype; `base` tells only where each is.
    """
    if base is not None:
        check_bases([("the delta", delta.base), (base.name, base.identity)], "use the model it was made on")
    if k == 0:
        yield
    elif delta.kind == "activation":
        with _hooked(model, delta, k, positions):
            yield
    else:
        biases = missing_biases(model, delta)
        weights = replace(delta, terms={name: terms for name, terms in delta.terms.items() if name not in biases})
        with _biased(model, delta, k, biases), _folded_in(model, weights, k, base, Rounding(rounding, seed), in_memory):
            yield


@torch.no_grad()
def fold_in(model: PreTrainedModel, delta: Delta, base: Checkpoint) -> None:
    """Add a change of weights of `base`, from which the model was loaded, to the model for good.

    The weights are then those of the checkpoint that `steer` writes with k = 1, in the model's dtype.
    """
    if _untie(model, delta):
        model.config.get_text_config().tie_word_embeddings = model.config.tie_word_embeddings = False
    weights = _weights(model, delta, base)
    sources = {name: base_entry(name, base) for name in delta.terms}
    chosen = _chosen_rounding(delta, sources, 1.0, Rounding("auto"))
    for name, place in weights.items():
        place.write(steered_tensor(name, sources[name], delta.change(name), 1.0, chosen))
    setattr(model, FOLDED, True)


@contextlib.contextmanager
def _folded_in(
    model: PreTrainedModel, delta: Delta, k: float, base: Checkpoint | None, rounding: Rounding, in_memory: bool
) -> Iterator[None]:
    with _untied(model, delta):
        weights = _weights(model, delta, base)
        stored = None if in_memory else base
        # of a base all that the delta changes counts for the rounding, as on disk: a tower that is not loaded too
        sources = (
            {name: base_entry(name, stored) for name in delta.terms}
            if stored
            else {name: place.view() for name, place in weights.items()}
        )
        chosen = _chosen_rounding(delta, sources, k, rounding)
        originals: dict[str, Tensor] = {}
        try:
            for name, place in weights.items():
                originals[name] = place.view().to("cpu", copy=True)
                source = sources[name] if stored else originals[name]
                place.write(steered_tensor(name, source, delta.change(name), k, chosen))
            yield
        finally:
            for name, original in reversed(originals.items()):
                weights[name].write(original)


def _chosen_rounding(
    delta: Delta, sources: Mapping[str, TensorEntry | Tensor], k: float, rounding: Rounding
) -> Rounding:
    targets = [Target(name, source, _dtype(source)) for name, source in sources.items()]
    if rounding.mode != "auto" or not any(target.dtype in DROPPED_BITS for target in targets):
        return rounding if rounding.stochastic else Rounding()  # no gain decides it, so that none is measured
    return choose_rounding(delta, targets, [k], rounding)[k].rounding


def _dtype(source: TensorEntry | Tensor) -> torch.dtype:
    return DTYPES[source.dtype] if isinstance(source, TensorEntry) else source.dtype


def steered_tensor(name: str, source: TensorEntry | Tensor, change: Change, k: float, rounding: Rounding) -> Tensor:
    """Parameter `name` plus k times its change, in the dtype of `source`, with the same bits as `steer` writes."""
    dtype = _dtype(source)
    steered = torch.empty(change.shape, dtype=dtype)
    by_rows = steered if steered.dim() else steered[None]  # a scalar has one row

    def fold_block(block: tuple[int, int]) -> None:
        rows = base_rows(source, change.shape, dtype, *block)
        by_rows[slice(*block)] = fold(name, rows, change, block[0], k, rounding)

    for _ in in_order(fold_block, row_blocks(change.shape)):
        pass
    return steered


def _weights(model: PreTrainedModel, delta: Delta, base: Checkpoint | None) -> dict[str, Place]:
    """The model's own memory of each parameter of the delta, by its name in the checkpoint's files.

    What only the base's files have is left out: a tower's, where the model is the language model alone.
    """
    shapes = {name: delta.shape(name) for name in delta.terms}
    found = places(model, shapes)
    if base is not None and len(found) < len(shapes):  # where one is depends on the sizes of its neighbours
        found = places(model, {**{name: entry.shape for name, entry in base.tensors.items()}, **shapes})
        shapes = {name: shape for name, shape in shapes.items() if name in found or name not in base.tensors}
    for name, shape in shapes.items():
        if name not in found:
            raise WsteerError(
                f"the model has no parameter {name!r}, which the delta changes; was it made on another model?"
            )
        if found[name].shape != shape:
            raise WsteerError(f"{name} is {found[name].shape} in the model but {shape} in the delta")
    return {name: found[name] for name in shapes}


@contextlib.contextmanager
def _untied(model: PreTrainedModel, delta: Delta) -> Iterator[None]:
    """For the `with` body, give the head its own copy of a tied embedding, if the delta changes them separately."""
    tied = _untie(model, delta)
    try:
        yield
    finally:
        if tied:
            model.get_output_embeddings().weight = model.get_input_embeddings().weight


def _untie(model: PreTrainedModel, delta: Delta) -> bool:
    """Give the head its own copy of a tied embedding, if the delta changes them separately; whether it did."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if not delta.untied or head is None or head.weight is not embedding.weight:
        return False
    head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=False)
    return True


def missing_biases(model: PreTrainedModel, delta: Delta) -> dict[str, nn.Linear]:
    """The biases that the delta changes and the model lacks, with the layers to whose outputs they are added."""
    modules = dict(model.named_modules())
    found: dict[str, nn.Linear] = {}
    for name in delta.terms:
        layer = modules.get(name.removesuffix(".bias")) if name.endswith(".bias") else None
        if isinstance(layer, nn.Linear) and layer.bias is None:
            found[name] = layer
    return found


@contextlib.contextmanager
def _biased(model: PreTrainedModel, delta: Delta, k: float, modules: Mapping[str, nn.Linear]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for name, module in modules.items():
            if delta.shape(name) != (module.out_features,):
                raise WsteerError(f"{name} is {delta.shape(name)} in the delta, its module gives {module.out_features}")
            vector = _scaled(name, k, delta.change(name).rows(0, module.out_features), module.weight.dtype)
            stack.callback(module.register_forward_hook(_adding(vector)).remove)
        yield


@contextlib.contextmanager
def _hooked(model: PreTrainedModel, delta: Delta, k: float, positions: str) -> Iterator[None]:
    blocks = decoder_blocks(model)
    vectors = activation_vectors(delta, len(blocks), model.config.get_text_config().hidden_size)
    with contextlib.ExitStack() as stack:
        tokens = stack.enter_context(tokens_of(model, positions))
        for block, vector in vectors.items():
            scaled = _scaled(f"blocks.{block}", k, vector, model.dtype)
            stack.callback(blocks[block].register_forward_hook(_adding(scaled, tokens)).remove)
        yield


def activation_vectors(delta: Delta, blocks: int, hidden: int) -> dict[int, Tensor]:
    """The float32 vectors [hidden] of an activation delta by block, checked against the model's sizes."""
    vectors = {}
    for name in delta.terms:
        block = layer_of(name, None)
        if block is None or block >= blocks or delta.shape(name) != (hidden,):
            raise WsteerError(
                f"the activation vector {name} {delta.shape(name)} does not fit a model of {blocks} blocks and "
                f"{hidden} dimensions; was it made on another model?"
            )
        vectors[block] = delta.change(name).rows(0, hidden)
    return vectors


def _scaled(name: str, k: float, vector: Tensor, dtype: torch.dtype) -> Tensor:
    """k·vector, float32, if the model can add it; an error if it is not finite in `dtype`, or its square in float32."""
    scaled = k * vector
    if not (scaled.to(dtype).isfinite().all() and scaled.square().sum().isfinite()):
        kind = str(dtype).removeprefix("torch.")
        raise WsteerError(f"k = {k:g} times {name} is beyond what a model in {kind} can add; lower --k")
    return scaled


Hook = Callable[[nn.Module, tuple, Tensor | Sequence], Tensor | Sequence]


def _adding(vector: Tensor, tokens: Tokens | None = None) -> Hook:
    """A forward hook that adds `vector` [hidden] to a module's output at these tokens; None: at every position."""

    def hook(module: nn.Module, inputs: tuple, output: Tensor | Sequence) -> Tensor | Sequence:
        # transformers 5 blocks return a tensor; older ones a tuple, or list, that begins with it
        hidden = output if isinstance(output, Tensor) else output[0]
        added = vector.to(hidden.device, hidden.dtype)
        steered = hidden + added if tokens is None else tokens.add(hidden, added)
        return steered if isinstance(output, Tensor) else type(output)([steered, *output[1:]])  # type: ignore[call-arg]

    return hook
