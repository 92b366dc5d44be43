"""Cosines beside a user's own matrix: rho against scipy, the test against permutations written out."""

import csv
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from tests.helpers.command import Cli
from tests.helpers.dense_changes import OF_MATRICES, cosine_of, low_rank, saved, shared_cosine_of, whole_of
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.correlation import correlation, read_matrix, spearman
from wsteer.monitoring.monitor import Settings, monitor


def write(path: Path, rows: list[str], columns: list[str], values: np.ndarray) -> Path:
    """A matrix with names as CSV; NaN is an empty field."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["", *columns])
        writer.writerows(
            [name, *("" if np.isnan(value) else value for value in line)]
            for name, line in zip(rows, values, strict=True)
        )
    return path


def symmetric(seed: int, n: int) -> np.ndarray:
    """Random values, with ties."""
    values = np.random.default_rng(seed).integers(0, 6, (n, n)).astype(float)
    return np.triu(values, 1) + np.triu(values, 1).T


def test_all_orders_of_the_items_are_tried(tmp_path: Path, cli: Cli) -> None:
    built = {name: build() for name, build in OF_MATRICES.items()}
    names, n = list(built), len(built)
    paths = saved(tmp_path, {name: delta for name, (delta, _) in built.items()})
    values = symmetric(0, n)
    order = [3, 0, 4, 2, 1]  # the file may have the items in any order, and others
    names_there = [names[i] for i in order] + ["more"]
    there = np.pad(values[np.ix_(order, order)], (0, 1), constant_values=7.0)
    matrix = write(tmp_path / "own.csv", names_there, names_there, there)
    ran = cli("monitor", *paths, "--correlate", matrix, "-o", tmp_path / "m", "--json")
    upper = np.triu_indices(n, 1)
    for cosine, key in ((cosine_of, ""), (shared_cosine_of, "_shared")):
        cosines = np.array([[cosine(one, other) for _, other in built.values()] for _, one in built.values()])
        expected = spearmanr(cosines[upper], values[upper]).statistic
        found = [
            spearmanr(cosines[upper], values[np.ix_(each, each)][upper]).statistic
            for each in itertools.permutations(range(n))
        ]
        assert ran.json["correlation"][f"rho{key}"] == pytest.approx(expected, abs=1e-12)
        assert ran.json["correlation"][f"p{key}"] == np.mean(np.abs(found) >= abs(expected) - 1e-9)
    assert [ran.json["correlation"][key] for key in ("pairs", "orders", "exact")] == [10, 120, True]
    assert {"correlation.png", "correlation.svg"} < {path.name for path in (tmp_path / "m").iterdir()}
    record = json.loads((tmp_path / "m" / "wsteer.json").read_text())
    assert (record["inputs"][-1]["role"], record["options"]["seed"]) == ("correlate", 0)
    assert "rank correlation of 10 cosines" in cli("monitor", *paths, "--correlate", matrix, "-o", tmp_path / "n").out


@pytest.mark.slow
def test_many_items_are_permuted_by_seed(tmp_path: Path) -> None:
    """A matrix made of the cosines themselves is never matched by chance; one of noise mostly is."""
    paths = saved(tmp_path, {f"d{seed}": Delta.of_factors(low_rank(seed, 2)) for seed in range(9)})
    names = [path.stem for path in paths]
    table = monitor(paths, tmp_path / "m").similarity
    cosines = np.array(table.cosines)
    own = read_matrix(write(tmp_path / "own.csv", names, names, cosines**3), names, names)
    found = correlation(table, own, seed=0)
    assert (found.rho, found.p, found.orders, found.exact) == (pytest.approx(1.0), 1e-4, 10_000, False)
    noise = read_matrix(write(tmp_path / "noise.csv", names, names, symmetric(1, 9)), names, names)
    zero, again, other = (correlation(table, noise, seed) for seed in (0, 0, 2))
    assert zero == again
    assert zero.p != other.p
    assert zero.p == pytest.approx(other.p, abs=0.03)
    hole = symmetric(1, 9)
    hole[0, 1] = hole[1, 0] = np.nan
    holed = correlation(table, read_matrix(write(tmp_path / "hole.csv", names, names, hole), names, names), 0)
    upper = np.triu_indices(9, 1)
    kept = ~np.isnan(hole[upper])
    assert holed.pairs == 35
    assert holed.rho == pytest.approx(spearmanr(cosines[upper][kept], hole[upper][kept]).statistic, abs=1e-12)
    assert holed.p == pytest.approx(zero.p, abs=0.1)


def test_rows_and_columns_of_items_with_deltas_move_apart(tmp_path: Path) -> None:
    paths = saved(tmp_path, {f"d{seed}": Delta.of_factors(low_rank(seed, 2)) for seed in range(5)})
    wholes = [whole_of(low_rank(seed, 2)) for seed in range(5)]
    values = np.array([[0.5, 0.1], [0.2, 0.9], [0.3, 0.3]])
    matrix = write(tmp_path / "own.csv", ["d2", "d3", "d4"], ["d0", "d1"], values)
    found = monitor(paths[:2], tmp_path / "m", paths[2:], Settings(correlate=matrix)).correlation
    cosines = np.array([[cosine_of(wholes[i], wholes[j]) for j in (0, 1)] for i in (2, 3, 4)])
    expected = spearmanr(cosines.ravel(), values.ravel()).statistic
    tried = [
        spearmanr(cosines.ravel(), values[np.ix_(rows, columns)].ravel()).statistic
        for rows in itertools.permutations(range(3))
        for columns in itertools.permutations(range(2))
    ]
    assert found.rho == pytest.approx(expected, abs=1e-12)
    assert (found.p, found.orders) == (np.mean(np.abs(tried) >= abs(expected) - 1e-9), 12)


def test_one_half_of_a_symmetric_matrix_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "half.csv"
    path.write_text("name,a,b\na,x,0.25\nb,,\n")
    assert read_matrix(path, ["a", "b"], ["a", "b"]) == ((None, 0.25), (0.25, None))
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 1.0, 1.0])) is None


WRONG = {
    "a": (",a\na,1\n", "the first column lacks b; it has a"),
    "header": (",a\na,1\nb,1\n", "the header lacks b; it has a"),
    "twice": (",a,a\na,1,2\n", "'a' stands twice"),
    "number": (",a,b\na,,many\nb,1,\n", r":2: 'many' is no finite number"),
    "nan": (",a,b\na,,nan\nb,1,\n", "'nan' is no finite number"),
    "lopsided": (",a,b\na,,2\nb,1,\n", "a with b is 2, the other way round 1"),
    "long": (",a,b\na,,2,3\nb,1,\n", "more fields than the header"),
    "empty": ("", "a header of names"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_matrix_is_refused(tmp_path: Path, case: str) -> None:
    text, reason = WRONG[case]
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(WsteerError, match=reason):
        read_matrix(tmp_path / "own.csv", ["a", "b"], ["a", "b"])


def test_options_of_the_correlation(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {f"d{seed}": Delta.of_factors(low_rank(seed, 2)) for seed in range(2)})
    matrix = write(tmp_path / "own.csv", ["d0", "d1"], ["d0", "d1"], symmetric(0, 2))
    ran = cli("monitor", *paths, "--correlate", matrix, "-o", tmp_path / "m")
    assert (ran.code, "1 pairs have a cosine and a value; 3 or more are needed" in ran.error) == (1, True)
    ran = cli("monitor", *paths, "--seed", "1", "-o", tmp_path / "m")
    assert (ran.code, "--seed: it is not used with anything but --correlate" in " ".join(ran.err.split())) == (2, True)
