"""What monitor compares: names of items, and what cannot be compared."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.command import Cli, Inputs
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.deltas.diff import diff
from wsteer.deltas.gram import grouped_sums
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError
from wsteer.monitoring.gates import Gates
from wsteer.monitoring.items import distinct, short_names
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.similarity import similarity


def test_equal_names_in_different_folders_are_different_deltas(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", -1.0)):
        (tmp_path / name).mkdir()
        Delta.of_tensors({"p": torch.full((3,), value)}).save(tmp_path / name / "w.safetensors")
    report = monitor([tmp_path / "a" / "w.safetensors"], tmp_path / "m", of=[tmp_path / "b" / "w.safetensors"])
    assert report.cosines == ((-1.0,),)
    assert (report.similarity.rows, report.similarity.columns) == (("b/w",), ("a/w",))


@pytest.mark.slow
def test_a_folder_and_a_file_of_one_name_are_compared_and_gated_as_two(tmp_path: Path, tiny: Path, cli: Cli) -> None:
    folder = save_adapter(tmp_path / "w", tiny, 3, std=0.3)
    for sign, name in ((-1, "w"), (1, "same")):
        diff(folder, output=tmp_path / "plus.safetensors", force=True)
        (sign * Delta.load(tmp_path / "plus.safetensors")).save(tmp_path / f"{name}.safetensors")
    arguments = ["monitor", tmp_path / "w.safetensors", "--of", folder, "-o", tmp_path / "m", "--force", "--json"]
    assert cli(*arguments).json["cosines"] == [[pytest.approx(-1)]]
    ran = cli(*arguments, "--fail-below", "w.safetensors=-0.5")
    assert (ran.code, ran.json["failures"][0]["item"]) == (3, "w")
    pairs = cli(
        "monitor", tmp_path / "w.safetensors", folder, tmp_path / "same.safetensors", "-o", tmp_path / "p", "--json"
    )
    assert pairs.json["rows"] == ["w.safetensors", "w", "same"]
    assert [round(cosine, 9) for cosine in pairs.json["cosines"][0]] == [1, -1, -1]
    assert pairs.json["above"][0][1:] == [True, True]


def test_items_of_one_label_are_still_two() -> None:
    sums = grouped_sums(
        [Delta.of_tensors({"p": torch.tensor(values)}).terms for values in ([1.0, 0.0], [-1.0, 0.0], [0.0, 1.0])],
        3,
        lambda name: "",
    )[""]
    table = similarity(sums, ["w", "w", "w"], [0, 1, 2], [0, 1, 2])
    assert table.pairs() == [(0, 1), (0, 2), (1, 2)]
    assert table.cosines[0] == (1, -1, 0)
    gates = Gates({"w": 2.0}, {"w": -0.5})
    assert [failure.value for failure in gates.failures(table.measured())] == [-1, -1]  # each is the other's delta


def test_labels_are_distinct_whatever_the_paths() -> None:
    assert short_names(["a/w", "a/w.safetensors", "b/w.safetensors"]) == ["a/w", "w.safetensors", "b/w"]
    assert short_names(["w", "./w.jsonl", "w.safetensors"]) == ["w", "w.jsonl", "w.safetensors"]
    assert short_names(["x/w", "/y/x/w"]) == ["x/w", "y/x/w"]
    assert distinct(["a", "a", "a#2", "a"]) == ["a", "a#2", "a#2#2", "a#3"]
    tricky = ["w", "w", "w.safetensors", "v/w", "/v/w", "w#2", ".safetensors", "v/.safetensors"]
    assert len(set(short_names(tricky))) == len(tricky)


@pytest.mark.slow
def test_a_checkpoint_that_is_also_the_delta_keeps_its_step(run: Path, cli: Cli, tmp_path: Path) -> None:
    ran = cli("monitor", run / "checkpoint-10", "--of", run, "-o", tmp_path / "m", "--json")
    (followed,) = ran.json["trajectories"]
    assert 10 in followed["steps"] and len(followed["steps"]) == 3
    assert ran.json["rows"] == ["run"]


def test_exclude_may_be_found_in_one_item_alone(tmp_path: Path) -> None:
    for name, tensors in (("a", {"p": torch.ones(3)}), ("b", {"p": torch.ones(3), "q": torch.ones(3)})):
        Delta.of_tensors(tensors).save(tmp_path / f"{name}.safetensors")
    paths, without = [tmp_path / f"{name}.safetensors" for name in "ab"], Settings(selection=Selection(exclude="q"))
    assert monitor(paths, tmp_path / "m", settings=without).similarity.shared_columns[0][1] == 1


def test_what_is_left_out_need_not_fit_the_base(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    folder = Path(shutil.copytree(adapters[0], tmp_path / "pos"))
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.score.weight"] = torch.ones(2, 32)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    grown = save_model(tmp_path / "grown", seed=1, vocab_size=300)
    for item, pattern in ((folder, "score"), (grown, "lm_head|embed")):
        without = Settings(base=tiny, selection=Selection(exclude=pattern))
        report = monitor([adapters[0]], tmp_path / f"m-{item.name}", of=[item], settings=without)
        assert report.cosines[0][0] == (pytest.approx(1) if item is folder else pytest.approx(0, abs=0.1))
        with pytest.raises(WsteerError, match=f"({pattern})"):
            monitor([adapters[0]], tmp_path / "no", of=[item], settings=Settings(base=tiny))


def test_a_folder_of_seeds_is_compared_as_the_mean(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    for seed, adapter in enumerate(adapters):
        shutil.copytree(adapter, tmp_path / "pos" / f"seed-{seed}")
    diff(tmp_path / "pos", output=tmp_path / "mean.safetensors", base=tiny)
    report = monitor([tmp_path / "mean.safetensors"], tmp_path / "m", of=[tmp_path / "pos"])
    assert report.cosines == ((pytest.approx(1),),)


def delta(inputs: Inputs, name: str, tensor: torch.Tensor, parameter: str = "a") -> Path:
    return inputs.delta(name, {parameter: tensor})


def holed(inputs: Inputs) -> Path:
    """An adapter with an infinite factor."""
    folder = save_adapter(inputs.folder / "holed", inputs.tiny, 1)
    factors = load_file(folder / "adapter_model.safetensors")
    next(iter(factors.values()))[0, 0] = float("inf")
    save_file(factors, folder / "adapter_model.safetensors")
    return folder


def small(inputs: Inputs) -> Path:
    """A model of another size."""
    return save_model(inputs.folder / "small", num_hidden_layers=2)


def gone(inputs: Inputs) -> Path:
    """A model without its weights."""
    folder = save_model(inputs.folder / "gone")
    (folder / "model.safetensors").unlink()
    return folder


def cut(inputs: Inputs) -> Path:
    """A model whose weights are cut off."""
    folder = save_model(inputs.folder / "cut")
    (folder / "model.safetensors").write_bytes((inputs.tiny / "model.safetensors").read_bytes()[:-100])
    return folder


def empty(inputs: Inputs) -> Path:
    """An empty folder."""
    (inputs.folder / "empty").mkdir()
    return inputs.folder / "empty"


def a(inputs: Inputs) -> Path:
    """A sound delta."""
    return delta(inputs, "a", torch.ones(3))


NAN = torch.tensor([1.0, float("nan"), 0.0])
# bad input: arguments of monitor, and what its one line names
REFUSED: dict[str, tuple[Callable[[Inputs], list], str]] = {
    "nothing in common": (
        lambda i: [a(i), "--of", delta(i, "other", torch.ones(3), "b")],
        "other and a have no parameter in common",
    ),
    "shapes": (
        lambda i: [a(i), "--of", delta(i, "longer", torch.ones(4))],
        "a has different shapes in the deltas compared",
    ),
    "bases": (
        lambda i: [i.adapters[0], "--of", save_adapter(i.folder / "of_small", small(i), 1)],
        "pos (of tiny-llama) and of_small (of small) have different bases",
    ),
    "another base": (lambda i: [i.adapters[0], "--base", small(i)], "was it made on another model"),
    "zero": (lambda i: [a(i), "--of", delta(i, "zero", torch.zeros(3))], "zero changes nothing: its norm is 0"),
    "nan": (lambda i: [a(i), "--of", delta(i, "nan", NAN)], "nan holds NaN or infinity"),
    "infinite factor": (lambda i: [i.adapters[0], "--of", holed(i)], "holds NaN or infinity"),
    "checkpoint alone": (lambda i: [a(i), "--of", i.tiny], "needs --base"),
    "missing weights": (
        lambda i: [i.adapters[0], "--of", gone(i), "--base", i.tiny],
        "holds no model.safetensors",
    ),
    "truncated weights": (lambda i: [i.adapters[0], "--of", cut(i), "--base", i.tiny], "is truncated"),
    "named twice": (lambda i: [a(i), "--of", i.adapters[0], f"{i.adapters[0]}/"], "is named twice (--of)"),
    "missing": (
        lambda i: [a(i), "--of", i.folder / "nowhere.safetensors"],
        "nowhere.safetensors does not exist",
    ),
    "empty folder": (lambda i: [a(i), "--of", empty(i)], "is neither an adapter"),
    "watched folder": (lambda i: [a(i), "--of", i.folder / "nowhere", "--watch"], "does not exist or is no folder"),
    "scores alone": (
        lambda i: [a(i), "--scores", i.text("scores.csv", "step,score\n1,x\n")],
        "scores.csv:2: step and score must be numbers",
    ),
    "scores without header": (lambda i: [a(i), "--scores", a(i)], "cannot be read as CSV"),
}


@pytest.mark.parametrize(("arguments", "named"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_compared_is_one_line(
    tmp_path: Path, inputs: Inputs, cli: Cli, arguments: Callable[[Inputs], list], named: str
) -> None:
    ran = cli("monitor", *arguments(inputs), "-o", tmp_path / "m")
    assert (ran.code, ran.out) == (1, "")
    assert named in ran.error
    assert not (tmp_path / "m").exists()
