"""Both sides of a difference: opposition, shared drift, and its cosine with w, against dense float64."""

from pathlib import Path

import pytest
import torch

import wsteer
from tests.deltas.test_diff import nudged
from tests.helpers.exact_fold import adapter_factors
from wsteer.deltas.delta import Delta
from wsteer.deltas.geometry import geometry


def flat(folder: Path) -> torch.Tensor:
    return torch.cat([(b.double() @ a.double()).flatten() for b, a in adapter_factors(folder).values()])


def test_the_geometry_of_two_adapters_is_that_of_their_dense_changes(
    tmp_path: Path, adapters: tuple[Path, Path]
) -> None:
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors")
    pos, neg = map(flat, adapters)
    w, shared = pos - neg, (pos + neg) / 2
    assert report.cos_opposite == pytest.approx(float(pos @ -neg / (pos.norm() * neg.norm())), rel=1e-9)
    assert report.cos_opposite == -report.cos_pos_neg
    assert report.norm_drift == pytest.approx(float(shared.norm()), rel=1e-9)
    assert report.drift_ratio == pytest.approx(float(shared.norm() / (w / 2).norm()), rel=1e-9)
    assert report.cos_drift == pytest.approx(float(w @ shared / (w.norm() * shared.norm())), rel=1e-7)


def test_the_cosine_of_a_bisector_is_with_what_is_written(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors", bisector=True)
    pos, neg = map(flat, adapters)
    w, shared = pos / pos.norm() - neg / neg.norm(), (pos + neg) / 2
    assert report.drift_ratio == pytest.approx(float(shared.norm() / ((pos - neg) / 2).norm()), rel=1e-9)
    assert report.cos_drift == pytest.approx(float(w @ shared / (w.norm() * shared.norm())), abs=1e-9)


def test_of_one_side_and_of_unknown_sides_there_is_no_geometry(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    alone = wsteer.diff(adapters[0], output=tmp_path / "t.safetensors")
    pair = wsteer.diff(nudged(tmp_path / "p", tiny, 1), tiny, tmp_path / "w.safetensors")
    for report in (alone, pair):
        assert report.cos_opposite is report.norm_drift is report.drift_ratio is report.cos_drift is None


def test_exact_opposites_share_no_drift(tmp_path: Path) -> None:
    one = torch.tensor([[3.0, 4.0]])
    for name, value in (("p", one), ("n", -one)):
        Delta.of_tensors({"w": value}).save(tmp_path / name)
    report = wsteer.diff(tmp_path / "p", tmp_path / "n", tmp_path / "w.safetensors")
    assert (report.cos_opposite, report.norm_drift, report.drift_ratio, report.cos_drift) == (1.0, 0.0, 0.0, None)


def test_a_side_of_length_zero_leaves_its_cosines_undefined() -> None:
    lie = geometry([[4.0, 4.0, 0.0], [4.0, 4.0, 0.0], [0.0, 0.0, 0.0]], 2)  # w = τ⁺, τ⁻ = 0
    assert (lie.norm_ratio, lie.cos_pos_neg, lie.cos_opposite) == (None, None, None)
    assert (lie.norm_drift, lie.drift_ratio, lie.cos_drift) == (1.0, 1.0, 1.0)
