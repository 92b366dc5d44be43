"""The terms that the change of one parameter is a sum of: products of two factors, and dense tensors.

Nothing is read before rows are asked for. A term that depends on the base's weights (`FromBase`) stays symbolic until
it is bound to the base, so it cancels if both sides of a difference hold it.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.tensors import TensorEntry, read_rows, read_tensor

if TYPE_CHECKING:
    from wsteer.checkpoints.conversion import Part


@runtime_checkable
class Factor(Protocol):
    """A factor that is made when it is needed: `read` gives it whole, float32."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def read(self) -> Tensor: ...


@runtime_checkable
class Computed(Protocol):
    """A dense tensor that is computed row by row: `rows` gives new float32 or float64 memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def rows(self, start: int, stop: int) -> Tensor: ...


@runtime_checkable
class FromBase(Protocol):
    """A part of a change that depends on the base's weights; equal ones on both sides of a difference cancel."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def bound(self, base: Checkpoint) -> "Term": ...


@dataclass(frozen=True)
class LowRank:
    """The term `lora_B @ lora_A`: lora_B [out, r], lora_A [r, in], in memory, in a file, or made on demand."""

    lora_B: Tensor | TensorEntry | Factor
    lora_A: Tensor | TensorEntry | Factor

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the product."""
        return (self.lora_B.shape[0], self.lora_A.shape[1])


@dataclass(frozen=True)
class Dense:
    """The term that is one tensor: in memory, in a file, computed row by row, or known only with the base."""

    tensor: Tensor | TensorEntry | Computed | FromBase

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        return tuple(self.tensor.shape)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` as new float32 (or float64) memory that the caller may overwrite."""
        if isinstance(self.tensor, TensorEntry):
            rows = read_rows(self.tensor, start, stop)
        elif isinstance(self.tensor, Tensor):
            rows = (self.tensor if self.tensor.dim() else self.tensor[None])[start:stop]
        elif isinstance(self.tensor, Computed):
            return self.tensor.rows(start, stop)
        else:
            raise AssertionError("the base's weights decide this term: bind it to the base before rows are asked for")
        return rows.to(torch.promote_types(rows.dtype, torch.float32), copy=isinstance(self.tensor, Tensor))


Term = LowRank | Dense
Terms = tuple[tuple[float, Term], ...]
LowRankTerms = tuple[tuple[float, LowRank], ...]


@dataclass(frozen=True)
class Transposed:
    """A stored matrix read transposed: layers that keep their weight as [in, out] swap the roles of the factors."""

    entry: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape as read."""
        return self.entry.shape[::-1]

    def read(self) -> Tensor:
        """The matrix, float32."""
        return read_factor(self.entry).T.contiguous()


@dataclass(frozen=True)
class RowsOfFactor:
    """Rows `start` to `stop` of B as rows from `first` on of a factor of `height` rows, the others zero."""

    factor: Tensor | TensorEntry | Factor
    start: int
    stop: int
    first: int
    height: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the factor."""
        return (self.height, self.factor.shape[1])

    def read(self) -> Tensor:
        """The factor, float32."""
        whole = torch.zeros(self.shape)
        whole[self.first : self.first + self.stop - self.start] = read_factor(self.factor)[self.start : self.stop]
        return whole


def rows_of_terms(terms: Terms, part: "Part", height: int, where: object) -> Terms:
    """The change of a tensor of the files, of `height` rows, if these terms change a weight that has a part of it."""
    found = []
    for scale, term in terms:
        if not isinstance(term, LowRank):
            raise WsteerError(
                f"{where}: {part.parameter} is made of parts of other tensors, for which only plain LoRA is read; "
                "merge it with peft in float32 and diff that"
            )
        rows = part.index[0] if part.index else slice(0, term.shape[0])
        if not isinstance(rows, slice):
            raise AssertionError("a weight of a module holds no experts")
        first = part.rows[0] if part.rows else 0
        found.append((scale, LowRank(RowsOfFactor(term.lora_B, rows.start, rows.stop, first, height), term.lora_A)))
    return tuple(found)


@dataclass(frozen=True)
class Change:
    """The change of one parameter, ready to be computed: `lora_B @ lora_A` plus scaled dense terms."""

    shape: tuple[int, ...]
    factors: tuple[Tensor, Tensor] | None
    dense: tuple[tuple[float, Dense], ...]

    @property
    def lora_A(self) -> Tensor:
        """The right factor, of a change that has factors."""
        if self.factors is None:
            raise AssertionError("the change has no factors")
        return self.factors[1]

    @cached_property
    def packed(self) -> Tensor:
        """lora_A as oneDNN's products use it, which would else bring it into this layout for every block of rows."""
        return torch.ops.mkldnn._reorder_linear_weight(self.lora_A.T)

    @staticmethod
    def of(terms: Terms) -> "Change":
        """The sum of `terms`, its factors read and concatenated along the rank (float32)."""
        check_sources(terms)
        low_rank = [(scale, term) for scale, term in terms if isinstance(term, LowRank)]
        dense = tuple((scale, term) for scale, term in terms if isinstance(term, Dense))
        factors = None
        if low_rank:
            lora_B = torch.cat([scale * read_factor(term.lora_B) for scale, term in low_rank], dim=1)
            # transposed in memory: oneDNN then multiplies twice as fast, and packs it quicker
            lora_A = torch.cat([read_factor(term.lora_A).T for _, term in low_rank], dim=1).T
            factors = (lora_B, lora_A)
        return Change(terms[0][1].shape, factors, dense)

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop` of the change: float32 (float64 where a float64 tensor takes part).

        Two functions do not use this: `steering.folding.fold` adds the terms to the base's rows, to round once, and
        `deltas.gram.TermRows` keeps the terms apart, for the dot products of several sums.
        """
        total = None
        if self.factors is not None:
            lora_B, lora_A = self.factors
            total = lora_B[start:stop] @ lora_A
        for scale, term in self.dense:
            rows = term.rows(start, stop).mul_(scale)
            total = rows if total is None else total + rows
        if total is None:
            raise AssertionError("a parameter without terms is never stored")
        return total


def read_factor(factor: Tensor | TensorEntry | Factor) -> Tensor:
    """A factor as float32 [rows, columns]; one that holds NaN or infinity is an error that names it."""
    if isinstance(factor, Tensor):
        return factor.float()
    if not isinstance(factor, TensorEntry):
        return factor.read()
    tensor = read_tensor(factor).float()
    if not all_finite(tensor):
        raise WsteerError(f"{factor.file}: {factor.name!r} holds NaN or infinity; the training run diverged")
    return tensor


def all_finite(tensor: Tensor) -> bool:
    """Whether no entry is NaN or infinite."""
    # the sum is finite unless an entry is not, or the sum overflows: only then check every entry
    total = tensor.sum(dtype=torch.float32 if tensor.dtype == torch.float16 else None)
    return math.isfinite(total) or bool(torch.isfinite(tensor).all())


def check_written(name: str, tensor: Tensor) -> Tensor:
    """The tensor as float32, a part of the change of `name` to be written; NaN or infinity there is an error."""
    tensor = tensor.float()  # before the check: a float64 may overflow
    if not all_finite(tensor):
        raise WsteerError(
            f"the change of {name} becomes NaN or infinite; lower its factor, or look for NaN in what it is made from"
        )
    return tensor


def check_sources(*sums: Terms) -> None:
    """Refuse terms in a file that was replaced after it was opened: other numbers would be read, or parts of others."""
    parts = [part for terms in sums for _, term in terms for part in vars(term).values()]
    check_unchanged({part.file for part in parts if isinstance(part, TensorEntry)})


def simplified(terms: Terms) -> Terms:
    """The terms, with scales of equal ones (see `source_key`) added up, without those whose scales add up to zero."""
    totals: dict[object, float] = {}
    for scale, term in terms:
        key = source_key(term)
        totals[key] = totals.get(key, 0.0) + scale
    kept = {source_key(term): term for _, term in terms if totals[source_key(term)] != 0}
    return tuple((totals[key], term) for key, term in kept.items())


def source_key(term: Term) -> object:
    """A key that is equal for terms of the same values: the same place in a file, or the same tensor in memory."""
    sources = (term.lora_B, term.lora_A) if isinstance(term, LowRank) else (term.tensor,)
    return (type(term), *(id(source) if isinstance(source, Tensor) else source for source in sources))


def is_low_rank(terms: Terms) -> TypeGuard[LowRankTerms]:
    """Whether all terms are products."""
    return all(isinstance(term, LowRank) for _, term in terms)
