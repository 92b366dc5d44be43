"""Gates: exit code 3, with the culprit named."""

import json
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli
from tests.helpers.dense_changes import low_rank, saved
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.gates import Gates, Measured

GATES = [
    (["--fail-above", "w=0.99"], None),
    (["--fail-above", "w=0.5"], ("pos", "above 0.5")),
    (["--fail-below", "w=-0.5"], ("neg", "below -0.5")),
    (["--fail-below", "w=-0.99", "--fail-above", "w=0.99"], None),
]


@pytest.mark.slow
@pytest.mark.parametrize(("bounds", "culprit"), GATES)
def test_gates_exit_3_and_name_the_culprit(
    tmp_path: Path, adapters: tuple[Path, Path], cli: Cli, bounds: list[str], culprit: tuple[str, str] | None
) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    ran = cli("monitor", tmp_path / "w.safetensors", "--of", *adapters, *bounds, "-o", tmp_path / "m")
    lines = [line for line in ran.err.splitlines() if "gate failed" in line]
    cosines = json.loads((tmp_path / "m" / "similarity.json").read_text())["cosines"]  # the result stands
    assert ran.out.splitlines()[-1] == str(tmp_path / "m")
    if culprit is None:
        assert (ran.code, lines) == (0, [])
    else:
        name, side = culprit
        ((cosine,),) = [cosines[["pos", "neg"].index(name)]]
        assert ran.code == 3
        assert lines == [f"wsteer: gate failed: {name}: cosine with w is {cosine:.4f}, {side}"]


def test_gates_hold_for_all_pairs_and_for_names(tmp_path: Path, cli: Cli) -> None:
    paths = saved(tmp_path, {"a": Delta.of_factors(low_rank(1, 2)), "b": Delta.of_factors(low_rank(1, 2, std=2.0))})
    ran = cli("monitor", *paths, "--fail-above", "b=0.5", "-o", tmp_path / "m", "--json")
    assert ran.code == 3
    assert [(each["item"], each["delta"]) for each in ran.json["failures"]] == [("a", "b")]
    ran = cli("monitor", *paths, "--fail-above", "c=0.5", "-o", tmp_path / "n")
    assert (ran.code, ran.error) == (1, "the gate 'c' names no DELTA; they are a, b")
    for wrong in ("b", "b=x", "=1"):
        assert cli("monitor", *paths, "--fail-above", wrong, "-o", tmp_path / "n").code == 2


def test_a_gate_on_a_pair_that_shares_nothing_is_refused_at_once(tmp_path: Path, cli: Cli) -> None:
    still = Delta.of_tensors({"b.weight": torch.zeros(2, 2)})  # products would tell of the norm of 0 first
    paths = saved(tmp_path, {"a": Delta.of_tensors({"a.weight": torch.ones(2, 2)}), "b": still})
    ran = cli("monitor", paths[0], "--of", paths[1], "--fail-above", "a=0.5", "-o", tmp_path / "m")
    assert ran.code == 1
    assert ran.error.startswith("the gate 'a' cannot break: b and a have no parameter in common")


def test_a_gate_bounds_what_it_names() -> None:
    measured = [
        Measured("run", "w", "cosine", 0.3, "w"),
        Measured("run", "w", "cosine_shared", 0.9, "w:shared"),
        Measured("run", "a", "projection", -2.5, "a:12", block=12),
    ]
    failures = Gates({"w": 0.5, "w:shared": 0.5}, {"a:12": -1.0}).failures(measured)
    assert [failure.text for failure in failures] == [
        "run: cosine over shared parameters with w is 0.9000, above 0.5",
        "run: projection on a at block 12 is -2.5000, below -1",
    ]
    assert Gates({"w": 0.3}, {"w": 0.3}).failures(measured) == ()  # a bound that is met holds


def test_gates_are_checked_by_name_and_part() -> None:
    Gates({"w": 1, "w:shared": 1, "x:y": 1}, {"x:y:shared": 1}).check_names(["w", "x:y"])
    with pytest.raises(WsteerError, match=r"the gate 'w:share' bounds nothing that is measured; give w or w:shared$"):
        Gates({"w:share": 1}, {}).check_names(["w"])
    with pytest.raises(WsteerError, match=r"the gate 'v:shared' names no DELTA; they are w"):
        Gates({}, {"v:shared": 1}).check_names(["w"])
