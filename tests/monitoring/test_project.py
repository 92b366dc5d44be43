"""Projections on activation vectors against hidden states read row by row."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import t as student
from transformers import AutoModelForCausalLM, AutoTokenizer

import wsteer
from tests.helpers.command import Cli
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats
from wsteer.models.rendering import render
from wsteer.monitoring.project import Projecting, project
from wsteer.monitoring.projections import Projection


@pytest.fixture
def vector(tmp_path: Path, tiny: Path) -> Path:
    """An activation delta of all three blocks."""
    torch.manual_seed(0)
    vectors = {f"blocks.{block}": torch.randn(32) for block in range(3)}
    Delta.of_tensors(vectors, "activation").save(tmp_path / "a.safetensors")
    return tmp_path / "a.safetensors"


def states(folder: Path, data: Path, where: str) -> np.ndarray:
    """Hidden states by row [rows, 2, hidden] of the first two blocks, whose entries of `hidden_states` are theirs."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
        AutoTokenizer.from_pretrained(folder),
    )
    found = []
    for chat in read_chats(data):
        example = render(tokenizer, chat)
        start, stop = example.answer.start, example.answer.stop
        tokens = example.tokens[: stop if where == "answer" else start].long()
        hidden = model(tokens[None], output_hidden_states=True).hidden_states
        span = slice(start, None) if where == "answer" else slice(-1, None)
        found.append(
            torch.stack([hidden[block + 1][0, span].mean(dim=0) for block in range(2)]).detach().double().numpy()
        )
    return np.stack(found)


def along(values: np.ndarray, vector: Path) -> np.ndarray:
    """[rows, blocks]: the component of each row's state along the unit vector of its block."""
    delta = Delta.load(vector)
    units = [delta.change(f"blocks.{block}").rows(0, 32).double().numpy() for block in range(2)]
    return np.stack([values[:, block] @ unit / np.linalg.norm(unit) for block, unit in enumerate(units)], axis=1)


def check(found: list[Projection], values: np.ndarray) -> None:
    for each in found:
        if each.block < 2:
            column = values[:, each.block]
            reach = student.ppf(0.975, len(column) - 1) * column.std(ddof=1) / math.sqrt(len(column))
            assert each.rows == len(column)
            # hidden states are float32
            assert each.mean == pytest.approx(column.mean(), abs=1e-5)
            assert (each.low, each.high) == pytest.approx((column.mean() - reach, column.mean() + reach), abs=1e-5)


def test_answers_are_projected_row_by_row(tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]) -> None:
    report = project([vector], chats, tiny, tmp_path / "m", settings=Projecting(batch_size=3))
    assert {(each.data, each.block) for each in report.projections} == {
        (d, b) for d in ("pos", "neg") for b in range(3)
    }
    for data in chats:
        found = [each for each in report.projections if each.data == data.stem]
        check(found, along(states(tiny, data, "answer"), vector))
    lines = list(csv.DictReader((tmp_path / "m" / "projections.csv").open()))
    written = json.loads((tmp_path / "m" / "projections.json").read_text())["projections"]
    assert [float(line["mean"]) for line in lines] == [each["mean"] for each in written]
    assert (tmp_path / "m" / "projections.png").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["run", "tuned", "t.safetensors"], ids=["adapter", "checkpoint", "delta"])
def test_shift_is_that_of_the_tuned_model_at_the_prompts_ends(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path], name: str
) -> None:
    adapter = save_adapter(tmp_path / "run", tiny, 3, std=0.3)
    wsteer.diff(adapter, output=tmp_path / "t.safetensors", base=tiny)
    wsteer.steer(tiny, tmp_path / "t.safetensors", k=1.0, output=tmp_path / "tuned")
    tuned = tmp_path / name
    report = project([vector], [chats[0]], tiny, tmp_path / "m", [tuned])
    before, after = (along(states(folder, chats[0], "prompt end"), vector) for folder in (tiny, tmp_path / "tuned"))
    found = [each for each in report.projections if each.model is not None]
    assert {each.model for each in found} == {tuned.stem}
    assert abs(after - before).max() > 0.01
    check(found, after - before)


@pytest.mark.slow
def test_command_shows_means_with_intervals(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path], cli: Cli
) -> None:
    adapter = save_adapter(tmp_path / "run", tiny, 3)
    arguments = ["monitor", vector, "--of", *chats, "--base", tiny, "--layers", "1", "--shift", adapter, "-q"]
    ran = cli(*arguments, "-o", tmp_path / "m")
    lines = ran.out.splitlines()
    assert lines[0].split() == ["projection", "delta", "block", "1"]
    assert [line.split("  ")[0] for line in lines[1:5]] == [
        "pos",
        "neg",
        *(f"run minus base, prompts of {n}" for n in ("pos", "neg")),
    ]
    found = cli(*arguments, "-o", tmp_path / "n", "--json").json["projections"]
    assert [each["block"] for each in found] == [1] * 4
    assert f"{found[0]['mean']:.3g} ({found[0]['low']:.3g} to {found[0]['high']:.3g})" in lines[1]


@pytest.mark.slow
@pytest.mark.slow
def test_an_adapter_as_base_is_read_as_its_steered_checkpoint(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    tuned, shifted = (save_adapter(tmp_path / name, tiny, seed, std=0.2) for seed, name in enumerate(("pos", "neg")))
    wsteer.steer(tiny, tuned, k=1, output=tmp_path / "whole")
    found = [
        project(
            [vector], [chats[0]], base, tmp_path / f"m-{base.name}", [shifted], Projecting(device="cpu")
        ).projections
        for base in (tuned, tmp_path / "whole")
    ]
    for one, other in zip(*found, strict=True):
        assert (one.model, one.block) == (other.model, other.block)
        assert one.mean == pytest.approx(other.mean, rel=1e-4, abs=1e-6)
    assert (
        found[0] != project([vector], [chats[0]], tiny, tmp_path / "m", [shifted], Projecting(device="cpu")).projections
    )
    roles = [entry["role"] for entry in json.loads((tmp_path / "m-pos" / "wsteer.json").read_text())["inputs"]]
    assert roles == ["delta", "data", "base", "adapter", "shift"]


def test_blocks_stand_in_the_order_of_the_model(tmp_path: Path, chats: tuple[Path, Path]) -> None:
    deep = save_model(tmp_path / "deep", num_hidden_layers=11)
    Delta.of_tensors({f"blocks.{b}": torch.ones(32) for b in (10, 2, 9)}, "activation").save(tmp_path / "a.safetensors")
    report = project([tmp_path / "a.safetensors"], [chats[0]], deep, tmp_path / "m")
    assert [each.block for each in report.projections] == [2, 9, 10]


def test_one_row_has_a_mean_and_no_interval(tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(chats[0].read_text().splitlines()[0] + "\n")
    report = project([vector], [one], tiny, tmp_path / "m")
    assert {(each.low, each.high, each.rows) for each in report.projections} == {(None, None, 1)}


def test_what_cannot_be_projected_is_refused(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path], adapters: tuple[Path, Path], cli: Cli
) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    Delta.of_tensors({"blocks.0": torch.zeros(32)}, "activation").save(tmp_path / "zero.safetensors")
    Delta.of_tensors({"blocks.0": torch.ones(8)}, "activation").save(tmp_path / "small.safetensors")
    other = save_model(tmp_path / "other", num_hidden_layers=2)
    wsteer.diff(adapters[0], output=tmp_path / "t.safetensors")
    for name, reason in (("w", "is a change of weights"), ("zero", "is zero or not finite"), ("small", "does not fit")):
        with pytest.raises(WsteerError, match=reason):
            project([tmp_path / f"{name}.safetensors"], [chats[0]], tiny, tmp_path / "m")
    with pytest.raises(WsteerError, match="does not fit a model of 2 blocks"):
        project([vector], [chats[0]], other, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    out = ["-o", tmp_path / "m"]
    for arguments, reason in (
        (["--of", chats[0]], "the model that reads the data sets is needed"),
        (["--of", chats[0], tiny, "--base", tiny], "is no data set"),
        (["--shift", tiny, "--base", tiny], "--shift needs data sets"),
    ):
        ran = cli("monitor", vector, *arguments, *out)
        assert ran.code == 2
        assert reason in " ".join(ran.err.replace("│", " ").split())
