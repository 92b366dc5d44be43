"""The tokens at which activation vectors are added, by their role: prompt or response, never padding.

`response` is the last token of the prompt, where the model predicts the response's first token, and every token of
the response; `prompt` is every token of the prompt, the last one too; `prompt-last` is that one alone; `all` is all of
them (notes: activations A3). A token has its role however the model reads it: generating with or without a cache, in
pieces, or all at once.

`wsteer actvec` averages activations over tokens of the same names, with one difference: its `response` is the
response's own tokens. What a model does at the prompt's last token it does before the response says anything; to add
a vector there is what changes the response's first token.
"""

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, TypeGuard
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from wsteer.errors import WsteerError

POSITIONS = ("response", "prompt", "prompt-last", "all")
CACHES = ("cache", "past_key_values", "cache_params")  # what transformers has called it, the newest first


@dataclass(frozen=True)
class _Lengths:
    """How many tokens each row's prompt has, and, where padding on the right is not masked, each row in all."""

    prompts: tuple[int, ...]
    tokens: tuple[int, ...] | None


@dataclass(frozen=True)
class _Generation:
    """The prompts that `generate` was given: `width` columns, padded on the left; their mask, if it was given too."""

    width: int
    mask: Tensor | None


_KNOWN: ContextVar[_Lengths | _Generation | None] = ContextVar("known", default=None)  # of the rows now running


@contextlib.contextmanager
def prompt_lengths(prompts: Sequence[int], tokens: Sequence[int] | None = None) -> Iterator[None]:
    """Say of how many tokens each row's prompt consists, for the forward passes of the `with` body; 0 if it has none.

    Padding does not count. `tokens`, how many each row has in all, is needed only for rows that are padded on the right
    and given to the model without an attention mask. `model.generate` needs neither.

    >>> import torch, wsteer
    >>> from transformers import LlamaConfig, LlamaForCausalLM
    >>> sizes = dict(hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=32)
    >>> model, ids = LlamaForCausalLM(LlamaConfig(**sizes)), torch.tensor([[1, 2, 3, 4]])
    >>> a = wsteer.Delta.of_tensors({"blocks.0": torch.ones(8)}, kind="activation")
    >>> with wsteer.applied(model, a, positions="response"), wsteer.prompt_lengths([3]):
    ...     steered = model(ids).logits  # the vector is added at the tokens 3 and 4
    >>> (steered == model(ids).logits).all(dim=-1).tolist()
    [[True, True, False, False]]
    """
    whole = prompts if tokens is None else tokens
    if len(whole) != len(prompts) or any(length < 0 for length in (*prompts, *whole)):
        raise WsteerError("prompt_lengths takes one length of at least 0 for each row, and as many of whole rows")
    with _known(_Lengths(tuple(prompts), None if tokens is None else tuple(tokens))):
        yield


@contextlib.contextmanager
def _known(known: _Lengths | _Generation) -> Iterator[None]:
    before = _KNOWN.set(known)
    try:
        yield
    finally:
        _KNOWN.reset(before)


class Tokens:
    """Which tokens a vector is added to, during each forward pass of a model."""

    def __init__(self, positions: str):
        self.positions = positions
        self._running: nn.Module | None = None  # the outermost module in whose forward pass the roles are known
        self._chosen: Tensor | None = None
        self._read: WeakKeyDictionary[object, int] = WeakKeyDictionary()  # tokens in caches that do not count them

    def add(self, hidden: Tensor, vector: Tensor) -> Tensor:
        """`hidden` [rows, tokens, size] plus `vector` at the chosen tokens; the others keep their bits."""
        if self._running is None:
            raise WsteerError("an activation vector is added to a part of the model that runs alone; run the model")
        steered = hidden + vector
        if self._chosen is None:
            return steered
        if hidden.shape[:2] != self._chosen.shape:
            raise WsteerError(
                f"a block gives {list(hidden.shape)}, not [rows, tokens, size] of {list(self._chosen.shape)}: an "
                "activation vector cannot be added by position"
            )
        return torch.where(self._chosen[..., None].to(hidden.device), steered, hidden)

    def enter(self, module: nn.Module, args: tuple, kwargs: Mapping[str, Any]) -> None:
        """A forward pre-hook: choose the tokens of this pass."""
        if self._running is None:
            self._running = module
            given = dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | dict(kwargs)
            self._chosen = _chosen(self.positions, given, self._read)

    def leave(self, module: nn.Module, *_: object) -> None:
        """A forward hook, also called after an error: the pass has ended."""
        if self._running is module:
            self._running = self._chosen = None


@contextlib.contextmanager
def tokens_of(model: PreTrainedModel, positions: str) -> Iterator[Tokens]:
    """The tokens of these positions in the model's forward passes and generations of the `with` body."""
    if positions not in POSITIONS:
        raise WsteerError(f"positions {positions!r} is none of {', '.join(POSITIONS)}")
    tokens = Tokens(positions)
    with contextlib.ExitStack() as stack:
        # the base model has no head, and may run alone
        for module in {id(each): each for each in (model, model.base_model)}.values():
            stack.callback(module.register_forward_pre_hook(tokens.enter, with_kwargs=True).remove)
            stack.callback(module.register_forward_hook(tokens.leave, always_call=True).remove)
        stack.enter_context(_noted_generation(model))
        yield tokens


@contextlib.contextmanager
def _noted_generation(model: PreTrainedModel) -> Iterator[None]:
    """Note the prompts that `model.generate` is given: its forward passes alone do not tell where they end."""
    attributes = vars(model)
    outer = attributes.get("generate")
    generate: Callable = getattr(model, "generate")  # noqa: B009  not every model has it for the type checker

    def noting(*args: Any, **kwargs: Any) -> Any:
        mask = kwargs.get("attention_mask")  # with a cache, it has the columns of what is read already
        mask = mask if _is_flat(mask) else None
        given = (mask, kwargs.get("inputs_embeds"), kwargs.get("input_ids"), kwargs.get("inputs"), *args[:1])
        widths = [each.shape[1] for each in given if each is not None]
        with _known(_Generation(max(widths, default=1), mask)):  # of nothing at all it begins with one token
            return generate(*args, **kwargs)

    attributes["generate"] = noting
    try:
        yield
    finally:
        if outer is None:
            del attributes["generate"]
        else:
            attributes["generate"] = outer


def _chosen(positions: str, given: Mapping[str, Any], read: MutableMapping[object, int]) -> Tensor | None:
    """The tokens [rows, tokens] of these positions in a forward pass with these arguments; None for all of them."""
    source = given.get("input_ids") if given.get("inputs_embeds") is None else given["inputs_embeds"]
    if not isinstance(source, Tensor):
        raise WsteerError("an activation vector needs a forward pass with input_ids or inputs_embeds")
    rows, count = source.shape[:2]
    known = _KNOWN.get()
    if known is None and positions != "all":
        raise WsteerError(
            f"positions {positions!r} needs to know where each row's prompt ends; say it round the forward pass: "
            "with wsteer.prompt_lengths([LENGTH, ...])"
        )
    mask = given.get("attention_mask")
    first = _first(given, count, read)
    real = _real(known, mask, rows, first + count, source.device)
    if positions == "all":
        return None if real is None else real[:, first:]
    if isinstance(known, _Generation):
        place, lengths = torch.arange(first, first + count, device=source.device)[None], torch.tensor(known.width)
        last = known.width - 1 - first
        if real is not None and 0 <= last < count and not real[:, known.width - 1].all():
            raise WsteerError(f"positions {positions!r} needs prompts padded on the left; set padding_side='left'")
    else:
        assert known is not None
        if len(known.prompts) != rows:
            raise WsteerError(f"prompt_lengths has {len(known.prompts)} rows, and the model is given {rows}")
        whole = torch.ones(rows, first + count, dtype=torch.bool, device=source.device) if real is None else real
        place = whole.cumsum(dim=1)[:, first:] - 1  # of each token in its row
        lengths = torch.tensor(known.prompts)[:, None]
    role = _in_role(positions, place, lengths.to(source.device)).expand(rows, count)
    return role if real is None else role & real[:, first:]


def _in_role(positions: str, place: Tensor, lengths: Tensor) -> Tensor:
    """Whether the tokens at these places of their rows are among `positions`, of prompts of these lengths."""
    if positions == "prompt":
        return place < lengths
    return place == lengths - 1 if positions == "prompt-last" else place >= lengths - 1


def _is_flat(mask: object) -> TypeGuard[Tensor]:
    """Whether it is a mask [rows, tokens], of what is read and what was read before."""
    return isinstance(mask, Tensor) and mask.dim() == 2


def _first(given: Mapping[str, Any], count: int, read: MutableMapping[object, int]) -> int:
    """The column of the first token of a forward pass: how many tokens the cache holds before it.

    `read` counts them for the caches of recurrent models, which do not.
    """
    mask = given.get("attention_mask")
    cache = next((given[name] for name in CACHES if given.get(name) is not None), None)
    first = 0
    if cache is not None:
        try:
            first = int(cache.get_seq_length())
        except (AttributeError, ValueError):
            first = read.get(cache, 0)
            read[cache] = first + count
    return mask.shape[1] - count if _is_flat(mask) else first


def _real(
    known: _Lengths | _Generation | None, mask: object, rows: int, width: int, device: torch.device
) -> Tensor | None:
    """Which of the first `width` columns are no padding [rows, width]; None if none is known to be padding."""
    if _is_flat(mask):
        return mask.bool()
    if isinstance(known, _Lengths) and known.tokens is not None:
        return torch.arange(width, device=device)[None] < torch.tensor(known.tokens, device=device)[:, None]
    if isinstance(known, _Generation) and known.mask is not None:  # each prompt's rows, as beams, follow each other
        prompts = known.mask.bool().to(device).repeat_interleave(rows // known.mask.shape[0], dim=0)
        return nn.functional.pad(prompts, (0, max(width - known.width, 0)), value=True)[:, :width]
    if mask is not None:
        raise WsteerError("activation vectors need an attention mask [rows, tokens], which tells what is padding")
    return None
