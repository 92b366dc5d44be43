"""Cosines of items with deltas out of their sums over parameters: a table with norms, shared fractions and noise."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from wsteer.deltas.gram import Sums
from wsteer.errors import WsteerError
from wsteer.statistics import holm, p_value

Matrix = tuple[tuple[float | None, ...], ...]
Texts = tuple[tuple[str | None, ...], ...]


@dataclass(frozen=True)
class Similarity:
    """Cosines of each row's item with each column's delta, over the parameters that both change; [rows][columns].

    `dots`: dot products. `shared_rows` and `shared_columns`: the share of the item's, and of the delta's, norm that
    lies in those parameters. `floor`: the standard deviation of the cosine of noise with these norms (of random B on
    the actual A's, of random directions for dense changes), `expected` its mean, `z` the distance from that in standard
    deviations. `above`: whether the cosine stands above the floor, by Holm's test at 5% over the whole table.
    `overlaps`: mean squared cosines between the row spaces of the A's; `initialisations`: what the A's tell of the
    start of training. What does not apply is None: noise of an item with itself, row spaces of dense changes.
    """

    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cosines: Matrix
    dots: Matrix
    norms_rows: tuple[float, ...]
    norms_columns: tuple[float, ...]
    shared_rows: Matrix
    shared_columns: Matrix
    floor: Matrix
    expected: Matrix
    z: Matrix
    above: tuple[tuple[bool | None, ...], ...]
    overlaps: Matrix
    initialisations: Texts

    def column(self, name: str) -> int:
        """The position of the delta of this name."""
        return self.columns.index(name)

    def pairs(self) -> list[tuple[int, int]]:
        """All different pairs of an item and a delta, by position."""
        seen, found = set(), []
        for i, row in enumerate(self.rows):
            for j, column in enumerate(self.columns):
                pair = frozenset((row, column))
                if row != column and pair not in seen:
                    seen.add(pair)
                    found.append((i, j))
        return found


def similarity(
    sums: Sums,
    names: Sequence[str],
    rows: Sequence[int],
    columns: Sequence[int],
    centre: Sequence[int] = (),
    strict: bool = True,
) -> Similarity:
    """The table of the items at positions `rows` with the deltas at positions `columns` of `sums`.

    `columns` and `centre` must lie among the first of the sums. With `centre` the mean of the deltas at those positions
    is removed from both sides first. If `strict`, raises WsteerError for a norm that is zero or not finite and for a
    pair without a common parameter; else there is no cosine.
    """
    part = _centred(sums, rows, columns, centre) if centre else _plain(sums, rows, columns)
    same = torch.tensor([[i == j for j in columns] for i in rows])
    if strict:
        check_norms(sums, names, [*rows, *columns])
        _check_removed(sums, part, rows, columns)
        _check_shared(part, names, rows, columns, same)
    norms = (part.squares * part.column_squares).sqrt()
    cosines = (part.dots / norms).clamp(-1, 1)
    cosines[same] = 1.0
    taken_out = torch.tensor([[i in centre or j in centre for j in columns] for i in rows])
    floor = (part.variances.sqrt() / norms).masked_fill(same | taken_out, math.nan)
    expected = (part.expected / norms).masked_fill(floor.isnan(), math.nan)
    overlaps, likenesses, chances = (sums / part.modules for sums in (part.overlaps, part.likenesses, part.chances))
    table = Similarity(
        rows=tuple(names[i] for i in rows),
        columns=tuple(names[j] for j in columns),
        cosines=_matrix(cosines),
        dots=_matrix(part.dots),
        norms_rows=tuple(part.whole_rows.sqrt().tolist()),
        norms_columns=tuple(part.whole_columns.sqrt().tolist()),
        shared_rows=_matrix((part.squares / part.whole_rows[:, None]).sqrt()),
        shared_columns=_matrix((part.column_squares / part.whole_columns).sqrt()),
        floor=_matrix(floor),
        expected=_matrix(expected),
        z=_matrix((cosines - expected) / floor),
        above=(),
        overlaps=_matrix(overlaps),
        initialisations=tuple(
            tuple(
                None if math.isnan(likeness) else initialisation(likeness, chance)
                for likeness, chance in zip(*pair, strict=True)
            )
            for pair in zip(likenesses.tolist(), chances.tolist(), strict=True)
        ),
    )
    return replace(table, above=_above(table))


@dataclass(frozen=True)
class _Part:
    """The sums of the rows with the columns, after centring."""

    dots: Tensor
    expected: Tensor
    squares: Tensor
    column_squares: Tensor
    variances: Tensor
    overlaps: Tensor
    likenesses: Tensor
    chances: Tensor
    modules: Tensor
    whole_rows: Tensor
    whole_columns: Tensor


def _plain(sums: Sums, rows: Sequence[int], columns: Sequence[int]) -> _Part:
    where = (torch.tensor(rows)[:, None], torch.tensor(columns))
    names = ("dots", "squares", "column_squares", "variances", "overlaps", "likenesses", "chances", "modules")
    parts = {name: getattr(sums, name)[where] for name in names}
    whole = (sums.whole[torch.tensor(rows)], sums.whole[torch.tensor(columns)])
    return _Part(**parts, expected=torch.zeros_like(parts["dots"]), whole_rows=whole[0], whole_columns=whole[1])


def _centred(sums: Sums, rows: Sequence[int], columns: Sequence[int], centre: Sequence[int]) -> _Part:
    """The sums after c, the mean of the deltas `centre`, is taken from both sides: ⟨i - c, j - c⟩ from the dots.

    Noise i and j, with c as it is, gives ⟨c, c⟩ on average; its variance is that of ⟨i, j⟩ - ⟨i, c⟩ - ⟨c, j⟩.
    """
    part = _plain(sums, rows, columns)
    i, j, c = torch.tensor(rows), torch.tensor(columns), torch.tensor(centre)
    mean = sums.dots[c[:, None], c].mean()
    row_mean, column_mean = sums.dots[i[:, None], c].mean(dim=1), sums.dots[j[:, None], c].mean(dim=1)
    row_squares = sums.whole[i] - 2 * row_mean + mean
    column_squares = sums.whole[j] - 2 * column_mean + mean
    count = len(centre)
    noise = sums.variances[i[:, None], c].sum(dim=1)[:, None] + sums.variances[j[:, None], c].sum(dim=1)
    return replace(
        part,
        dots=part.dots - row_mean[:, None] - column_mean + mean,
        expected=torch.full_like(part.dots, float(mean)),
        squares=row_squares[:, None].expand_as(part.dots),
        column_squares=column_squares.expand_as(part.dots),
        variances=part.variances + noise / count**2,
        whole_rows=row_squares,
        whole_columns=column_squares,
    )


def check_norms(sums: Sums, names: Sequence[str], positions: Sequence[int]) -> None:
    """Refuse an item whose norm is zero or not finite, by its name: it has no direction."""
    for position in positions:
        square = float(sums.whole[position])
        if square == 0:
            raise WsteerError(
                f"{names[position]} changes nothing: its norm is 0, so that it has no direction; leave it out"
            )
        if not square < math.inf:  # NaN compares false
            raise WsteerError(f"{names[position]} holds NaN or infinity; the training run diverged")


def _check_removed(sums: Sums, part: _Part, rows: Sequence[int], columns: Sequence[int]) -> None:
    for left, positions in ((part.whole_rows, rows), (part.whole_columns, columns)):
        if (left <= 1e-24 * sums.whole[torch.tensor(positions)]).any():
            raise WsteerError("--centre removes an item whole; centre by other controls than the items compared")


def _check_shared(part: _Part, names: Sequence[str], rows: Sequence[int], columns: Sequence[int], same: Tensor) -> None:
    empty = ((part.squares == 0) | (part.column_squares == 0)) & ~same
    for i, j in empty.nonzero().tolist():
        raise WsteerError(
            f"{names[rows[i]]} and {names[columns[j]]} have no parameter in common that both change; "
            "compare deltas of one model and one kind"
        )


def _above(table: Similarity) -> tuple[tuple[bool | None, ...], ...]:
    pairs = [(i, j) for i, j in table.pairs() if table.z[i][j] is not None]
    tested = holm([p_value(table.z[i][j]) for i, j in pairs])
    known = {frozenset((table.rows[i], table.columns[j])): stands for (i, j), stands in zip(pairs, tested, strict=True)}
    return tuple(
        tuple(known.get(frozenset((row, column))) if row != column else None for column in table.columns)
        for row in table.rows
    )


def _matrix(values: Tensor) -> Matrix:
    """Nested tuples; NaN, which stands for what does not apply, becomes None."""
    return tuple(tuple(value if math.isfinite(value) else None for value in row) for row in values.tolist())


# likeness of A's beyond chance, as a share of what is possible beyond chance
SHARED, INDEPENDENT = 0.5, 0.1


def initialisation(likeness: float, chance: float) -> str:
    """Whether two LoRA runs started from the same A, told by the likeness of their trained A's (see `PairSums`).

    Trained A's stay near the initial ones, so those of one seed are almost alike and others by chance alone.

    >>> initialisation(0.95, 0.05), initialisation(0.06, 0.05), initialisation(0.4, 0.05)
    ('shared', 'independent', 'partly shared')
    """
    beyond = (likeness - chance) / (1 - chance) if chance < 1 else 1.0
    return "shared" if beyond > SHARED else "independent" if beyond < INDEPENDENT else "partly shared"
