"""The outputs of decoder blocks, recorded as means over spans of tokens."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wsteer.errors import WsteerError
from wsteer.models.batches import batches, padded, steady
from wsteer.models.loading import LoadedModel, decoder_blocks, running
from wsteer.models.rendering import Example
from wsteer.progress import Progress

ALONE = "on text alone, so that activations of all blocks cannot be had; steer its weights instead"


@dataclass(frozen=True)
class Span:
    """Token ids that the model reads; the mean is taken over tokens `start` to `stop`."""

    tokens: Tensor
    start: int
    stop: int

    @staticmethod
    def of(example: Example, positions: str) -> "Span":
        """The tokens of these positions (`steering/positions.py`); `response` is the answer's own tokens."""
        start, stop = example.answer.start, example.answer.stop
        if positions == "response":
            return Span.of_answer(example)
        if positions == "prompt-last":
            return Span.of_prompt_end(example)
        end = start if positions == "prompt" else stop
        return Span(example.tokens[:end], 0, end)

    @staticmethod
    def of_answer(example: Example) -> "Span":
        """The answer's own tokens, read after the prompt."""
        return Span(example.tokens[: example.answer.stop], example.answer.start, example.answer.stop)

    @staticmethod
    def of_prompt_end(example: Example) -> "Span":
        """The prompt's last token, where the model predicts the answer's first token."""
        return Span(example.tokens[: example.answer.start], example.answer.start - 1, example.answer.start)


def span_means(
    loaded: LoadedModel, spans: Sequence[Span], batch_size: int, progress: Progress
) -> Iterator[tuple[list[int], Tensor]]:
    """The means of every decoder block's output over the spans, batch by batch.

    Yields (indices of the batch's spans, means float64 [blocks, rows, hidden]); rows run one by one if the rows
    beside them would change them. Raises WsteerError if an activation is not finite.
    """
    lengths = [len(span.tokens) for span in spans]

    def results(indices: list[int], other_padding: bool) -> Tensor:
        pad = int(spans[indices[0]].tokens[-1]) if other_padding else None
        return _means(loaded, spans, indices, pad).transpose(0, 1)

    size = steady(lengths, batch_size, loaded.model.dtype, results)
    for indices in progress(list(batches(lengths, size)), "record"):
        yield indices, _means(loaded, spans, indices)


def _means(loaded: LoadedModel, spans: Sequence[Span], indices: Sequence[int], pad: int | None = None) -> Tensor:
    """The means of every decoder block's output over these spans, run as one batch: float64 [blocks, rows, hidden]."""
    pad = loaded.tokenizer.pad_token_id if pad is None else pad
    ids, mask = padded([spans[index].tokens for index in indices], pad)
    weights = torch.zeros(ids.shape, dtype=torch.float64)  # [rows, tokens]: the weights of a mean over the span
    for weight, index in zip(weights, indices, strict=True):
        span = spans[index]
        weight[span.start : span.stop] = 1 / (span.stop - span.start)
    device = loaded.model.device
    with _block_means(loaded, weights) as means, running(loaded):
        # the model without its head: the logits are not needed
        loaded.model.base_model(input_ids=ids.to(device), attention_mask=mask.to(device), use_cache=False)
    return torch.stack(means)


@contextlib.contextmanager
def _block_means(loaded: LoadedModel, weights: Tensor) -> Iterator[list[Tensor]]:
    """Collect, for each decoder block in order, the weighted sum of its output over tokens.

    `weights` is [rows, tokens]; a forward pass inside the `with` appends L tensors, float64 [rows, hidden]. A block
    that text alone does not run (Llama 3.2 Vision's cross-attention) has no output; it is refused by number.
    """
    means: list[Tensor] = []
    name = loaded.checkpoint.name

    def hook_of(number: int) -> Callable[[nn.Module, tuple, Tensor | Sequence], None]:
        def hook(module: nn.Module, inputs: tuple, output: Tensor | Sequence) -> None:
            hidden = output if isinstance(output, Tensor) else output[0]
            if hidden.dim() != 3:
                raise WsteerError(
                    f"a block of {name} gives {hidden.dim()} dimensions, not [rows, tokens, hidden]: it has no one "
                    "residual stream; steer its weights instead"
                )
            if len(means) != number:
                raise WsteerError(f"block {min(len(means), number)} of {name} does not run once {ALONE}")
            means.append(torch.einsum("rp,rph->rh", weights, hidden.cpu().double()))

        return hook

    blocks = decoder_blocks(loaded.model)
    hooks = [block.register_forward_hook(hook_of(number)) for number, block in enumerate(blocks)]
    try:
        yield means
    finally:
        for handle in hooks:
            handle.remove()
    if len(means) != len(blocks):
        raise WsteerError(f"block {len(means)} of {name} does not run once {ALONE}")
    if any(not mean.isfinite().all() for mean in means):
        raise WsteerError("the model's activations hold NaN or infinity; try --dtype float32")
