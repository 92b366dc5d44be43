"""Singular values of a delta's matrices beside those of noise: how many directions a change really has."""

import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wsteer.checkpoints.names import layer_name, likely_path, module_name
from wsteer.deltas.delta import Delta
from wsteer.deltas.rankspace import NEGLIGIBLE, rank_spaces
from wsteer.deltas.terms import Change, is_low_rank
from wsteer.files.tensors import row_blocks
from wsteer.files.text import write_csv
from wsteer.progress import Progress, silent

RESOLUTION = 1e-7  # of the largest: smaller singular values come from the rounding of a dense matrix to float32
COLUMNS = 1024  # columns of a wide matrix in float64 at once
CONVOLUTION = re.compile("conv", re.IGNORECASE)
VALUES, MATRICES = "spectrum.csv", "matrices.csv"
PLACE = ("parameter", "part", "layer", "module")


@dataclass(frozen=True)
class Spectrum:
    """The singular values of one matrix M [rows, columns], descending, float64; those that are rounding are left out.

    `part` is the matrix's index where a parameter is a stack of them, as of experts. `edge` is the Marchenko-Pastur
    edge: for noise of the same norm, independent entries of the variance s² = ‖M‖²/(rows·columns), the largest singular
    value tends to s·(√rows + √columns) (Marchenko and Pastur 1967; Geman 1980). Values above it are no such noise.

    `random_b_edge`, for a change in factors, is what the largest one is at most about if B is noise and A is as it is:
    ‖M‖·(1 + √(r/rows))·σ₁(A)/‖A‖, from E‖BA‖² = rows·s²·‖A‖² and σ₁(BA) ≤ s·(√rows + √r)·σ₁(A). A matrix of rank r has
    its whole norm in r values, and most of them stand above the first edge, whatever it learned; this one tells how
    many directions B prefers. It is None after a truncation, whose A is made from the change itself.
    """

    parameter: str
    part: int | None
    layer: str
    module: str
    shape: tuple[int, int]
    values: Tensor
    edge: float
    random_b_edge: float | None

    @property
    def square(self) -> float:
        """The squared norm of the matrix."""
        return float((self.values**2).sum())

    @property
    def stable_rank(self) -> float | None:
        """‖M‖²/σ₁², from 1 to the rank; None for a matrix of zeros."""
        return self.square / float(self.values[0]) ** 2 if len(self.values) else None

    @property
    def above(self) -> int:
        """How many singular values are above the Marchenko-Pastur edge."""
        return int((self.values > self.edge).sum())

    @property
    def above_random_b(self) -> int | None:
        """How many are above the edge of a random B."""
        return None if self.random_b_edge is None else int((self.values > self.random_b_edge).sum())


@dataclass(frozen=True)
class ModuleSpectrum:
    """The matrices of one kind of module, as `q_proj`, that change: how many, and medians over them."""

    matrices: int
    rank: float
    stable_rank: float
    above: float
    above_random_b: float | None


@dataclass(frozen=True)
class SpectrumReport:
    """The folder with the spectra, and a summary for each kind of module."""

    output: str
    matrices: int
    modules: dict[str, ModuleSpectrum]


def matrices(name: str, shape: Sequence[int]) -> list[tuple[int | None, tuple[int, int]]]:
    """The matrices of a parameter: (index in a stack or None, shape). A vector has none.

    Three dimensions are a stack of matrices, as of experts; the kernel of a convolution is one matrix of its output by
    all the rest.
    """
    if len(shape) < 2 or 0 in shape:
        return []
    if len(shape) == 3 and not CONVOLUTION.search(name):
        return [(part, (shape[1], shape[2])) for part in range(shape[0])]
    return [(None, (shape[0], torch.Size(shape[1:]).numel()))]


def spectra(delta: Delta, progress: Progress = silent) -> Iterator[Spectrum]:
    """The spectrum of every matrix of a delta from a file, in the order of their names.

    Of low-rank changes no matrix is formed. A dense one costs the Gram matrix of its smaller side and that one's
    eigenvalues: 4 to 9 times faster than a singular value decomposition, and as exact as float32 entries allow. Of
    4096 x 14336 entries it still takes half a minute on a core. One matrix is in memory at a time.
    """
    blocks = delta.blocks or likely_path(delta.terms)
    whole = "rank" not in delta.options  # else its A is no fine-tune's
    jobs = [(name, *each) for name in sorted(delta.terms) for each in matrices(name, delta.shape(name))]
    for name, part, shape in progress(jobs, "spectrum"):
        values, random_b = (
            _low_rank(delta, name) if is_low_rank(delta.terms[name]) else _dense(delta, name, part, shape)
        )
        norm = float((values**2).sum()) ** 0.5
        yield Spectrum(
            name,
            part,
            layer_name(name, blocks),
            module_name(name),
            shape,
            values,
            norm * (shape[0] ** -0.5 + shape[1] ** -0.5),
            None if random_b is None or not whole else norm * random_b,
        )


def _low_rank(delta: Delta, name: str) -> tuple[Tensor, float | None]:
    """The singular values of a product, and the edge of a random B over the norm: M = Y Qᵀ has those of Y."""
    terms = delta.terms[name]
    if not is_low_rank(terms):
        raise AssertionError(f"the change of {name} is not low-rank")
    (space,) = rank_spaces(name, [terms])
    height, rank = space.B.shape[0], len(space.scales)
    if not rank:  # an A of zeros
        return torch.zeros(0, dtype=torch.float64), None
    values = torch.linalg.svdvals(torch.linalg.qr(space.rows(slice(None)), mode="r").R)
    edge = (1 + (rank / height) ** 0.5) * float(space.scales[0] / (space.scales**2).sum().sqrt())
    return values[values > NEGLIGIBLE * values[0]], edge


def _dense(delta: Delta, name: str, part: int | None, shape: tuple[int, int]) -> tuple[Tensor, None]:
    change = Change.of(delta.terms[name])
    if part is not None:
        matrix = change.rows(part, part + 1)[0]
        return singular_values(lambda start, stop: matrix[start:stop], shape), None
    return singular_values(lambda start, stop: change.rows(start, stop).flatten(1), shape), None


def singular_values(rows: Callable[[int, int], Tensor], shape: tuple[int, int]) -> Tensor:
    """The singular values of a matrix whose rows `rows(start, stop)` gives: descending, float64, without rounding's.

    They are the roots of the eigenvalues of the Gram matrix of the smaller side, in float64.
    """
    size = min(shape)
    gram = torch.zeros(size, size, dtype=torch.float64)
    if shape[0] >= shape[1]:
        for start, stop in row_blocks(shape):
            block = rows(start, stop).double()
            gram.addmm_(block.T, block)
    else:
        whole = torch.cat([rows(start, stop) for start, stop in row_blocks(shape)])
        for start in range(0, shape[1], COLUMNS):
            block = whole[:, start : start + COLUMNS].double()
            gram.addmm_(block, block.T)
    values = torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().flip(0)
    return values[values > RESOLUTION * values[0]]


def summary(output: Path, found: Sequence[Spectrum]) -> SpectrumReport:
    """The medians by kind of module; a kind whose matrices are all zero is left out."""
    kinds: dict[str, list[Spectrum]] = {}
    for each in found:
        if len(each.values):
            kinds.setdefault(each.module, []).append(each)
    return SpectrumReport(str(output), len(found), {kind: _medians(kinds[kind]) for kind in sorted(kinds)})


def _medians(found: Sequence[Spectrum]) -> ModuleSpectrum:
    beyond = [each.above_random_b for each in found if each.above_random_b is not None]
    return ModuleSpectrum(
        matrices=len(found),
        rank=_median(len(each.values) for each in found),
        stable_rank=_median(each.stable_rank or 0.0 for each in found),
        above=_median(each.above for each in found),
        above_random_b=_median(beyond) if beyond else None,
    )


def _median(values: Iterable[float]) -> float:
    return float(statistics.median(values))


def write_tables(folder: Path, found: Sequence[Spectrum]) -> None:
    """spectrum.csv, a line for each singular value, and matrices.csv, a line for each matrix."""
    write_csv(folder / VALUES, (*PLACE, "index", "singular_value", "energy"), _value_rows(found))
    columns = ("rows", "columns", "rank", "norm", "stable_rank", "edge", "above", "random_b_edge", "above_random_b")
    write_csv(folder / MATRICES, (*PLACE, *columns), map(_matrix_row, found))


def _place(each: Spectrum) -> dict[str, object]:
    return {name: getattr(each, name) for name in PLACE}


def _value_rows(found: Sequence[Spectrum]) -> Iterator[Mapping[str, object]]:
    for each in found:
        total, place = each.square, _place(each)
        for index, value in enumerate(each.values.tolist()):
            yield {**place, "index": index, "singular_value": value, "energy": value**2 / total}


def _matrix_row(each: Spectrum) -> Mapping[str, object]:
    return {
        **_place(each),
        "rows": each.shape[0],
        "columns": each.shape[1],
        "rank": len(each.values),
        "norm": each.square**0.5,
        "stable_rank": each.stable_rank,
        "edge": each.edge,
        "above": each.above,
        "random_b_edge": each.random_b_edge,
        "above_random_b": each.above_random_b,
    }
