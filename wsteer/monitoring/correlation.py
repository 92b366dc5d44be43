"""The cosines of a table beside a user's own matrix: Spearman's rho, and a test by permutations of the items."""

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsteer.errors import WsteerError
from wsteer.files.text import read_csv
from wsteer.monitoring.similarity import Matrix, Similarity
from wsteer.statistics import ranks

PERMUTATIONS = 9999
MOST_ORDERS = 5040  # of the items; up to so many, as of 7 items, all are tried
LEAST_PAIRS = 3
ROUNDING = 1e-9  # two values that differ by less are equal

Values = NDArray[np.float64]
Order = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Correlation:
    """Spearman's rho of the cosines with `values` [rows][columns], over `pairs` pairs of different items.

    `p`: the share of orders of the items whose |rho| is as large (two-sided): Mantel's test (1967), in which the rows
    and columns of an all-pairs table move together; in a table of items with deltas each moves by itself. `orders`:
    how many were tried, all there are (`exact`), or the given one and a random sample. `rho_shared` and `p_shared`: the
    same for the cosines over shared parameters. None where all cosines are equal, or do not apply.
    """

    values: Matrix
    pairs: int
    orders: int
    exact: bool
    rho: float | None
    p: float | None
    rho_shared: float | None
    p_shared: float | None


def read_matrix(path: Path, rows: Sequence[str], columns: Sequence[str]) -> Matrix:
    """The numbers of a CSV file for these rows and columns: its header and first column are the items' names.

    Names that the table lacks are left out, so that one file serves several runs. If rows and columns are the same
    items, the matrix must be symmetric; one half is enough, and the diagonal does not count. An empty field is None.
    Raises WsteerError if names are missing or a value is no number.
    """
    try:
        header, lines = read_csv(path)
    except WsteerError as error:
        raise WsteerError(f"--correlate {path} cannot be read as CSV: {error}") from None
    if len(header) < 2 or not lines:
        raise WsteerError(f"--correlate {path}: a header of names and lines that begin with a name are needed")
    if any(None in line for line in lines):
        raise WsteerError(f"--correlate {path}: a line has more fields than the header")
    first = header[0]
    names = [line[first] for line in lines]
    for each in (header, names):
        if double := next((name for name in each if each.count(name) > 1), None):
            raise WsteerError(f"--correlate {path}: {double!r} stands twice among the names; keep one")
    for wanted, known, place in ((rows, names, "first column"), (columns, header[1:], "header")):
        missing = [name for name in wanted if name not in known]
        if missing:
            raise WsteerError(
                f"--correlate {path}: the {place} lacks {', '.join(missing)}; it has {', '.join(map(str, known))}"
            )
    by_name = dict(zip(names, enumerate(lines, 2), strict=True))
    square = list(rows) == list(columns)
    found: list[list[float | None]] = []
    for row in rows:
        number, line = by_name[row]
        cells = [None if square and row == column else _number(path, number, line[column]) for column in columns]
        found.append(cells)
    return _symmetric(path, found, rows) if square else tuple(map(tuple, found))


def _number(path: Path, line: int, text: str | None) -> float | None:
    if not text or not text.strip():
        return None
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise WsteerError(f"--correlate {path}:{line}: {text!r} is no finite number")
    return value


def _symmetric(path: Path, found: list[list[float | None]], names: Sequence[str]) -> Matrix:
    for i, j in itertools.combinations(range(len(names)), 2):
        one, other = found[i][j], found[j][i]
        if one is not None and other is not None and abs(one - other) > ROUNDING * max(abs(one), abs(other)):
            raise WsteerError(
                f"--correlate {path}: {names[i]} with {names[j]} is {one:g}, the other way round {other:g}; "
                "a table of all pairs needs a symmetric matrix"
            )
        found[i][j] = found[j][i] = other if one is None else one
    return tuple(map(tuple, found))


def correlation(table: Similarity, values: Matrix, seed: int) -> Correlation:
    """The correlation of the table's cosines with `values`, which are in its order of rows and columns.

    Raises WsteerError for fewer than 3 pairs that have a cosine and a value, and if all values are equal.
    """
    square = table.row_items == table.column_items
    counted = np.zeros((len(table.rows), len(table.columns)), dtype=bool)
    for i, j in table.pairs():
        counted[i, j] = True
    given = _numbers(values)
    usable = counted & np.isfinite(given) & np.isfinite(_numbers(table.cosines))
    if usable.sum() < LEAST_PAIRS or np.ptp(given[usable]) == 0:
        raise WsteerError(
            f"--correlate: {int(usable.sum())} pairs have a cosine and a value; {LEAST_PAIRS} or more are needed, "
            "whose values are not all equal"
        )
    count = math.factorial(len(table.rows)) * (1 if square else math.factorial(len(table.columns)))
    exact = count <= MOST_ORDERS
    tested = [
        _tested(_numbers(cosines), given, counted, square, exact, seed)
        for cosines in (table.cosines, table.cosines_shared)
    ]
    (rho, p), (rho_shared, p_shared) = tested
    orders = count if exact else 1 + PERMUTATIONS
    return Correlation(values, int(usable.sum()), orders, exact, rho, p, rho_shared, p_shared)


def _numbers(values: Matrix) -> Values:
    return np.array([[math.nan if value is None else value for value in row] for row in values], dtype=np.float64)


def _tested(
    cosines: Values, values: Values, counted: NDArray[np.bool_], square: bool, exact: bool, seed: int
) -> tuple[float | None, float | None]:
    """Rho, and the share of orders of the values' rows and columns whose |rho| is as large; rho itself counts."""
    rho = spearman(cosines[counted], values[counted])
    if rho is None:
        return None, None
    orders = _all_orders(cosines.shape, square) if exact else _random_orders(cosines.shape, square, seed)
    x, measure = cosines[counted], spearman
    if np.isfinite([x, values[counted]]).all() and (square or counted.all()):
        # every order has the same cells, so they are ranked once
        x, values, measure = ranks(x), _ranked(values, counted, square), _pearson
    found = [measure(x, values[np.ix_(*order)][counted]) for order in orders]
    as_large = sum(each is not None and abs(each) >= abs(rho) - ROUNDING for each in found)
    return rho, as_large / len(found) if exact else (1 + as_large) / (1 + len(found))


def _ranked(values: Values, counted: NDArray[np.bool_], square: bool) -> Values:
    ranked = np.zeros_like(values)
    ranked[counted] = ranks(values[counted])
    return ranked + ranked.T if square else ranked


def _all_orders(shape: tuple[int, ...], square: bool) -> Iterator[Order]:
    for rows in itertools.permutations(range(shape[0])):
        for columns in [rows] if square else itertools.permutations(range(shape[1])):
            yield list(rows), list(columns)


def _random_orders(shape: tuple[int, ...], square: bool, seed: int) -> Iterator[Order]:
    generator = np.random.default_rng(seed)
    for _ in range(PERMUTATIONS):
        rows = generator.permutation(shape[0]).tolist()
        yield rows, rows if square else generator.permutation(shape[1]).tolist()


def spearman(x: Values, y: Values) -> float | None:
    """Spearman's rho of the places where both are numbers; None if there are too few, or all of one are equal."""
    both = np.isfinite(x) & np.isfinite(y)
    return _pearson(ranks(x[both]), ranks(y[both])) if both.sum() >= LEAST_PAIRS else None


def _pearson(x: Values, y: Values) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    size = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / size if size > 0 else None
