"""Faster routines of torch for training in float32 on a CPU."""

import contextlib
from collections.abc import Iterator

import torch
from transformers import PreTrainedModel


@contextlib.contextmanager
def quick_on_cpu(model: PreTrainedModel, dtype: str, longest: int) -> Iterator[None]:
    """Run the `with` body with torch's faster matrix products and attention, for rows of up to `longest` tokens.

    "medium" lets oneDNN multiply float32 matrices: with bfloat16 operands and float32 sums if the processor has tiles
    for them (AMX), else only in float32. On AMD's processors that is as exact as MKL and twice as fast, since MKL uses
    no more than AVX2 there. On short rows the matrices are too small for fused attention to be fast, so plain attention
    replaces it; that keeps all attention weights for the backward pass, but no more memory than the MLP keeps.

    Does nothing for a model on another device or in another type, or if the user's `dtype` is not auto.
    """
    if dtype != "auto" or model.device.type != "cpu" or model.dtype != torch.float32:
        yield
        return
    config = model.config.get_text_config()
    precision, attention = torch.get_float32_matmul_precision(), config._attn_implementation
    heads, width = (getattr(config, key, None) or 0 for key in ("num_attention_heads", "intermediate_size"))
    width = min(width) if isinstance(width, list) else width  # Gemma 3n has one for each block
    short = 0 < heads * longest <= width
    torch.set_float32_matmul_precision("medium")
    if short and attention == "sdpa":
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(precision)
        model.set_attn_implementation(attention)
