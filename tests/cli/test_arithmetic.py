"""The arithmetic of fine-tunes as the README shows it, command by command, against float64."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import wsteer
from tests.helpers.command import Cli
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import save_adapter, save_model

Weights = Mapping[str, Tensor]


def weights(folder: Path) -> Weights:
    return {name: tensor.double() for name, tensor in load_file(folder / "model.safetensors").items()}


def change(adapter: Path) -> Weights:
    """s·B A of each adapted parameter."""
    return {name: b.double() @ a.double() for name, (b, a) in adapter_factors(adapter).items()}


def check(folder: Path, base: Weights, *scaled: tuple[float, Weights]) -> None:
    for name, after in weights(folder).items():
        exact = base[name] + sum(k * part[name] for k, part in scaled if name in part)
        torch.testing.assert_close(after, exact, rtol=0, atol=2e-6, msg=name)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A base, and three fine-tunes of it as adapters and as checkpoints."""
    monkeypatch.chdir(tmp_path)
    base = save_model(Path("base"))
    for seed, name in enumerate(("A", "a", "b")):
        save_adapter(Path(name), base, seed, std=0.1)
        wsteer.steer("base", name, k=1, output=f"whole-{name}")
    return tmp_path


@pytest.mark.slow
def test_an_adapter_is_merged_negated_and_added_up(folder: Path, cli: Cli) -> None:
    base, parts = weights(folder / "base"), {name: change(folder / name) for name in ("A", "a", "b")}
    for arguments, *scaled in (
        (["base", "a", "--k", 1], (1, parts["a"])),  # merged
        (["base", "a", "--k", -1], (-1, parts["a"])),  # negated
        (["base", "A", "b", "a", "--k", "1,1,-1"], (1, parts["A"]), (1, parts["b"]), (-1, parts["a"])),
        (["A", "b", "a", "--k", 1, "--k", -1], (1, parts["A"]), (1, parts["b"]), (-1, parts["a"])),
    ):
        ran = cli("steer", *arguments)
        assert ran.code == 0, ran.err
        check(folder / ran.out.splitlines()[-1], base, *scaled)


@pytest.mark.slow
@pytest.mark.parametrize("made", [{"A"}, {"a", "b"}, {"A", "a", "b"}])
def test_an_analogy_of_checkpoints_is_that_of_their_weights(folder: Path, cli: Cli, made: set[str]) -> None:
    """A + (b - a), for any of the three as a checkpoint."""
    names = [f"whole-{name}" if name in made else name for name in ("A", "b", "a")]
    ran = cli("steer", *names, "--k", 1, "--k", -1, "-o", "out")
    assert ran.code == 0, ran.err
    w_a, w_b, w_base = (weights(folder / f"whole-{name}") for name in ("A", "b", "a"))
    check(folder / "out", w_a, (1, w_b), (-1, w_base))


def test_a_direction_is_added_to_a_fine_tune(folder: Path, cli: Cli) -> None:
    assert cli("diff", "b", "a", "-o", "w.safetensors").code == 0
    assert cli("steer", "base", "whole-A", "w.safetensors", "--k", 1, "--k", -0.5, "-o", "out").code == 0
    check(folder / "out", weights(folder / "whole-A"), (-0.5, change(folder / "b")), (0.5, change(folder / "a")))


@pytest.mark.slow
def test_a_change_is_taken_from_an_adapters_model(folder: Path, cli: Cli) -> None:
    """POS - (base + A), of a checkpoint; an adapter trained on that model has its own change."""
    for pos, expected in (("whole-b", {"b": 1, "A": -1}), ("b", {"b": 1})):
        ran = cli("diff", pos, "--base", "A", "-o", f"{pos}.safetensors")
        assert ran.code == 0, ran.err
        w = wsteer.Delta.load(f"{pos}.safetensors")
        for name, b in change(folder / "b").items():
            exact = b * expected["b"] + expected.get("A", 0) * change(folder / "A")[name]
            torch.testing.assert_close(w.change(name).rows(0, len(b)).double(), exact, rtol=0, atol=2e-6)
    assert [source["role"] for source in wsteer.Delta.load("whole-b.safetensors").sources] == ["pos", "adapter", "base"]
    save_adapter(Path("dora"), Path("base"), 5, use_dora=True)
    assert "--base A is an adapter; write its model first" in cli("diff", "dora", "--base", "A", "-o", "no").error
