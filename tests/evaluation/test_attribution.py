"""Parts of a delta add up to it, and what each retains of an effect is counted by hand."""

from pathlib import Path

import pytest
import torch

import wsteer
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import open_change
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.evaluation.attribution import Retained, ablations, parts, retained
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.rows import Measure, Row

ENDS = {"model.embed_tokens.weight": (262, 32), "model.norm.weight": (32,)}


@pytest.fixture(scope="module")
def delta(tiny: Path, adapters: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Delta:
    """A low-rank delta of all linear layers, with dense changes of the ends beside it."""
    folder = tmp_path_factory.mktemp("delta")
    wsteer.diff(*adapters, folder / "w.safetensors")
    generator = torch.Generator().manual_seed(0)
    ends = {name: 0.01 * torch.randn(shape, generator=generator) for name, shape in ENDS.items()}
    return Delta.load(folder / "w.safetensors") + Delta.of_tensors(ends)


def dense(delta: Delta) -> dict[str, torch.Tensor]:
    """Every change in float64."""
    found = {}
    for name in delta.terms:
        change = delta.change(name)
        found[name] = change.rows(0, (change.shape or (1,))[0]).double().reshape(change.shape)
    return found


def test_layers_are_parts_and_the_rest_is_the_ends(tiny: Path, delta: Delta) -> None:
    found = parts(delta, "layers", open_checkpoint(tiny))
    assert list(found) == ["layer 0", "layer 1", "layer 2", "ends"]
    assert sorted(found["ends"]) == sorted(ENDS)
    assert all(name.startswith("model.layers.1.") for name in found["layer 1"]) and len(found["layer 1"]) == 7


def test_modules_of_all_blocks_are_one_part(tiny: Path, delta: Delta) -> None:
    found = parts(delta, "modules", open_checkpoint(tiny))
    heads = [f"self_attn.{name}_proj" for name in "koqv"]
    assert list(found) == ["mlp.down_proj", "mlp.gate_proj", "mlp.up_proj", *heads, "ends"]
    assert len(found["mlp.down_proj"]) == 3
    experts = {f"model.layers.{b}.mlp.experts.{e}.w1.weight": torch.ones(2, 2) for b in (0, 1) for e in (0, 1)}
    experts |= {f"model.layers.0.self_attn.q_proj.{leaf}": torch.ones(2, 2) for leaf in ("bias", "weight")}
    found = parts(Delta.of_tensors(experts), "modules", open_checkpoint(tiny))
    assert {label: len(names) for label, names in found.items()} == {"mlp.experts.*.w1": 4, "self_attn.q_proj": 2}


@pytest.mark.parametrize("by", ["layers", "modules"])
def test_parts_sum_to_the_whole_and_controls_have_their_norms(tiny: Path, delta: Delta, by: str) -> None:
    checkpoint, whole = open_checkpoint(tiny), dense(delta)
    total = {name: torch.zeros_like(tensor) for name, tensor in whole.items()}
    found = list(ablations(delta, by, checkpoint, seed=3))
    count = len(parts(delta, by, checkpoint))
    assert len(found) == 3 * count
    for kept, dropped, random in zip(found[::3], found[1::3], found[2::3], strict=True):
        assert (kept.control, dropped.control, random.control) == (None, None, "random")
        assert kept.part == random.part and dropped.part == kept.part.replace("keep ", "drop ")
        own, rest = dense(kept.delta), dense(dropped.delta)
        assert own.keys().isdisjoint(rest) and {**own, **rest}.keys() == whole.keys()
        assert all(torch.equal(tensor, whole[name]) for name, tensor in {**own, **rest}.items())
        for name, tensor in own.items():
            total[name] += tensor
        for name, tensor in dense(random.delta).items():
            assert float(tensor.norm()) == pytest.approx(float(own[name].norm()), rel=1e-5)
            assert not torch.allclose(tensor, own[name])
    assert all(torch.equal(total[name], whole[name]) for name in whole)
    again = list(ablations(delta, by, checkpoint, seed=3))
    assert all(torch.equal(dense(again[2].delta)[name], tensor) for name, tensor in dense(found[2].delta).items())


def test_what_has_no_parts_is_refused(tiny: Path) -> None:
    checkpoint = open_checkpoint(tiny)
    one = Delta.of_tensors({"model.layers.1.mlp.up_proj.weight": torch.ones(48, 32)})
    with pytest.raises(WsteerError, match=r"--attribute layers: the delta changes nothing"):
        parts(open_change(tiny, "delta", checkpoint, Selection()).delta, "layers", checkpoint)
    with pytest.raises(WsteerError, match=r"--attribute layers: all of the delta is one part \(layer 1\)"):
        parts(one, "layers", checkpoint)
    with pytest.raises(WsteerError, match="try each block with --layers each"):
        parts(Delta.of_tensors({"blocks.0": torch.ones(32)}, kind="activation"), "layers", checkpoint)


WHOLE = Condition("w", k=1, delta="w")
KEEP = Condition("w", k=1, delta="x", part="keep layer 0")
RANDOM = Condition("w random", k=1, delta="y", part="keep layer 0", control="random")
OTHERS = (Condition("w", k=2, delta="w"), Condition("v", k=1, delta="v"))


def rows(condition: Condition, values: str, metric: str = "m", prompt: str = "p") -> list[Row]:
    """A row for each digit; `-` is one that has no value."""
    scored = [(None, "abstained") if v == "-" else (float(v), "") for v in values]
    return [Row("t", metric, condition.name, str(i), *each, prompt=prompt) for i, each in enumerate(scored)]


def test_what_a_part_retains_is_its_effect_over_the_wholes() -> None:
    base = Condition(BASE)
    given = [*rows(base, "0" * 20), *rows(WHOLE, "1" * 10 + "0" * 10), *rows(KEEP, "1" * 4 + "-" + "0" * 15)]
    given += rows(RANDOM, "0" * 20)
    conditions = [base, *OTHERS, WHOLE, KEEP, RANDOM]
    part, control = retained(given, [Measure("t", "m")], conditions)
    assert part.condition == KEEP.name and control.condition == RANDOM.name
    assert (part.value, part.rows) == (pytest.approx(4 / 9), 19)  # the row without a value is in neither effect
    assert part.low is not None and part.high is not None and part.low < 4 / 9 < part.high
    assert (control.value, control.rows) == (0.0, 20)
    assert control.low is not None and control.low < 0 < (control.high or 0)


def test_of_no_effect_nothing_is_retained() -> None:
    base = Condition(BASE)
    given = [*rows(base, "01" * 10), *rows(WHOLE, "10" * 10), *rows(KEEP, "1" * 20)]
    (found,) = retained(given, [Measure("t", "m")], [base, WHOLE, KEEP])
    assert found == Retained("t", "m", KEEP.name, None, None, None, 20)


def test_rows_with_other_prompts_and_conditions_without_rows_are_left_out() -> None:
    base = Condition(BASE)
    given = [*rows(base, "00"), *rows(WHOLE, "11"), *rows(KEEP, "11", prompt="q")]
    (found,) = retained(given, [Measure("t", "m"), Measure("t", "other")], [base, WHOLE, KEEP])
    assert found.rows == 0 and found.value is None
    assert retained(given[:4], [Measure("t", "m")], [base, WHOLE, KEEP]) == []
