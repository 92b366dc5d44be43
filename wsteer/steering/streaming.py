"""Weight files written as a stream: unchanged bytes are copied, changed tensors are folded in blocks of rows."""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import zip_longest
from pathlib import Path

import torch

from wsteer.deltas.delta import Delta
from wsteer.deltas.terms import Change
from wsteer.files.flushing import flushing
from wsteer.files.tensors import COPY_BYTES, DTYPES, copy_range, read_header, read_rows, row_blocks, write_at
from wsteer.progress import Progress, silent
from wsteer.steering.folding import fold
from wsteer.steering.layout import OutputFile, OutputTensor
from wsteer.steering.rounding import Rounding
from wsteer.steering.scratch import thread_scratch
from wsteer.workers import in_order, worker_count

JOB_BLOCKS = 8  # blocks of rows that a thread takes at a time
UNFINISHED = ".unfinished"  # the suffix of a weight file while it is written


@dataclass(frozen=True)
class Output:
    """One checkpoint to write: its folder, and the k and the rounding of the added delta."""

    folder: Path
    k: float
    rounding: Rounding


@dataclass(frozen=True)
class _Writing:
    """A file being written, once for each output. Threads take turns by a lock; in the kernel they would spin."""

    file: OutputFile
    outputs: Sequence[Output]
    descriptors: tuple[int, ...]
    turn: threading.Lock


def write_files(
    files: Sequence[OutputFile],
    outputs: Sequence[Output],
    delta: Delta,
    finished: Callable[[], None],
    progress: Progress = silent,
) -> None:
    """Write each of `files` for every output.

    A file gets its own name only when it is complete and on the disk. As many files are written at a time as there are
    threads, since only one thread at a time can write to a file; `finished` is called after each such group.
    """
    for first in range(0, len(files), worker_count()):
        _write_together(files[first : first + worker_count()], outputs, delta, progress)
        finished()


def is_written(file: OutputFile, path: Path) -> bool:
    """Whether `path` is this file, finished: a file gets its name last, but what was left may have been cut or changed.

    Its size and its header are compared with the plan; its weights are not.
    """
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    length = min(tensor.begin for tensor in file.tensors) if file.tensors else file.size
    return _first_bytes(path, length) == (_first_bytes(file.kept, length) if file.kept else file.header)


def _first_bytes(path: Path, length: int) -> bytes:
    with open(path, "rb") as file:
        return file.read(length)


def _write_together(files: Sequence[OutputFile], outputs: Sequence[Output], delta: Delta, progress: Progress) -> None:
    finals = [[output.folder / file.name for output in outputs] for file in files]
    with contextlib.ExitStack() as stack:
        jobs = []
        opened: list[int] = []
        for file, paths in zip(files, finals, strict=True):
            descriptors = tuple(_created(_unfinished(path), stack) for path in paths)
            opened += descriptors
            for descriptor in descriptors:
                os.pwrite(descriptor, file.header, 0)
            jobs.append(_jobs(_Writing(file, outputs, descriptors, threading.Lock()), delta, progress))
        with flushing(opened):
            for _ in in_order(lambda job: job(), _alternating(jobs)):
                pass
    for file, paths in zip(files, finals, strict=True):
        for path in paths:
            _check_header(file, _unfinished(path))
            os.rename(_unfinished(path), path)


def _check_header(file: OutputFile, path: Path) -> None:
    """Read the header of the finished file again: it must be one that safetensors takes, and list what was planned."""
    planned = {tensor.name: (tensor.dtype, tensor.shape, tensor.begin) for tensor in file.tensors}
    if {name: (entry.dtype, entry.shape, entry.begin) for name, entry in read_header(path)[0].items()} != planned:
        raise AssertionError(f"{path} does not hold the tensors that were planned")


def _unfinished(path: Path) -> Path:
    return path.with_name(path.name + UNFINISHED)


def _created(path: Path, stack: contextlib.ExitStack) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
    stack.callback(os.close, descriptor)
    return descriptor


def _alternating(sequences: Sequence[Iterator[Callable[[], None]]]) -> Iterator[Callable[[], None]]:
    """One item of each sequence in turn, until all have ended."""
    for items in zip_longest(*sequences):
        yield from (item for item in items if item is not None)


def _jobs(writing: _Writing, delta: Delta, progress: Progress) -> Iterator[Callable[[], None]]:
    """The work on one file: the ranges that are copied, then the blocks of rows that are computed, each in order."""
    file = writing.file
    rewritten = [tensor for tensor in file.tensors if _is_computed(tensor, delta)]
    copied = [tensor for tensor in file.tensors if not _is_computed(tensor, delta)]
    ranges = _kept_ranges(file.kept, file.size, rewritten) if file.kept else _moved_ranges(copied)
    for source, begin, target, length in ranges:
        for offset in range(0, length, COPY_BYTES):
            size = min(COPY_BYTES, length - offset)
            yield partial(_copy, source, begin + offset, writing, target + offset, size)
    for tensor in progress(rewritten, file.name):
        name = tensor.parameter
        change = delta.change(name) if name in delta.terms else Change(tensor.shape, None, ())
        blocks = list(row_blocks(tensor.shape))
        for first in range(0, len(blocks), JOB_BLOCKS):
            job = blocks[first : first + JOB_BLOCKS]
            yield partial(_fold, tensor, change, job, writing)


def _is_computed(tensor: OutputTensor, delta: Delta) -> bool:
    return tensor.parameter in delta.terms or tensor.source is None or tensor.dtype != tensor.source.dtype


def _kept_ranges(kept: Path, size: int, rewritten: Sequence[OutputTensor]) -> Iterator[tuple[Path, int, int, int]]:
    """The ranges between the rewritten tensors of a file of `size` bytes with the layout of the base's file `kept`.

    Each range is (source, its offset there, its offset in the output, length).
    """
    position = 0
    for tensor in rewritten:
        if tensor.begin > position:
            yield kept, position, position, tensor.begin - position
        position = tensor.begin + tensor.size
    if size > position:
        yield kept, position, position, size - position


def _moved_ranges(copied: Sequence[OutputTensor]) -> Iterator[tuple[Path, int, int, int]]:
    for tensor in copied:
        if tensor.source is not None and tensor.size:
            yield tensor.source.file, tensor.source.begin, tensor.begin, tensor.size


def _copy(source: Path, begin: int, writing: _Writing, target: int, length: int) -> None:
    with open(source, "rb", buffering=0) as reader:
        for descriptor in writing.descriptors:
            with writing.turn:
                copy_range(reader.fileno(), begin, descriptor, target, length)


def _fold(
    tensor: OutputTensor,
    change: Change,
    blocks: Sequence[tuple[int, int]],
    writing: _Writing,
) -> None:
    """Read blocks of rows one by one, fold each output's change into them, and write them to that output."""
    scratch = thread_scratch()
    dtype = DTYPES[tensor.dtype]
    row_bytes = tensor.size // max(tensor.shape[0] if tensor.shape else 1, 1)
    for start, stop in blocks:
        shape = (stop - start, *tensor.shape[1:])
        if tensor.source is None:
            base = torch.zeros(shape, dtype=dtype)
        else:
            base = read_rows(tensor.source, start, stop, scratch.tensor("base", shape, DTYPES[tensor.source.dtype]))
        for descriptor, output in zip(writing.descriptors, writing.outputs, strict=True):
            rows = base
            if output.k != 0 or base.dtype != dtype:
                rows = fold(tensor.parameter, base, change, start, output.k, output.rounding, dtype, scratch)
            with writing.turn:
                write_at(descriptor, rows, tensor.begin + start * row_bytes)
