"""Rounding to 16 bits: to nearest, or stochastically, with noise that seed, name and index determine."""

import hashlib
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from wsteer.errors import WsteerError
from wsteer.steering.scratch import Scratch

MODES = ("auto", "nearest", "stochastic")
DROPPED_BITS = {torch.bfloat16: 16, torch.float16: 13}  # of a float32's mantissa; float16 also has fewer exponents
WEYL = 0x9E3779B1  # an odd number near 2³² divided by the golden ratio: its multiples cover all 32-bit numbers evenly
SMALLEST_NORMAL = 2.0**-14  # of float16; smaller values are 2⁻²⁴ apart


@dataclass(frozen=True)
class Rounding:
    """How a fold is rounded to the stored dtype: to `nearest`, or `stochastic`, with noise that `seed` determines.

    `auto` leaves the choice to `gains.choose_rounding`. Raises WsteerError for any other mode.
    """

    mode: str = "nearest"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise WsteerError(f"there is no rounding {self.mode!r}; give one of {', '.join(MODES)}")

    @property
    def stochastic(self) -> bool:
        """Whether noise decides which way a value is rounded."""
        return self.mode == "stochastic"


def rounded_stochastically(
    wide: Tensor, dtype: torch.dtype, seed: int, name: str, first: int, scratch: Scratch | None = None
) -> Tensor:
    """`wide` rounded up or down at random to values of a 16-bit dtype, as float32; the expectation is the exact value.

    Random bits below the last place are added, and the bits below it cut off, so representable values do not change.
    `first` is the index of the tensor's first element in the parameter: the noise of an element depends only on seed,
    name and index. `wide`, float32 and contiguous, is overwritten.
    """
    noise = _noise(seed, name, first, wide.numel(), scratch or Scratch())
    dropped = DROPPED_BITS[dtype]
    small = None
    if dtype == torch.float16:
        # below the smallest normal number the spacing of float16 is constant
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
    """16 random bits for each of the elements `first` to `first + count`: hashes of a counter, two from each hash.

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
