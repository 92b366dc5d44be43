"""Faster routines of torch for training in float32 on a CPU."""

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel


@contextlib.contextmanager
def quick_on_cpu(model: PreTrainedModel, dtype: str, longest: int) -> Iterator[None]:
    """Run the `with` body with the quicker of torch's matrix products and attentions, for rows of `longest` tokens.

    "medium" lets oneDNN multiply float32 matrices: with bfloat16 factors and float32 sums where the processor has tiles
    for those (AMX), else in float32 throughout. On AMD's processors that is twice as fast as MKL, whose kernels for
    them stop at AVX2, and as exact. Fused attention multiplies matrices too small for it on short rows, so there plain
    attention takes its place; it keeps all weights for the backward pass, but no more than the MLP keeps.

    Does nothing for a model elsewhere or in another type, nor where `dtype`, the user's word, is not auto.
    """
    if dtype != "auto" or model.device.type != "cpu" or model.dtype != torch.float32:
        yield
        return
    config = model.config.get_text_config()
    precision, attention = torch.get_float32_matmul_precision(), config._attn_implementation
    short = config.num_attention_heads * longest <= getattr(config, "intermediate_size", 0)
    torch.set_float32_matmul_precision("medium")
    if short and attention == "sdpa":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        model.set_attn_implementation(attention)
