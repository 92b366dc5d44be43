"""The outputs of decoder blocks, recorded as means over spans of tokens."""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from wsteer.errors import WsteerError
from wsteer.models.loading import decoder_blocks


@contextlib.contextmanager
def recorded(model: nn.Module, weights: Tensor) -> Iterator[list[Tensor]]:
    """Collect, for each decoder block in order, the weighted sum over positions of its output.

    `weights` is [rows, positions]; every forward inside the `with` appends L tensors, float64 [rows, hidden].
    """
    means: list[Tensor] = []

    def hook(module: nn.Module, inputs: tuple, output: Tensor | tuple) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        means.append(torch.einsum("rp,rph->rh", weights, hidden.cpu().double()))

    hooks = [block.register_forward_hook(hook) for block in decoder_blocks(model)]
    try:
        yield means
    finally:
        for handle in hooks:
            handle.remove()
    if any(not mean.isfinite().all() for mean in means):
        raise WsteerError("the model's activations hold NaN or infinity; try --dtype float32")
