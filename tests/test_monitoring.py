"""Similarity matrices against dense float64 cosines."""

import csv
import json
from pathlib import Path

import pytest
import torch

import wsteer
from tests.folding import adapter_factors
from tests.test_delta import flat
from wsteer import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.comparing import monitor
from wsteer.monitoring.items import short_names


def test_cosines_of_a_delta_with_its_task_vectors(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    report = monitor([tmp_path / "w.safetensors"], tmp_path / "m", of=adapters)
    pos, neg = (flat(Delta.of_factors(adapter_factors(folder))) for folder in adapters)
    w = pos - neg
    expected = [float(tau @ w / (tau.norm() * w.norm())) for tau in (pos, neg)]
    assert [row[0] for row in report.cosines] == pytest.approx(expected, abs=1e-6)
    assert (report.rows, report.columns) == (("pos", "neg"), ("w",))
    written = json.loads((tmp_path / "m" / "similarity.json").read_text())
    assert written["cosines"] == [list(row) for row in report.cosines]
    assert written["norms_rows"] == pytest.approx([float(pos.norm()), float(neg.norm())], rel=1e-6)
    rows = list(csv.reader((tmp_path / "m" / "similarity.csv").open()))
    assert rows[0] == ["", "w"]
    assert [(row[0], float(row[1])) for row in rows[1:]] == list(
        zip(report.rows, [r[0] for r in report.cosines], strict=True)
    )
    assert (tmp_path / "m" / "similarity.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_without_of_all_pairs_are_compared(tmp_path: Path) -> None:
    torch.manual_seed(0)
    deltas = [
        Delta.of_tensors({"a": torch.randn(6, 5)}),
        Delta.of_factors({"a": (torch.randn(6, 2), torch.randn(2, 5))}),
    ]
    for i, delta in enumerate(deltas):
        delta.save(tmp_path / f"{i}.safetensors")
    report = monitor([tmp_path / "0.safetensors", tmp_path / "1.safetensors"], tmp_path / "m")
    expected = float(flat(deltas[0]) @ flat(deltas[1]) / (flat(deltas[0]).norm() * flat(deltas[1]).norm()))
    assert report.cosines[0][1] == report.cosines[1][0] == pytest.approx(expected, abs=1e-6)
    assert report.cosines[0][0] == report.cosines[1][1] == 1.0


def test_equal_names_in_different_folders_are_different_deltas(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", -1.0)):
        (tmp_path / name).mkdir()
        Delta.of_tensors({"p": torch.full((3,), value)}).save(tmp_path / name / "w.safetensors")
    report = monitor([tmp_path / "a" / "w.safetensors"], tmp_path / "m", of=[tmp_path / "b" / "w.safetensors"])
    assert report.cosines == ((-1.0,),)
    assert (report.rows, report.columns) == (("b/w",), ("a/w",))


def test_names_carry_the_parents_that_tell_them_apart() -> None:
    assert short_names(["runs/a/w.safetensors", "runs/b/w.safetensors", "c/v.safetensors"]) == ["a/w", "b/w", "v"]


def test_what_cannot_be_compared_is_refused(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors({"a": torch.ones(3)}).save(tmp_path / "a.safetensors")
    Delta.of_tensors({"b": torch.ones(3)}).save(tmp_path / "b.safetensors")
    Delta.of_tensors({"a": torch.ones(4)}).save(tmp_path / "c.safetensors")
    for of, reason in (("b.safetensors", "no parameter in common"), ("c.safetensors", "different shapes")):
        with pytest.raises(WsteerError, match=reason):
            monitor([tmp_path / "a.safetensors"], tmp_path / "m", of=[tmp_path / of])
    with pytest.raises(WsteerError, match="is a checkpoint"):
        monitor([tmp_path / "a.safetensors"], tmp_path / "m", of=[tiny])
    assert not (tmp_path / "m").exists()


def test_same_input_gives_the_same_bytes(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    for name in ("x", "y"):
        monitor(adapters, tmp_path / name)
    for path in (tmp_path / "x").iterdir():
        assert path.read_bytes() == (tmp_path / "y" / path.name).read_bytes()
