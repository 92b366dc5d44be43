"""Shifts through training against transformers' and peft's own models in float64, read by hooks."""

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli
from tests.helpers.shifts import block_means, expected, save_vector, tuned_model
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.project import Projecting, project
from wsteer.monitoring.projections import Projection

STEPS = {2: 0.05, 10: 0.3}  # and the size of what each has changed


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return save_vector(tmp_path / "a.safetensors", 0)


@pytest.fixture
def trained(tmp_path: Path, tiny: Path) -> Path:
    """A training folder of adapters that peft wrote; its result, the last checkpoint, lies in the folder itself."""
    for step, std in STEPS.items():
        save_adapter(tmp_path / "trained" / f"checkpoint-{step}", tiny, seed=step, std=std)
    for path in (tmp_path / "trained" / "checkpoint-10").iterdir():
        shutil.copy(path, tmp_path / "trained")
    return tmp_path / "trained"


def check(found: list[Projection], numbers: dict[int, tuple[float, float, float, float]], tolerance: float = 2e-5):
    assert [each.block for each in found] == sorted(numbers)
    for each in found:
        # the model runs in float32
        assert (each.mean, each.low, each.high, each.noise) == pytest.approx(numbers[each.block], abs=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["prompt-last", "response"])
def test_each_checkpoint_of_a_run_is_a_step(
    tmp_path: Path, tiny: Path, trained: Path, vector: Path, chats: tuple[Path, Path], positions: str
) -> None:
    report = project([vector], [chats[0]], tiny, tmp_path / "m", [trained], Projecting(positions=positions))
    before = block_means(tuned_model(tiny), tiny, chats[0], positions)
    for step, name in ((2, "checkpoint-2"), (10, "checkpoint-10"), (None, "")):
        after = block_means(tuned_model(tiny, trained / name), tiny, chats[0], positions)
        found = [each for each in report.projections if each.model is not None and each.step == step]
        assert {(each.model, each.run, each.positions) for each in found} == {
            (f"trained/{name}".rstrip("/"), "trained", positions)
        }
        numbers = expected(before, after, vector)
        check(found, numbers)
        assert max(abs(number[0]) for number in numbers.values()) > 0.01
    lines = list(csv.DictReader((tmp_path / "m" / "trajectory.csv").open()))
    steps = [each for each in report.projections if each.step is not None]
    assert [(int(line["step"]), int(line["block"]), float(line["mean"])) for line in lines] == [
        (each.step, each.block, each.mean) for each in steps
    ]
    whole = list(csv.DictReader((tmp_path / "m" / "projections.csv").open()))
    assert [line["step"] for line in whole] == ["", "", "", *"222", *(["10"] * 3), "", "", ""]
    assert (tmp_path / "m" / "trajectory.png").exists() and (tmp_path / "m" / "trajectory.svg").exists()


@pytest.mark.slow
def test_full_checkpoints_and_biases_are_steps_too(
    tmp_path: Path, tiny: Path, trained: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    """Checkpoints as a Trainer writes them, without a tokenizer; and a delta of biases, which the base lacks."""
    for step in STEPS:
        wsteer.steer(tiny, trained / f"checkpoint-{step}", k=1, output=tmp_path / "full" / f"checkpoint-{step}")
        for path in (tmp_path / "full" / f"checkpoint-{step}").glob("tokenizer*"):
            path.unlink()
    names = [f"model.layers.{block}.mlp.down_proj.bias" for block in range(3)]
    torch.manual_seed(0)
    biases = {name: torch.randn(32) for name in names}
    (tmp_path / "biases" / "checkpoint-3").mkdir(parents=True)
    Delta.of_tensors(biases).save(tmp_path / "biases" / "checkpoint-3" / "delta.safetensors")
    report = project([vector], [chats[0]], tiny, tmp_path / "m", [tmp_path / "full", tmp_path / "biases"])
    before = block_means(tuned_model(tiny), tiny, chats[0])
    for step in STEPS:
        after = block_means(tuned_model(tiny, trained / f"checkpoint-{step}"), tiny, chats[0])
        check([each for each in report.projections if each.step == step], expected(before, after, vector))
    biased = tuned_model(tiny)
    for block, name in enumerate(names):
        biased.model.layers[block].mlp.down_proj.bias = torch.nn.Parameter(biases[name].double())
    found = [each for each in report.projections if each.step == 3]
    check(found, expected(before, block_means(biased, tiny, chats[0]), vector))


@pytest.mark.slow
def test_the_first_steps_do_not_drown_in_the_rounding_of_a_16_bit_base(
    tmp_path: Path, tiny_bf16: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    adapter = save_adapter(tmp_path / "run" / "checkpoint-1", tiny_bf16, seed=1, std=0.005)
    report = project([vector], [chats[0]], tiny_bf16, tmp_path / "m", [tmp_path / "run"], Projecting(device="cpu"))
    before, after = (block_means(tuned_model(tiny_bf16, tuned), tiny_bf16, chats[0]) for tuned in (None, adapter))
    numbers = expected(before, after, vector)
    check([each for each in report.projections if each.step == 1], numbers, tolerance=1e-6)
    assert 1e-6 < max(abs(number[0]) for number in numbers.values()) < 1e-3


@pytest.mark.slow
def test_controls_and_the_vectors_norms_stand_beside_the_shift(
    tmp_path: Path, tiny: Path, trained: Path, vector: Path, chats: tuple[Path, Path], cli: Cli
) -> None:
    control = save_vector(tmp_path / "french.safetensors", 5)
    arguments = ["monitor", vector, "--of", chats[0], "--base", tiny, "--shift", trained, "--controls", control]
    ran = cli(*arguments, "--layers", "1", "-q", "-o", tmp_path / "m", "--json")
    found = ran.json["projections"]
    before, after = (block_means(tuned_model(tiny, tuned), tiny, chats[0]) for tuned in (None, trained))
    shifts = {each["delta"]: each for each in found if each["model"] == "trained"}
    for name, path in (("a", vector), ("french", control)):
        mean, *_, noise = expected(before, after, path)[1]
        assert (shifts[name]["mean"], shifts[name]["noise"]) == pytest.approx((mean, noise), abs=2e-5)
        assert shifts[name]["control"] is (name == "french")
        norm = Delta.load(path).change("blocks.1").rows(0, 32).double().norm()
        assert shifts[name]["norm"] == pytest.approx(float(norm), rel=1e-6)
    text = cli(*arguments, "--layers", "1", "-q", "-o", tmp_path / "n").out
    beyond = sum(
        abs(one["mean"]) > abs(other["mean"])
        for one in found
        for other in found
        if one["model"] == other["model"] is not None and one["delta"] == "a" and other["delta"] == "french"
    )
    assert f"{beyond} of 3 shifts are larger than those on all controls at their block" in text
    assert "french (control)" in text
    # the trajectory by step, after the table
    rows = [line.split() for line in text.splitlines()]
    by_step = {each["step"]: each for each in found if each["delta"] == "a" and each["step"]}
    for step in STEPS:
        assert [str(step), f"{by_step[step]['mean']:.3g}"] in [row[:2] for row in rows]


@pytest.mark.slow
def test_gates_hold_at_every_step_and_name_what_breaks_them(
    tmp_path: Path, tiny: Path, trained: Path, vector: Path, chats: tuple[Path, Path], cli: Cli
) -> None:
    control = save_vector(tmp_path / "b.safetensors", 5)
    arguments = ["monitor", vector, "--of", chats[0], "--base", tiny, "--shift", trained, "--controls", control, "-q"]
    found = cli(*arguments, "-o", tmp_path / "m", "--json").json["projections"]
    shifts = [each for each in found if each["model"] and not each["control"]]
    early = max((each for each in shifts if each["step"] == 2), key=lambda each: each["mean"])
    bound = early["mean"] - 1e-7
    gate = f"a:{early['block']}={bound}"
    ran = cli(*arguments, "--fail-above", gate, "-o", tmp_path / "n")
    assert ran.code == 3
    broken = [each for each in shifts if each["block"] == early["block"] and each["mean"] > bound]
    assert len(ran.err.splitlines()) == len(broken)
    start = f"wsteer: gate failed: trained/checkpoint-2, prompts of pos: projection on a at block {early['block']} is "
    assert any(line.startswith(start) and "above" in line for line in ran.err.splitlines())
    # without a block: all that are measured
    lowest = min(each["mean"] for each in shifts)
    ran = cli(*arguments, "--fail-below", f"a={lowest}", "-o", tmp_path / "o")
    assert ran.code == 0
    ran = cli(*arguments, "--fail-below", f"a={lowest + 1e-7}", "-o", tmp_path / "p", "--json")
    assert ran.code == 3
    # the result is the last checkpoint
    assert {(each["value"], each["side"]) for each in ran.json["failures"]} == {(lowest, "below")}


def test_without_a_tuned_model_gates_bound_the_answers(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    settings = Projecting(layers=[1], fail_above={"a:1": -1e9})
    report = project([vector], list(chats), tiny, tmp_path / "m", settings=settings)
    assert [each.item for each in report.failures] == ["answers of pos", "answers of neg"]


@pytest.mark.parametrize(
    ("gate", "reason"),
    [
        ("b", "'b' names no DELTA; they are a"),
        ("a:7", "a:7"),
        ("a:x", "a:x"),
        ("french", "'french' names no DELTA; they are a"),
    ],
)
def test_gates_that_bound_nothing_are_refused_before_a_model_is_loaded(
    tmp_path: Path, vector: Path, chats: tuple[Path, Path], gate: str, reason: str
) -> None:
    settings = Projecting([save_vector(tmp_path / "french.safetensors", 1)], fail_above={gate: 1.0})
    with pytest.raises(WsteerError, match=reason):
        project([vector], [chats[0]], tmp_path / "no model", tmp_path / "m", settings=settings)


@pytest.mark.slow
def test_prompts_without_answers_are_enough_for_a_shift(
    tmp_path: Path, tiny: Path, trained: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    rows = [json.loads(line)["messages"][:-1] for line in chats[0].read_text().splitlines()]
    prompts.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    report = project([vector], [prompts, chats[0]], tiny, tmp_path / "m", [trained])
    assert "prompts has rows without answers" in report.notes[0]
    found = {
        data: [(each.model, each.block, each.mean) for each in report.projections if each.data == data]
        for data in ("prompts", "pos")
    }
    assert found["prompts"] == [each for each in found["pos"] if each[0] is not None]
    for settings, shift in ((Projecting(), []), (Projecting(positions="response"), [trained])):
        with pytest.raises(WsteerError, match="does not end in an assistant's answer"):
            project([vector], [prompts], tiny, tmp_path / "n", shift, settings)


@pytest.mark.slow
def test_scores_are_drawn_beside_the_projections(
    tmp_path: Path, tiny: Path, trained: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    (tmp_path / "scores.csv").write_text("step,harm\n2,0.25\n10,0.5\n")
    settings = Projecting(layers=[1], scores=tmp_path / "scores.csv")
    project([vector], [chats[0]], tiny, tmp_path / "m", [trained], settings)
    drawn = (tmp_path / "m" / "trajectory.svg").read_text()
    for text in ("harm", "training step", "projection of the shift", "block 1 (the paper's layer 2, hidden_states[2])"):
        assert text in drawn
    with pytest.raises(WsteerError, match="drawn beside a trajectory"):
        project([vector], [chats[0]], tiny, tmp_path / "n", [trained / "checkpoint-2"], settings)


@pytest.mark.slow
def test_what_was_tuned_from_another_model_is_refused(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    deeper = save_model(tmp_path / "deeper", num_hidden_layers=4)
    adapter = save_adapter(tmp_path / "run" / "checkpoint-2", deeper, 1)
    wsteer.diff(adapter, output=tmp_path / "t.safetensors", base=deeper)
    base = tmp_path / "tiny-llama"  # cannot be loaded, so that all is refused before
    shutil.copytree(tiny, base, ignore=shutil.ignore_patterns("tokenizer*"))
    for shift, reason in (
        (deeper, "has a num_hidden_layers of 4 and the base tiny-llama of 3"),
        (tmp_path / "t.safetensors", "different bases|lacks"),
        (vector, "is an activation vector, no tuned model"),
        (tmp_path, "neither an adapter"),
    ):
        with pytest.raises(WsteerError, match=reason):
            project([vector], [chats[0]], base, tmp_path / "m", [shift])
    wide = save_vector(tmp_path / "wide.safetensors", 0, hidden=8)
    with pytest.raises(WsteerError, match="does not fit a model of 3 blocks and 32 dimensions"):
        project([wide], [chats[0]], base, tmp_path / "m", [base])
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_a_mean_of_seeds_is_one_tuned_model(tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]) -> None:
    for seed in (0, 1):
        save_adapter(tmp_path / "pos" / f"seed-{seed}", tiny, seed, std=0.2)
    report = project([vector], [chats[0]], tiny, tmp_path / "m", [tmp_path / "pos"])
    wsteer.diff(tmp_path / "pos", output=tmp_path / "mean.safetensors", base=tiny)
    other = project([vector], [chats[0]], tiny, tmp_path / "n", [tmp_path / "mean.safetensors"])
    means = [[each.mean for each in found.projections if each.model is not None] for found in (report, other)]
    assert means[0] == pytest.approx(means[1], abs=1e-6)
    assert max(map(abs, means[0])) > 0.01
