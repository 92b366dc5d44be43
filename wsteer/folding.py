"""base + k·change in float32, rounded once: the one fold that steering on disk and in memory both go through."""

import hashlib
import math
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wsteer.delta import Delta
from wsteer.errors import WsteerError
from wsteer.tensorfile import TensorEntry, read_rows
from wsteer.terms import Change
from wsteer.workers import in_order

NEAREST_FROM = 0.99  # the gain of rounding to nearest from which auto keeps to it
SAMPLED_ROWS = 16  # of each tensor, in four runs, on which gains are estimated; more where rows are short
SAMPLED_ENTRIES = 1 << 14
DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}  # of a float32's mantissa; float16 also has fewer exponents
WEYL = 0x9E3779B1  # an odd number near 2³² divided by the golden ratio: its multiples cover all 32-bit numbers evenly
ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
SMALLEST_NORMAL = 2.0**-14  # of float16, below which its places are 2⁻²⁴ apart


@dataclass(frozen=True)
class Rounding:
    """How a fold is rounded to the stored dtype: to nearest, or stochastically with noise that `seed` fixes."""

    stochastic: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        """As reports call it."""
        return "stochastic" if self.stochastic else "nearest"


class Scratch:
    """Buffers of one thread, used again for every block: fresh memory of this size costs more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}

    def tensor(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of this shape, overwritten by the next call with the same purpose."""
        key = (purpose, shape, dtype)
        if key not in self._views:  # a view costs little, but in a thread it costs a turn at the interpreter's lock
            size = math.prod(shape) * dtype.itemsize
            held = self._buffers.get(purpose)
            if held is None or held.numel() < size:
                held = self._buffers[purpose] = torch.empty(size, dtype=torch.uint8)
                self._views.clear()
            self._views[key] = held[:size].view(dtype).view(shape)
        return self._views[key]

    def array(self, purpose: str, count: int) -> np.ndarray:
        """The same as an array of `count` unsigned 32-bit integers."""
        return self.tensor(purpose, (count,), torch.int32).numpy().view(np.uint32)


_scratches = threading.local()


def thread_scratch() -> Scratch:
    """The buffers of the thread that asks."""
    if not hasattr(_scratches, "scratch"):
        _scratches.scratch = Scratch()
    return _scratches.scratch


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

    Computed in float32 (float64 for float64) and rounded once, to `dtype` where that is given. The result may lie in
    `scratch`. A result that is not finite is an error that names the parameter.
    """
    if abs(k) > torch.finfo(torch.float32).max:
        raise WsteerError(f"k = {k:g} is beyond the range of float32; lower --k")
    scratch = scratch or Scratch()
    rows, target = base.shape[0], dtype or base.dtype
    wide = scratch.tensor("wide", base.shape, torch.promote_types(base.dtype, torch.float32)).copy_(base)
    if change.factors is not None:
        lora_B, lora_A = change.factors
        wide = _plus_product(wide, lora_B[start : start + rows], lora_A, k)
    for scale, term in change.dense:
        added = term.rows(start, start + rows)
        wide = wide.to(torch.promote_types(wide.dtype, added.dtype)).add_(added, alpha=k * scale)
    if rounding.stochastic and target in DROPPED_BITS:
        first = start * (base.numel() // max(rows, 1))
        wide = rounded_stochastically(wide.float(), target, rounding.seed, name, first, scratch)
    written = wide if target == wide.dtype else scratch.tensor("written", base.shape, target).copy_(wide)
    _check_finite(name, written)
    return written


def _plus_product(wide: Tensor, left: Tensor, right: Tensor, k: float) -> Tensor:
    """wide + k·left @ right, in the dtype of `wide`; the result may lie in `wide`.

    float32 goes to oneDNN where torch has it: on AMD's processors its products are up to twice as fast as MKL's, which
    stop at AVX2 there, and as exact.
    """
    if ONEDNN and wide.dtype == right.dtype == torch.float32 and wide.device.type == "cpu" and wide.numel():
        return torch.ops.mkldnn._linear_pointwise.binary(k * left, wide, right.T, None, "add")
    return wide.addmm_(left.to(wide.dtype), right.to(wide.dtype), alpha=k)


def _check_finite(name: str, written: Tensor) -> None:
    # a sum shows NaN and infinity, and can overflow for finite entries too: only then is each looked at
    total = written.sum(dtype=torch.float32 if written.dtype == torch.float16 else None)
    if not math.isfinite(total) and not torch.isfinite(written).all():
        raise WsteerError(f"{name} becomes NaN or infinite; lower --k, or look for NaN in the delta and the base")


def rounded_stochastically(
    wide: Tensor, dtype: torch.dtype, seed: int, name: str, first: int, scratch: Scratch | None = None
) -> Tensor:
    """float32 values that a 16-bit dtype holds: `wide` rounded up or down so that its expectation is kept.

    Random bits below the last place are added and the rest is cut off, so that representable values stay as they are.
    `first` is the index in the parameter of the tensor's first element: the noise of an element depends on nothing but
    seed, name and index. `wide`, float32 and contiguous, is overwritten.
    """
    noise = _noise(seed, name, first, wide.numel(), scratch or Scratch())
    dropped = DROPPED_BITS[dtype]
    small = None
    if dtype == torch.float16:
        # below the smallest normal number the places of float16 no longer shrink with the exponent
        below = (wide.view(-1).abs() < SMALLEST_NORMAL).nonzero()[:, 0]
        uniform = torch.from_numpy(noise[below.numpy()].astype(np.float32)) * 2.0**-16
        small = torch.floor(wide.view(-1)[below] * 2.0**24 + uniform) * 2.0**-24
        noise >>= np.uint16(16 - dropped)
    bits = wide.view(-1).numpy().view(np.uint32)
    bits += noise
    bits &= np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    if small is not None:
        wide.view(-1)[below] = small
    return wide


def _noise(seed: int, name: str, first: int, count: int, scratch: Scratch) -> np.ndarray:
    """16 random bits for each of the elements `first` to `first + count`: a hash of the counter, two from each value.

    The hash is the finaliser of MurmurHash3 on a Weyl sequence, keyed by seed and name.
    """
    key = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    offset, mask = np.frombuffer(key, dtype="<u4")
    size = (first + count + 1) // 2 - first // 2
    pairs, shifted = scratch.array("pairs", size), scratch.array("shifted", size)
    begin = np.uint32((first // 2 * WEYL + int(offset)) & 0xFFFFFFFF)
    np.add(_weyl_sequence(max(size, 1 << 18))[:size], begin, out=pairs)
    pairs ^= np.right_shift(pairs, np.uint32(16), out=shifted)
    pairs *= np.uint32(0x85EBCA6B)
    pairs ^= mask
    pairs ^= np.right_shift(pairs, np.uint32(13), out=shifted)
    pairs *= np.uint32(0xC2B2AE35)
    pairs ^= np.right_shift(pairs, np.uint32(16), out=shifted)
    return pairs.view(np.uint16)[first % 2 : first % 2 + count]


@lru_cache(maxsize=1)
def _weyl_sequence(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint32) * np.uint32(WEYL)


@dataclass(frozen=True)
class Gains:
    """The gain over all tensors and of each, on a sample of their rows; None and empty where nothing was intended."""

    overall: float | None
    by_name: dict[str, float]


Target = tuple[str, TensorEntry | Tensor | None, torch.dtype]  # name, the base's values (None: zeros), dtype written


def choose_rounding(
    delta: Delta, targets: Sequence[Target], ks: Sequence[float], rounding: str, seed: int
) -> list[tuple[Rounding, str, Gains]]:
    """For each k how base + k·delta is rounded, why, and the gains of that, where `rounding` is asked for.

    `auto` rounds to nearest where the gain on the sample is 0.99 or more, else stochastically.
    """
    nearest, stochastic = Rounding(), Rounding(True, seed)
    first = stochastic if rounding == "stochastic" else nearest
    gains = _sampled_gains(delta, targets, [k for k in ks if k != 0], first)
    lossy = any(dtype in DROPPED_BITS for _, _, dtype in targets)
    low = [k for k, gain in gains.items() if rounding == "auto" and lossy and gain.overall < NEAREST_FROM]
    again = _sampled_gains(delta, targets, low, stochastic)
    chosen = []
    for k in ks:
        if k == 0:
            chosen.append((nearest, "k is 0: the base's bytes", Gains(None, {})))
        elif rounding != "auto":
            chosen.append((first, "asked for", gains[k]))
        else:
            why = f"rounding to nearest keeps {gains[k].overall:.1%} of the change"
            chosen.append((stochastic, why, again[k]) if k in again else (nearest, why, gains[k]))
    return chosen


def _sampled_gains(
    delta: Delta, targets: Sequence[Target], ks: Sequence[float], rounding: Rounding
) -> dict[float, Gains]:
    if not ks:
        return {}
    parts = list(in_order(lambda target: _sampled_dots(delta, target, ks, rounding), targets))
    gains = {}
    for position, k in enumerate(ks):
        dots = {name: part[position] for (name, _, _), part in zip(targets, parts, strict=True)}
        total, square = (sum(dot[side] for dot in dots.values()) for side in (0, 1))
        named = {name: dot / norm for name, (dot, norm) in dots.items() if norm}
        gains[k] = Gains(total / square if square else 1.0, named)
    return gains


def _sampled_dots(delta: Delta, target: Target, ks: Sequence[float], rounding: Rounding) -> list[tuple[float, float]]:
    """For each k <written, intended> and |intended|² of one tensor, over a fixed sample of its rows."""
    name, source, dtype = target
    change, scratch = delta.change(name), thread_scratch()
    sums = [(0.0, 0.0)] * len(ks)
    for start, stop in _sampled_rows(change.shape):
        base = base_rows(source, change.shape, dtype, start, stop)
        unit = change.rows(start, stop).double()
        for position, k in enumerate(ks):
            intended = unit * k
            written = fold(name, base, change, start, k, rounding, dtype, scratch).double().sub_(base)
            dot, square = sums[position]
            sums[position] = (dot + float((written * intended).sum()), square + float((intended * intended).sum()))
    return sums


def base_rows(
    source: TensorEntry | Tensor | None, shape: tuple[int, ...], dtype: torch.dtype, start: int, stop: int
) -> Tensor:
    """Rows of the base's values: from a file, from memory, or zeros for a tensor that the base lacks."""
    if source is None:
        return torch.zeros(stop - start, *shape[1:], dtype=dtype)
    if isinstance(source, TensorEntry):
        return read_rows(source, start, stop)
    return (source if source.dim() else source[None])[start:stop]


def _sampled_rows(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    rows = shape[0] if shape else 1
    wanted = max(SAMPLED_ROWS, SAMPLED_ENTRIES // max(math.prod(shape[1:]), 1))
    if rows <= wanted:
        yield 0, rows
        return
    run = wanted // 4
    for quarter in range(4):
        start = quarter * (rows - run) // 3
        yield start, start + run
