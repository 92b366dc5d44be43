"""base + k·change in float32, rounded once: the fold that steering uses, both on disk and in memory."""

import torch
from torch import Tensor

from wsteer.deltas.terms import Change, all_finite
from wsteer.errors import WsteerError
from wsteer.files.tensors import TensorEntry, read_rows
from wsteer.steering.rounding import DROPPED_BITS, Rounding, rounded_stochastically
from wsteer.steering.scratch import Scratch

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def fold(
    name: str,
    base: Tensor,
    change: Change,
    start: int,
    k: float,
    rounding: Rounding,
    dtype: torch.dtype | None = None,
    scratch: Scratch | None = None,
) -> Tensor:
    """Rows from `start` on of parameter `name`: `base` (those rows) plus k times their change, in the base's dtype.

    Computed in float32 (float64 for float64) and rounded once, to `dtype` if given. The result may be memory of
    `scratch`. A result that is not finite is an error that names the parameter.
    """
    if abs(k) > torch.finfo(torch.float32).max:
        raise WsteerError(f"k = {k:g} is beyond the range of float32; lower --k")
    scratch = scratch or Scratch()
    rows, target = base.shape[0], dtype or base.dtype
    wide = scratch.tensor("wide", base.shape, torch.promote_types(base.dtype, torch.float32)).copy_(base)
    if change.factors is not None:
        wide = _plus_product(wide, change.factors[0][start : start + rows], change, k)
    for scale, term in change.dense:
        added = term.rows(start, start + rows)
        wide = wide.to(torch.promote_types(wide.dtype, added.dtype)).add_(added, alpha=k * scale)
    if rounding.stochastic and target in DROPPED_BITS:
        first = start * (base.numel() // max(rows, 1))
        wide = rounded_stochastically(wide.float(), target, rounding.seed, name, first, scratch)
    written = wide if target == wide.dtype else scratch.tensor("written", base.shape, target).copy_(wide)
    _check_finite(name, written)
    return written


def _plus_product(wide: Tensor, left: Tensor, change: Change, k: float) -> Tensor:
    """wide + k·left @ lora_A of the change, in the dtype of `wide`, perhaps in its memory.

    float32 uses oneDNN if torch has it. On AMD's processors its products are as exact as MKL's and up to twice as fast,
    since MKL uses no more than AVX2 there.
    """
    if ONEDNN and wide.dtype == left.dtype == torch.float32 and wide.device.type == "cpu" and wide.numel():
        return torch.ops.mkldnn._linear_pointwise.binary(k * left, wide, change.packed, None, "add")
    return wide.addmm_(left.to(wide.dtype), change.lora_A.to(wide.dtype), alpha=k)


def _check_finite(name: str, written: Tensor) -> None:
    if not all_finite(written):
        raise WsteerError(f"{name} becomes NaN or infinite; lower --k, or look for NaN in the delta and the base")


def base_rows(
    source: TensorEntry | Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, start: int, stop: int
) -> Tensor:
    """Rows of the base's values: from a file, from memory, or zeros for a tensor that the base lacks."""
    if source is None:
        return torch.zeros(stop - start, *shape[1:], dtype=dtype)
    if isinstance(source, TensorEntry):
        return read_rows(source, start, stop)
    return (source if source.dim() else source[None])[start:stop]
