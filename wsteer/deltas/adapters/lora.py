"""What LoRA and its variants change, as terms: the formulas of peft's merges (tuners/lora), read lazily from factors.

`W` is the base's weight, `B A` the product of the factors, `s` the scale, `m` a magnitude vector, ∘ elementwise.
"""

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor

from wsteer.checkpoints.checkpoint import Checkpoint, base_entry
from wsteer.deltas.terms import Dense, LowRank, Term, read_factor
from wsteer.files.tensors import TensorEntry, read_rows, read_tensor, row_blocks


@dataclass(frozen=True)
class BaseWeight:
    """The base's own parameter, which is subtracted from a value that replaces it (`modules_to_save`, biases, DoRA)."""

    parameter: str
    shape: tuple[int, ...]

    def bound(self, base: Checkpoint) -> Term:
        """The parameter in the base's files."""
        return Dense(base_entry(self.parameter, base))


@dataclass(frozen=True)
class BaseRows:
    """The base's own rows at the trained `tokens`, zero elsewhere; subtracted from the rows that replace them."""

    parameter: str
    shape: tuple[int, ...]
    tokens: tuple[int, ...]

    def bound(self, base: Checkpoint) -> Term:
        """The rows, read."""
        rows = [read_rows(base_entry(self.parameter, base), token, token + 1).float() for token in self.tokens]
        return Dense(TokenRows(self.shape, self.tokens, torch.cat(rows)))


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The given rows `values` [tokens, hidden] of an embedding, zero elsewhere."""

    shape: tuple[int, ...]
    tokens: tuple[int, ...]
    values: Tensor | TensorEntry

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows `start` to `stop`, float32."""
        block, values = torch.zeros(stop - start, *self.shape[1:]), read_factor(self.values)
        for index, token in enumerate(self.tokens):
            if start <= token < stop:
                block[token - start] = values[index]
        return block


@dataclass(frozen=True)
class InitialProduct:
    """The product s·B₀A₀ that a mutating initialisation subtracted from the base, computed from W alone.

    PiSSA: the `rank` largest singular components of W. OLoRA: s·Q[:, :r] R[:r] of W's QR. KaSA: the `rank` smallest
    singular components. All are deterministic, so they cancel between two sides that started in the same way.
    """

    method: str
    parameter: str
    shape: tuple[int, ...]
    rank: int
    scale: float

    def bound(self, base: Checkpoint) -> LowRank:
        """The two factors, computed in float32 as peft does."""
        weight = read_tensor(base_entry(self.parameter, base)).float()
        if self.method == "olora":
            q, r = torch.linalg.qr(weight)
            return LowRank(self.scale * q[:, : self.rank], r[: self.rank].contiguous())
        u, singular, v = torch.linalg.svd(weight, full_matrices=False)
        part = slice(-self.rank, None) if self.method == "kasa" else slice(self.rank)
        return LowRank((u[:, part] * singular[part]).contiguous(), v[part].contiguous())


@dataclass(frozen=True)
class DoraWeight:
    """The weight that DoRA makes of W: V ∘ m / ‖V‖ with V = W + s·BA, norms over rows or (`columns`) over columns.

    Linear layers scale rows; layers that store [in, out] (Conv1D), and embeddings, scale columns. `initial` is what the
    initialisation subtracted from W.
    """

    parameter: str
    product: LowRank
    scale: float
    magnitude: TensorEntry
    columns: bool
    initial: InitialProduct | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of W."""
        return self.product.shape

    def bound(self, base: Checkpoint) -> Term:
        """The weight, computed by rows in float64; column norms take one pass over W."""
        lora_B, lora_A = self.scale * read_factor(self.product.lora_B).double(), read_factor(self.product.lora_A)
        if self.initial is not None:
            taken = self.initial.bound(base)
            lora_B = torch.cat([lora_B, -read_factor(taken.lora_B)], dim=1)
            lora_A = torch.cat([lora_A, read_factor(taken.lora_A)])
        entry = base_entry(self.parameter, base)
        magnitude = read_factor(self.magnitude).double().flatten()
        dora = _DoraRows(entry, lora_B, lora_A.double(), magnitude, None)
        if not self.columns:
            return Dense(dora)
        squares = torch.zeros(entry.shape[1], dtype=torch.float64)
        for block in row_blocks(entry.shape):
            squares += (dora.unscaled(*block) ** 2).sum(dim=0)
        return Dense(_DoraRows(entry, dora.lora_B, dora.lora_A, magnitude, squares.sqrt()))


@dataclass(frozen=True, eq=False)
class _DoraRows:
    entry: TensorEntry
    lora_B: Tensor
    lora_A: Tensor
    magnitude: Tensor
    column_norms: Tensor | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.entry.shape

    def unscaled(self, start: int, stop: int) -> Tensor:
        return read_rows(self.entry, start, stop).double() + self.lora_B[start:stop] @ self.lora_A

    def rows(self, start: int, stop: int) -> Tensor:
        weight = self.unscaled(start, stop)
        if self.column_norms is not None:
            return weight.mul_(self.magnitude / self.column_norms)
        return weight.mul_((self.magnitude[start:stop] / weight.norm(dim=1))[:, None])


@dataclass(frozen=True)
class ConvProduct:
    """The change of a convolution: B [out, r, 1…] times A [r, in, k…], both flattened to matrices, in W's shape."""

    lora_B: TensorEntry
    lora_A: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the convolution's weight."""
        return (self.lora_B.shape[0], *self.lora_A.shape[1:])

    def rows(self, start: int, stop: int) -> Tensor:
        """Output channels `start` to `stop`."""
        product = read_factor(self.lora_B).flatten(1)[start:stop] @ read_factor(self.lora_A).flatten(1)
        return product.view(stop - start, *self.shape[1:])


@dataclass(frozen=True)
class Diagonal:
    """KaSA's left factor: the columns of B scaled by a learnt diagonal [r]."""

    lora_B: TensorEntry
    diagonal: TensorEntry

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of B."""
        return self.lora_B.shape

    def read(self) -> Tensor:
        """The scaled factor."""
        return read_factor(self.lora_B) * read_factor(self.diagonal)


@dataclass(frozen=True)
class BlockDiagonal:
    """BD-LoRA's factor: its blocks are stored stacked along the rows and used as a block-diagonal matrix."""

    entry: TensorEntry
    blocks: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the block-diagonal matrix."""
        return (self.entry.shape[0], self.entry.shape[1] * self.blocks)

    def read(self) -> Tensor:
        """The block-diagonal matrix."""
        return torch.block_diag(*read_factor(self.entry).chunk(self.blocks, dim=0))


class ReadFactors:
    """The factors of an adapter that were read last, kept whole: many experts are read from one factor, one by one.

    They stay in memory as long as the adapter's terms.
    """

    MOST = 4  # both factors of one block, and both of a block that other threads still read
    _changing = threading.Lock()  # of the class: with a lock of its own an adapter's delta could not be copied

    def __init__(self) -> None:
        self._factors: dict[TensorEntry, Tensor] = {}

    def read(self, entry: TensorEntry) -> Tensor:
        """The stored factor, float32."""
        factor = self._factors.get(entry)
        if factor is None:
            factor = read_factor(entry)  # outside of the lock: threads may read two factors at a time
            with self._changing:
                self._factors[entry] = factor
                if len(self._factors) > self.MOST:
                    del self._factors[next(iter(self._factors))]  # the one that was read first
        return factor


@dataclass(frozen=True)
class ExpertFactor:
    """One expert's part of a factor that holds all experts (`target_parameters`).

    A [experts·r, in] holds expert e in rows e·r to (e+1)·r; B [out, experts·r] holds it in every experts-th column from
    e on (peft `ParamWrapper.get_delta_weight`); of B only the rows `rows` belong to this part of the expert.
    """

    entry: TensorEntry
    side: str
    expert: int
    experts: int
    rows: tuple[int, int]
    read_factors: ReadFactors = field(compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the part."""
        if self.side == "A":
            return (self.entry.shape[0] // self.experts, self.entry.shape[1])
        return (self.rows[1] - self.rows[0], self.entry.shape[1] // self.experts)

    def read(self) -> Tensor:
        """The part."""
        whole = self.read_factors.read(self.entry)
        if self.side == "A":
            rank = self.shape[0]
            return whole[self.expert * rank : (self.expert + 1) * rank]
        return whole[slice(*self.rows), self.expert :: self.experts].contiguous()


@dataclass(frozen=True)
class FusedExperts:
    """The change of a parameter that holds all experts in the files too: [experts, out, in] or `transposed`."""

    lora_B: TensorEntry
    lora_A: TensorEntry
    experts: int
    transposed: bool
    read_factors: ReadFactors = field(compare=False, repr=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parameter."""
        sides = (self.lora_B.shape[0], self.lora_A.shape[1])
        return (self.experts, *(sides[::-1] if self.transposed else sides))

    def rows(self, start: int, stop: int) -> Tensor:
        """The changes of experts `start` to `stop`."""
        everything = (0, self.lora_B.shape[0])
        block = torch.empty(stop - start, *self.shape[1:])
        for expert in range(start, stop):
            lora_B, lora_A = (
                ExpertFactor(entry, side, expert, self.experts, everything, self.read_factors).read()
                for entry, side in ((self.lora_B, "B"), (self.lora_A, "A"))
            )
            block[expert - start] = (lora_B @ lora_A).T if self.transposed else lora_B @ lora_A
        return block
