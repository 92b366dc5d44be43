"""The tables that `wsteer monitor` prints."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.dense_changes import FIRST, low_rank, saved
from wsteer.deltas.delta import Delta


@pytest.mark.slow
def test_a_wide_table_is_shown_by_its_largest_cosines(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {f"d{seed:02}": Delta.of_factors(low_rank(seed, 2)) for seed in range(12)})
    ran = cli("monitor", *paths, "-o", tmp_path / "m")
    header, first, second, *_ = ran.out.splitlines()
    assert header.split() == ["largest", "of", "66", "pairs", "cosine"]
    values = [abs(float(line.split()[-1].rstrip("*"))) for line in (first, second)]
    cosines = json.loads((tmp_path / "m" / "similarity.json").read_text())["cosines"]
    largest = sorted({abs(c) for row in cosines for c in row if c != 1.0})[::-1]
    assert values == [pytest.approx(c, abs=5e-4) for c in largest[:2]]


@pytest.mark.slow
def test_a_wide_table_has_both_cosines_in_a_line(tmp_path: Path, cli: Cli) -> None:
    deltas = {f"d{seed:02}": Delta.of_factors(low_rank(seed, 2)) for seed in range(11)}
    paths = saved(tmp_path, {**deltas, "part": Delta.of_factors({FIRST: low_rank(0, 2)[FIRST]})})
    ran = cli("monitor", *paths, "-o", tmp_path / "m")
    header, first, *_ = ran.out.splitlines()
    assert header.split() == ["largest", "of", "66", "pairs", "cosine", "over", "shared"]
    assert (first.split()[:3], first.split()[-1]) == (["d00", "·", "part"], "1.000*")
    assert 0.5 < float(first.split()[3].rstrip("*")) < 0.99
