"""Cosines of items with deltas from their sums over parameters: a table with norms, shared fractions and noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from wsteer.deltas.gram import Sums
from wsteer.errors import WsteerError
from wsteer.monitoring.gates import SHARED as GATE_SHARED
from wsteer.monitoring.gates import Measured
from wsteer.statistics import holm, p_value

Numbers = tuple[tuple[float, ...], ...]
Matrix = tuple[tuple[float | None, ...], ...]
# bounds of (likeness of A's - chance) / (1 - chance)
SHARED, INDEPENDENT = 0.5, 0.1
LEAST_COSINE = 1e-9  # a dot product that is a smaller share of both norms is rounding
WHOLE = 0.99  # share of a norm below which the cosine over shared parameters tells something else


@dataclass(frozen=True)
class Similarity:
    """Cosines of each row's item with each column's delta; [rows][columns].

    `rows` and `columns` are labels; the numbers `row_items` and `column_items` tell which item each is.
    `cosines`: ⟨i, j⟩/(‖i‖‖j‖) over all parameters, as in the paper; what one side leaves alone is 0 on it.
    `cosines_shared`: the same over the parameters that both change. `dots`: dot products. `shared_rows` and
    `shared_columns`: the share of the item's, and of the delta's, norm in the parameters that both change. `floor` and
    `floor_shared`: the standard deviation of either cosine of noise with these norms (see
    `deltas.gram.parameter_sums`). `expected`: the mean of the cosine of noise. `z`: the dot product's distance from its
    mean under noise, in standard deviations; it is the distance of either cosine from its own, in its floors.
    `above`: whether the cosine is above the floor, by Holm's test at 5% over the whole table. `overlaps`: mean squared
    cosines between the row spaces of the A's; `initialisations`: whether the A's started equal.

    A value that does not apply is None: noise of an item with itself, row spaces of dense changes, all cosines of a
    pair without a parameter that both change, and `cosines_shared` after a mean was removed.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    row_items: tuple[int, ...]
    column_items: tuple[int, ...]
    cosines: Matrix
    cosines_shared: Matrix
    dots: Numbers
    norms_rows: tuple[float, ...]
    norms_columns: tuple[float, ...]
    shared_rows: Numbers
    shared_columns: Numbers
    floor: Matrix
    floor_shared: Matrix
    expected: Matrix
    z: Matrix
    above: tuple[tuple[bool | None, ...], ...]
    overlaps: Matrix
    initialisations: tuple[tuple[str | None, ...], ...]

    def pairs(self) -> list[tuple[int, int]]:
        """The indices of all pairs of an item and a different delta, each pair once."""
        found: dict[frozenset[int], tuple[int, int]] = {}
        for i, row in enumerate(self.row_items):
            for j, column in enumerate(self.column_items):
                if row != column:
                    found.setdefault(frozenset((row, column)), (i, j))
        return list(found.values())

    def empty(self, i: int, j: int) -> bool:
        """Whether the pair has no parameter that both change, so that nothing is compared."""
        return self.cosines[i][j] is None

    def share(self, i: int, j: int) -> float:
        """The smaller of both shares of a norm that lie in the parameters that both change."""
        return min(self.shared_rows[i][j], self.shared_columns[i][j])

    def partly(self) -> list[tuple[int, int]]:
        """The pairs that are compared and share less than `WHOLE` of a norm, so that their two cosines differ."""
        return [(i, j) for i, j in self.pairs() if not self.empty(i, j) and self.share(i, j) < WHOLE]

    def measured(self) -> list[Measured]:
        """What gates may bound, in the table's order. An item's cosine with itself does not count."""
        found = []
        for i, j in self.pairs():
            pairs = [(self.columns[j], self.rows[i])]
            if self.row_items[i] in self.column_items:  # the row is itself one of the deltas
                pairs.append((self.rows[i], self.columns[j]))
            for delta, item in pairs:
                found += [
                    Measured(item, delta, "cosine", self.cosines[i][j], delta),
                    Measured(item, delta, "cosine_shared", self.cosines_shared[i][j], f"{delta}:{GATE_SHARED}"),
                ]
        return found


@dataclass(frozen=True)
class PartSimilarity:
    """A `Similarity`'s table for one part of the model; None where an item or a delta changes nothing in it.

    `cosines` are over all parameters of the part. `shares_of_dots`: the part's share of the whole dot product; over all
    parts they sum to 1, and one may be negative or above 1. None where the whole dot product is rounding, see
    `LEAST_COSINE`.
    """

    cosines: Matrix
    cosines_shared: Matrix
    dots: Matrix
    shares_of_dots: Matrix
    norms_rows: tuple[float, ...]
    norms_columns: tuple[float, ...]
    floor: Matrix
    floor_shared: Matrix
    z: Matrix
    overlaps: Matrix


def similarity(
    sums: Sums, names: Sequence[str], rows: Sequence[int], columns: Sequence[int], centre: Sequence[int] = ()
) -> Similarity:
    """The table of the items at the indices `rows` with the deltas at the indices `columns` of `sums`.

    `columns` and `centre` must be among the sums' columns. With `centre`, the mean of the deltas at those indices is
    first subtracted from both sides. Raises WsteerError for a norm that is zero or not finite.
    """
    compared = _compared(sums, rows, columns, centre)
    check_norms(sums, names, [*rows, *columns])
    _check_removed(sums, compared, rows, columns)
    _check_range(compared, names, rows, columns)
    both, z = compared.sums, compared.z
    likenesses, chances = both.likenesses / both.modules, both.chances / both.modules
    return Similarity(
        rows=tuple(names[i] for i in rows),
        columns=tuple(names[j] for j in columns),
        row_items=tuple(rows),
        column_items=tuple(columns),
        cosines=_matrix(compared.cosines),
        cosines_shared=_matrix(compared.cosines_shared),
        dots=_numbers(both.dots),
        norms_rows=tuple(both.whole.sqrt().tolist()),
        norms_columns=tuple(compared.whole_columns.sqrt().tolist()),
        shared_rows=_numbers((both.squares / both.whole[:, None]).sqrt()),
        shared_columns=_numbers((both.column_squares / compared.whole_columns).sqrt()),
        floor=_matrix(compared.floor),
        floor_shared=_matrix(compared.floor_shared),
        expected=_matrix(compared.mean_noise),
        z=_matrix(z),
        above=_above(rows, columns, z.tolist()),
        overlaps=_matrix(both.overlaps / both.modules),
        initialisations=tuple(
            tuple(
                None if math.isnan(likeness) else initialisation(likeness, chance)
                for likeness, chance in zip(*pair, strict=True)
            )
            for pair in zip(likenesses.tolist(), chances.tolist(), strict=True)
        ),
    )


def part_similarity(
    sums: Sums, whole: Similarity, rows: Sequence[int], columns: Sequence[int], centre: Sequence[int] = ()
) -> PartSimilarity:
    """The same for the sums over one part of the model, beside the table `whole` of all parts."""
    compared = _compared(sums, rows, columns, centre)
    dots = torch.tensor(whole.dots, dtype=torch.float64)
    left, right = (torch.tensor(norms, dtype=torch.float64) for norms in (whole.norms_rows, whole.norms_columns))
    shares = (compared.sums.dots / dots).masked_fill(dots.abs() < LEAST_COSINE * left[:, None] * right, math.nan)
    return PartSimilarity(
        cosines=_matrix(compared.cosines),
        cosines_shared=_matrix(compared.cosines_shared),
        dots=_matrix(compared.sums.dots),
        shares_of_dots=_matrix(shares),
        norms_rows=tuple(compared.sums.whole.sqrt().tolist()),
        norms_columns=tuple(compared.whole_columns.sqrt().tolist()),
        floor=_matrix(compared.floor),
        floor_shared=_matrix(compared.floor_shared),
        z=_matrix(compared.z),
        overlaps=_matrix(compared.sums.overlaps / compared.sums.modules),
    )


@dataclass(frozen=True)
class _Compared:
    """The sums of the rows with the columns, after centring; all [rows, columns] except `whole_columns` [columns].

    `expected` is the mean of the dot products of noise. `same`: the item is the delta itself. `no_noise`: noise does
    not apply, as `same` holds or one of the two is among the deltas of the mean. `centred`: a mean was removed, so that
    only whole vectors are compared.
    """

    sums: Sums
    whole_columns: Tensor
    expected: Tensor
    same: Tensor
    no_noise: Tensor
    centred: bool = False

    @cached_property
    def empty(self) -> Tensor:
        """Where one side's norm is 0 over the parameters that both change."""
        return (self.sums.squares == 0) | (self.sums.column_squares == 0)

    @cached_property
    def norms(self) -> Tensor:
        """The products of both norms; NaN where nothing is compared."""
        return (self.sums.whole[:, None] * self.whole_columns).sqrt().masked_fill(self.empty, math.nan)

    @cached_property
    def norms_shared(self) -> Tensor:
        """The products of both norms over the parameters that both change."""
        products = (self.sums.squares * self.sums.column_squares).sqrt()
        return products.masked_fill(self.empty, math.nan) if not self.centred else torch.full_like(products, math.nan)

    @cached_property
    def cosines(self) -> Tensor:
        """The cosines over the whole vectors."""
        return self._of(self.norms)

    @cached_property
    def cosines_shared(self) -> Tensor:
        """The cosines over the parameters that both change."""
        return self._of(self.norms_shared)

    def _of(self, norms: Tensor) -> Tensor:
        return (self.sums.dots / norms).clamp(-1, 1).masked_fill(self.same & ~norms.isnan(), 1.0)

    @cached_property
    def deviations(self) -> Tensor:
        """The standard deviations of the dot products of noise; NaN where that does not apply."""
        return self.sums.variances.sqrt().masked_fill(self.no_noise | self.empty, math.nan)

    @cached_property
    def floor(self) -> Tensor:
        """The standard deviations of the cosines of noise."""
        return self.deviations / self.norms

    @cached_property
    def floor_shared(self) -> Tensor:
        """The same over the parameters that both change."""
        return self.deviations / self.norms_shared

    @cached_property
    def mean_noise(self) -> Tensor:
        """The mean of the cosine of noise; NaN where that does not apply."""
        return (self.expected / self.norms).masked_fill(self.floor.isnan(), math.nan)

    @cached_property
    def z(self) -> Tensor:
        """The dot products' distance from the mean of noise, in its standard deviations; norms cancel in it."""
        return (self.sums.dots - self.expected) / self.deviations


def _compared(sums: Sums, rows: Sequence[int], columns: Sequence[int], centre: Sequence[int]) -> _Compared:
    same = torch.tensor([[i == j for j in columns] for i in rows])
    taken_out = torch.tensor([[i in centre or j in centre for j in columns] for i in rows])
    both = sums.between(rows, columns)
    plain = _Compared(both, sums.whole[torch.tensor(columns)], torch.zeros_like(both.dots), same, same | taken_out)
    return _centred(plain, sums, rows, columns, centre) if centre else plain


def _centred(
    plain: _Compared, sums: Sums, rows: Sequence[int], columns: Sequence[int], centre: Sequence[int]
) -> _Compared:
    """The sums after subtracting c, the mean of the deltas `centre`, from both sides: ⟨i - c, j - c⟩ from the dots.

    If i and j are noise and c is fixed, the mean is ⟨c, c⟩, and the variance that of ⟨i, j⟩ - ⟨i, c⟩ - ⟨c, j⟩.
    """
    both = plain.sums
    i, j, c = torch.tensor(rows), torch.tensor(columns), torch.tensor(centre)
    mean = sums.dots[c[:, None], c].mean()
    row_mean, column_mean = sums.dots[i[:, None], c].mean(dim=1), sums.dots[j[:, None], c].mean(dim=1)
    row_squares = sums.whole[i] - 2 * row_mean + mean
    column_squares = sums.whole[j] - 2 * column_mean + mean
    noise = sums.variances[i[:, None], c].sum(dim=1)[:, None] + sums.variances[j[:, None], c].sum(dim=1)
    centred = replace(
        both,
        dots=both.dots - row_mean[:, None] - column_mean + mean,
        squares=row_squares[:, None].expand_as(both.dots),
        column_squares=column_squares.expand_as(both.dots),
        variances=both.variances + noise / len(centre) ** 2,
        whole=row_squares,
    )
    expected = torch.full_like(both.dots, float(mean))
    return replace(plain, sums=centred, whole_columns=column_squares, expected=expected, centred=True)


def check_norms(sums: Sums, names: Sequence[str], indices: Sequence[int]) -> None:
    """Refuse an item whose norm is zero or not finite, as it has no direction; the error names it."""
    for index in indices:
        square = float(sums.whole[index])
        if square == 0:
            raise WsteerError(
                f"{names[index]} changes nothing: its norm is 0, so that it has no direction; leave it out"
            )
        if not square < math.inf:  # NaN compares false
            raise WsteerError(f"{names[index]} holds NaN or infinity; the training run diverged")


def _check_removed(sums: Sums, compared: _Compared, rows: Sequence[int], columns: Sequence[int]) -> None:
    for left, indices in ((compared.sums.whole, rows), (compared.whole_columns, columns)):
        if (left <= 1e-24 * sums.whole[torch.tensor(indices)]).any():
            raise WsteerError("--centre removes an item whole; centre by other controls than the items compared")


def _check_range(compared: _Compared, names: Sequence[str], rows: Sequence[int], columns: Sequence[int]) -> None:
    within = [
        products.isfinite() & (products > 0)
        for products in (compared.norms, *([] if compared.centred else [compared.norms_shared]))
    ]
    beyond = ~torch.stack(within).all(dim=0) & ~compared.empty & ~compared.same
    for i, j in beyond.nonzero().tolist():
        raise WsteerError(
            f"the norms of {names[rows[i]]} and {names[columns[j]]} are too small or too large to compare them"
        )


def nothing_shared(item: str, delta: str) -> str:
    """What to say of two changes that cannot be compared."""
    return f"{item} and {delta} have no parameter in common that both change; compare deltas of one model and one kind"


def _above(
    rows: Sequence[int], columns: Sequence[int], z: Sequence[Sequence[float]]
) -> tuple[tuple[bool | None, ...], ...]:
    """Which cosines are above the floor; each pair of items is tested once, and a pair without z is None."""
    tested: dict[frozenset[int], float] = {}
    for row, values in zip(rows, z, strict=True):
        for column, value in zip(columns, values, strict=True):
            if row != column and math.isfinite(value):
                tested.setdefault(frozenset((row, column)), value)
    stands = dict(zip(tested, holm([p_value(value) for value in tested.values()]), strict=True))
    return tuple(tuple(stands.get(frozenset((row, column))) for column in columns) for row in rows)


def _numbers(values: Tensor) -> Numbers:
    return tuple(map(tuple, values.tolist()))


def _matrix(values: Tensor) -> Matrix:
    """Nested tuples; values that are not finite do not apply and become None."""
    return tuple(tuple(value if math.isfinite(value) else None for value in row) for row in values.tolist())


def initialisation(likeness: float, chance: float) -> str:
    """Whether two LoRA runs started from the same A, judged by the likeness of their trained A's (see `PairSums`).

    Trained A's stay near their initial values, so A's of one seed are almost equal; others are alike only by chance.

    >>> initialisation(0.95, 0.05), initialisation(0.06, 0.05), initialisation(0.4, 0.05)
    ('shared', 'independent', 'partly shared')
    """
    beyond = (likeness - chance) / (1 - chance) if chance < 1 else 1.0
    return "shared" if beyond > SHARED else "independent" if beyond < INDEPENDENT else "partly shared"
