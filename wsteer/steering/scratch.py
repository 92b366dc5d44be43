"""Memory that a thread reuses for every block of rows."""

import math
import threading

import numpy as np
import torch
from torch import Tensor


class Scratch:
    """Buffers of one thread, reused for every block: new memory of this size costs more than the arithmetic."""

    def __init__(self) -> None:
        self._buffers: dict[str, Tensor] = {}
        self._views: dict[tuple[str, tuple[int, ...], torch.dtype], Tensor] = {}

    def tensor(self, purpose: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Memory of this shape, overwritten by the next call with the same purpose."""
        key = (purpose, shape, dtype)
        if key not in self._views:  # a new view is cheap, but a thread must wait for the GIL
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


_scratches = threading.local()  # a worker's buffers are freed when its thread ends


def thread_scratch() -> Scratch:
    """The buffers of the calling thread."""
    if not hasattr(_scratches, "scratch"):
        _scratches.scratch = Scratch()
    return _scratches.scratch
