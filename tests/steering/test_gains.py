"""How much of a change rounding keeps is measured, told, and decides how to round."""

from pathlib import Path

import pytest

import wsteer
from tests.helpers.checkpoint_contents import stored_tensors
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta


def test_small_changes_lost_to_rounding_are_reported(tmp_path: Path, tiny_bf16: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny_bf16, seed=1, std=2e-3)
    wsteer.diff(pos, output=tmp_path / "t.safetensors")
    report = wsteer.steer(tiny_bf16, tmp_path / "t.safetensors", k=1, output=tmp_path / "steered", rounding="nearest")
    before, after = stored_tensors(tiny_bf16), stored_tensors(tmp_path / "steered")
    dot = square = 0.0
    for name, (b, a) in adapter_factors(pos).items():
        intended = b.double() @ a.double()
        dot += float(((after[name].double() - before[name].double()) * intended).sum())
        square += float((intended**2).sum())
        own = float(((after[name].double() - before[name].double()) * intended).sum() / (intended**2).sum())
        assert report.steered[0].gains[name] == pytest.approx(own, rel=1e-4)  # few rows: all of them are the sample
    assert report.gain == pytest.approx(dot / square, rel=1e-4)
    assert report.steered[0].gains.keys() == adapter_factors(pos).keys()
    assert report.gain < 0.95
    assert "keeps" in report.warnings[0]


def test_auto_rounds_stochastically_where_nearest_would_undo_the_change(tmp_path: Path, small: tuple) -> None:
    base, w = small
    nearest = wsteer.steer(base, w, k=1, output=tmp_path / "nearest", rounding="nearest")
    auto = wsteer.steer(base, w, k=1, output=tmp_path / "auto")
    assert nearest.gain < 0.9
    assert (auto.rounding, auto.gain) == ("stochastic", pytest.approx(1, abs=0.2))
    assert "keeps" in auto.steered[0].reason
    assert wsteer.steer(base, w, k=500, output=tmp_path / "large").rounding == "nearest"
    assert auto.steered[0].gains.keys() == Delta.load(w).terms.keys()
