"""The part of a delta that is used: what matches nothing is an error, what only one side has is not."""

from pathlib import Path

import pytest
import torch

import wsteer
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError

W = Delta.of_tensors({f"model.layers.{block}.w": torch.ones(2) for block in range(2)} | {"embed": torch.ones(2)})


@pytest.mark.parametrize(
    ("selection", "left"),
    [
        (Selection(exclude="embed"), 2),
        (Selection(include="w$", exclude=r"\.1\."), 1),
        (Selection(layers=[1]), 1),
        (Selection(layers=[0, 2]), "nothing in [2]; it changes blocks 0 to 1"),
        (Selection(layers=range(1000)), "nothing in [2, 3, 4, 5, 6, 7, 8, 9] and 990 more"),
        (Selection(exclude="lm_head"), "--exclude 'lm_head' leaves nothing out"),
        (Selection(layers=[0], exclude="embed"), "--exclude 'embed' leaves nothing out"),
        (Selection(include="lm_head"), "leave nothing"),
        (Selection(exclude=""), "leave nothing"),
    ],
)
def test_what_matches_nothing_is_an_error(selection: Selection, left: int | str) -> None:
    if isinstance(left, int):
        assert len(selection.of(W, None).terms) == left
    else:
        with pytest.raises(WsteerError) as error:
            selection.of(W, None)
        assert left in str(error.value)


@pytest.mark.parametrize("selection", [Selection(exclude="q"), Selection(include="q"), Selection(layers=[3])])
def test_one_side_of_a_difference_may_lack_what_is_selected(tmp_path: Path, selection: Selection) -> None:
    sides = {"pos": {"p": 1.0, "q": 2.0, "layers.3.q": 2.0}, "neg": {"p": 3.0}}
    for side, values in sides.items():
        tensors = {name: torch.full((4,), value) for name, value in values.items()}
        Delta.of_tensors(tensors).save(tmp_path / f"{side}.safetensors")
    report = wsteer.diff(
        tmp_path / "pos.safetensors", tmp_path / "neg.safetensors", tmp_path / "w.safetensors", selection=selection
    )
    with_p = selection.exclude is not None
    assert report.norm_neg == (6 if with_p else 0)
    assert report.neg_only == 0
