"""Trajectories of training folders."""

import csv
import json
from pathlib import Path

import pytest
import torch

import wsteer
from tests.helpers.command import Cli
from tests.helpers.dense_changes import saved
from tests.helpers.drifting_run import STEPS, expected
from tests.helpers.exact_fold import adapter_factors
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.trajectories import read_scores


@pytest.mark.slow
def test_a_training_folder_is_one_row_and_one_trajectory(tmp_path: Path, run: Path, w: Path, cli: Cli) -> None:
    (tmp_path / "scores.csv").write_text("step,misaligned\n2,0.01\n4,0.2\n10,0.7\n")
    arguments = ["monitor", w, "--of", run, "--scores", tmp_path / "scores.csv", "-o", tmp_path / "m"]
    ran = cli(*arguments, "--json")
    cosines = expected(run, w)
    (found,) = ran.json["trajectories"]
    assert (found["run"], found["steps"], found["deltas"]) == ("run", list(STEPS), ["w"])
    assert [row[0] for row in found["cosines"]] == pytest.approx(cosines, abs=1e-9)
    assert found["leaves_floor"] == {"w": 4}
    assert ran.json["rows"] == ["run"]
    assert ran.json["cosines"][0][0] == pytest.approx(cosines[-1], abs=1e-9)
    lines = list(csv.DictReader((tmp_path / "m" / "trajectory.csv").open()))
    assert [(int(line["step"]), float(line["cosine"])) for line in lines] == list(
        zip(STEPS, [row[0] for row in found["cosines"]], strict=True)
    )
    picture = (tmp_path / "m" / "trajectory.svg").read_text()
    assert ">misaligned<" in picture
    assert ">training step<" in picture
    assert (tmp_path / "m" / "trajectory.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    text = cli(*arguments, "--force").out
    assert "leaves the floor: w at step 4" in text


@pytest.mark.slow
def test_both_cosines_of_a_run_that_shares_a_part_with_the_delta(tmp_path: Path, run: Path, w: Path, cli: Cli) -> None:
    delta = Delta.load(w)
    up = delta.part([name for name in delta.terms if "up_proj" in name])
    bias = Delta.of_tensors({"model.layers.0.mlp.down_proj.bias": torch.ones(3)})
    paths = saved(tmp_path, {"up": up, "bias": bias})
    ran = cli("monitor", *paths, "--of", run, "-o", tmp_path / "m", "--json")
    (found,) = ran.json["trajectories"]
    tau = [Delta.of_factors(adapter_factors(run / f"checkpoint-{step}")) for step in STEPS]
    assert [row[0] for row in found["cosines"]] == pytest.approx([each.cosine(up) for each in tau], abs=1e-9)
    parts = [each.part(list(up.terms)).cosine(up) for each in tau]
    assert [row[0] for row in found["cosines_shared"]] == pytest.approx(parts, abs=1e-9)
    assert [row[1] for row in found["cosines"]] == [None] * 3
    assert found["leaves_floor"]["bias"] is None
    lines = list(csv.DictReader((tmp_path / "m" / "trajectory.csv").open()))
    assert [line["cosine_shared"] == "" for line in lines] == [False, True] * 3
    assert ">cosine over shared parameters<" in (tmp_path / "m" / "trajectory-shared.svg").read_text()
    watched = cli("monitor", *paths, "--of", run, "--watch", "--until-step", 10, "-o", tmp_path / "n")
    cosine, shared, floor = (found[key][2][0] for key in ("cosines", "cosines_shared", "floor"))
    line = (
        f"step 10: up {cosine:.4f} (floor {floor:.4f}; over shared parameters {shared:.4f}), bias shares no parameter"
    )
    assert f"wsteer: {line}\n" in watched.err
    last = json.loads((tmp_path / "n" / "trajectory.jsonl").read_text().splitlines()[-1])
    assert last["cosines_shared"] == {"up": pytest.approx(shared), "bias": None}
    names = {path.name for path in (tmp_path / "n").iterdir()}
    assert {"trajectory.png", "trajectory-shared.png", "trajectory-shared.svg"} < names
    assert "drawing.png" not in names


@pytest.mark.slow
def test_without_an_end_the_last_checkpoint_stands_in_the_table(tmp_path: Path, run: Path, w: Path) -> None:
    (run / "adapter_config.json").unlink()
    report = monitor([w], tmp_path / "m", [run])
    assert report.similarity.rows == ("run/checkpoint-10",)
    assert report.trajectories[0].steps == STEPS


@pytest.mark.slow
def test_gates_hold_at_every_step(tmp_path: Path, run: Path, w: Path, cli: Cli) -> None:
    middle = expected(run, w)[1]
    ran = cli("monitor", w, "--of", run, "--fail-above", f"w={middle - 1e-6}", "-o", tmp_path / "m", "--json")
    assert ran.code == 3
    assert [each["item"] for each in ran.json["failures"]] == ["run/checkpoint-4", "run/checkpoint-10", "run"]


def test_scores_need_a_trajectory_and_numbers(tmp_path: Path, w: Path) -> None:
    path = tmp_path / "scores.csv"
    path.write_text("run,step,score\na,2,0.5\nb,1,0.25\na,1,1\n")
    scores = read_scores(path)
    assert (scores.label, scores.of("a"), scores.of("c")) == ("score", [(1, 1.0), (2, 0.5)], [])
    with pytest.raises(WsteerError, match="--scores is drawn beside a trajectory"):
        monitor([w], tmp_path / "m", settings=Settings(scores=path))
    for text, reason in (
        ("a,b\n1,2\n", "a header with `step`"),
        ("step,b\n1,nan\n", "b is not finite"),
        ("", "header"),
    ):
        path.write_text(text)
        with pytest.raises(WsteerError, match=reason):
            read_scores(path)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bias", "full"])
def test_runs_of_finetune_are_trajectories(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], cli: Cli, method: str
) -> None:
    training = ["finetune", tiny, chats[0], "--method", method, "--max-steps", 4, "--save-every", 2, "--lr", "1e-2"]
    assert cli(*training, "--val-fraction", 0, "-q", "-o", tmp_path / "tuned").code == 0
    wsteer.diff(tmp_path / "tuned", output=tmp_path / "t.safetensors", base=tiny)
    report = monitor([tmp_path / "t.safetensors"], tmp_path / "m", [tmp_path / "tuned"], Settings(base=tiny))
    (found,) = report.trajectories
    assert found.steps == (2, 4)
    assert found.cosines[0][0] < 0.9999
    assert (found.cosines[1][0], report.cosines[0][0]) == pytest.approx((1.0, 1.0), abs=1e-6)
