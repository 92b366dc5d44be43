"""The model under test under each condition."""

import shutil
from pathlib import Path

import pytest
import torch

import wsteer
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.subject import Subject, common_settings
from wsteer.steering.positions import POSITIONS
from wsteer.steering.rounding import Rounding

IDS = torch.tensor([[5, 6, 7, 8]])


def test_an_activation_vector_is_added_at_the_positions_of_its_condition(tiny: Path) -> None:
    loaded = wsteer.load(tiny, "cpu")
    vector = Delta.of_tensors({"blocks.2": torch.ones(32)}, kind="activation")
    conditions = [Condition("a@2", 1.0, delta="digest", positions=each) for each in (*POSITIONS, None)]
    subject = Subject(loaded, {condition.name: vector for condition in conditions})
    plain = loaded.model(IDS).logits
    last = [False, False, True, False]
    expected = ([False, False, True, True], [True, True, True, False], last, [True] * 4, [True] * 4)
    for condition, moved in zip(conditions, expected, strict=True):
        with subject.under(condition), wsteer.prompt_lengths([3]):
            assert (loaded.model(IDS).logits != plain).any(dim=-1).tolist() == [moved]
    with subject.under(conditions[0]), pytest.raises(WsteerError, match="prompt_lengths"):
        loaded.model(IDS)
    with subject.under(Condition(BASE)):
        assert torch.equal(loaded.model(IDS).logits, plain)


def test_a_change_that_cannot_be_added_names_its_condition(tiny: Path) -> None:
    loaded, condition = wsteer.load(tiny, "cpu"), Condition("w", 1e30, delta="digest")
    before = loaded.model(IDS).logits
    delta = Delta.of_tensors({"model.norm.weight": torch.full((32,), 1e30)})
    with (
        pytest.raises(WsteerError, match=r"^w k=1e\+30: model.norm.weight becomes NaN or infinite"),
        Subject(loaded, {condition.name: delta}).under(condition),
    ):
        pass
    assert torch.equal(loaded.model(IDS).logits, before)


def test_a_model_is_told_by_its_weights_and_not_by_its_place(tiny: Path, tmp_path: Path) -> None:
    def told(folder: Path) -> str:
        return common_settings(wsteer.load(folder, device="cpu"), Rounding("auto"))["model"]

    copy = shutil.copytree(tiny, tmp_path / "elsewhere" / "copy")
    before = told(tiny)
    assert told(copy) == before
    wsteer.Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "d.safetensors")
    wsteer.steer(tiny, tmp_path / "d.safetensors", k=1, output=tmp_path / "changed")
    assert told(tmp_path / "changed") != before
