"""Rules on cosines: which pairs they name, and verdicts by how far those lie apart, in noise floors."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.helpers.experiments import monitored
from wsteer.demo.cosines import Cosines, Table
from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT, read_rule
from wsteer.errors import WsteerError

FLOOR = 0.01


def judged(folder: Path, cosines: Mapping, above: list[str], below: list[str], **more: object) -> Cosines:
    """The verdict of a rule on a made-up table."""
    place = monitored(folder, cosines, FLOOR, **more)
    return Table(place / "similarity.json").judge(read_rule({"above": above, "below": below}))


@pytest.mark.parametrize(
    ("above", "below", "verdict"),
    [
        ((0.5, 0.3), (0.1, 0.2), AGREES),  # the nearest are 0.1 apart, which is ten floors
        ((0.5, 0.221), (0.1, 0.2), AGREES),
        ((0.5, 0.219), (0.1, 0.2), CANNOT_TELL),  # apart, but by fewer than two floors
        ((0.5, 0.15), (0.1, 0.2), CANNOT_TELL),  # the means are as they should be
        ((0.1, 0.1), (0.1, 0.1), CANNOT_TELL),
        ((0.1, 0.11), (0.11, 0.13), CANNOT_TELL),  # the means differ by 0.015
        ((0.1, 0.1), (0.12, 0.13), DOES_NOT),  # by 0.025
        ((-0.1, -0.2), (0.1, 0.2), DOES_NOT),
    ],
)
def test_verdicts_are_by_twice_the_noise_floor(tmp_path: Path, above: tuple, below: tuple, verdict: str) -> None:
    cosines = dict(zip([("a", "w"), ("b", "w"), ("c", "w"), ("d", "w")], (*above, *below), strict=True))
    found = judged(tmp_path, cosines, ["a ~ w", "b ~ w"], ["c ~ w", "d ~ w"])
    gap, which = min(above) - max(below), "nearest"
    if verdict == DOES_NOT:  # the means decide
        gap, which = (sum(above) - sum(below)) / 2, "mean"
    assert found.verdict == verdict and found.gap == pytest.approx(gap) and found.floor == FLOOR
    assert found.compared == f"the {which} cosines, above minus below"
    assert [each.pair for each in found.above] == ["a ~ w", "b ~ w"]
    assert [each.value for each in found.below] == list(below) and {each.floor for each in found.below} == {FLOOR}
    assert found.decisive == f"{gap:+.3g} (noise 0.01)"


def test_a_star_is_any_text_and_a_thing_with_itself_is_no_pair(tmp_path: Path) -> None:
    names = ["evil/a", "evil/b", "french"]
    cosines = {(row, column): 0.6 if row != "french" != column else 0.1 for row in names for column in names}
    found = judged(tmp_path, cosines, ["evil/* ~ evil/*"], ["french ~ *", "* ~ french"])
    assert [each.pair for each in found.above] == ["evil/a ~ evil/b"]  # each pair once, none with itself
    assert sorted(each.pair for each in found.below) == ["evil/a ~ french", "evil/b ~ french"]
    assert found.verdict == AGREES


def test_only_a_star_is_special_in_a_name(tmp_path: Path) -> None:
    cosines = {("a.b[1]", "w"): 0.5, ("axb[1]", "w"): 0.1}
    found = judged(tmp_path, cosines, ["a.b[1] ~ w"], ["axb* ~ w"])
    assert (found.above[0].value, found.below[0].value) == (0.5, 0.1)


def test_checkpoints_of_a_run_are_items_by_their_step(tmp_path: Path) -> None:
    run = {
        **{"run": "sport/pos", "steps": [8, 24], "deltas": ["evil", "french"]},
        **{"cosines": [[0.1, 0.05], [0.4, 0.06]], "floor": [[0.01, 0.01], [0.02, 0.01]]},
    }
    found = judged(
        tmp_path,
        {("sport/pos", "evil"): 0.4},
        ["sport/pos step 24 ~ evil"],
        ["sport/pos step 8 ~ evil", "sport/pos step * ~ french"],
        runs=[run],
    )
    assert found.verdict == AGREES and [each.value for each in found.below] == [0.1, 0.05, 0.06]
    assert (found.gap, found.floor) == (pytest.approx(0.3), 0.02)  # the larger floor of the two


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_pair_without_a_cosine_cannot_tell(tmp_path: Path, value: float | None) -> None:
    place = monitored(tmp_path, {("a", "w"): None, ("b", "w"): 0.1})
    path = place / "similarity.json"
    if value is not None:
        path.write_text(path.read_text().replace("null", "NaN"))
    found = Table(path).judge(read_rule({"above": ["a ~ w"], "below": ["b ~ w"]}))
    assert found.verdict == CANNOT_TELL and found.why.startswith("a ~ w has no cosine") and found.decisive == ""


@pytest.mark.parametrize(
    ("above", "told"),
    [
        (["evil ~ v"], "has no pair 'evil ~ v'; its items are evil, french, its deltas w, u"),
        (["evil* ~ v*"], "has no pair 'evil* ~ v*'"),
        (["w ~ w"], "has no pair 'w ~ w'"),
        (["french ~ w"], "'french ~ w' is above and below; name it once"),
        (["* ~ w"], "'french ~ w' is above and below; name it once"),
    ],
)
def test_a_pair_that_is_not_there_is_refused_with_what_there_is(tmp_path: Path, above: list, told: str) -> None:
    cosines = {("evil", "w"): 0.5, ("evil", "u"): 0.4, ("french", "w"): 0.1, ("french", "u"): 0.1}
    with pytest.raises(WsteerError) as error:
        judged(tmp_path, cosines, above, ["french ~ w"])
    assert told in str(error.value)


SPOILT = [
    *(("rows", 3), ("rows", [3]), ("columns", [None]), ("cosines", [["0.5"]]), ("cosines", []), ("floor", [[]])),
    *(("trajectories", 3), ("trajectories", [{}]), ("trajectories", [3])),
]


def test_a_file_of_another_shape_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "similarity.json"
    good = {"rows": ["a"], "columns": ["w"], "cosines": [[0.5]], "floor": [[0.1]], "trajectories": []}
    spoilt = [{"rows": []}, *({**good, key: value} for key, value in SPOILT)]
    for found in spoilt:
        path.write_text(json.dumps(found))
        with pytest.raises(WsteerError, match="is not what wsteer monitor of this version writes"):
            Table(path)
