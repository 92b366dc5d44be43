"""Trajectories of training folders, finished or watched while they grow."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.conftest import Cli, save_adapter
from tests.folding import adapter_factors
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.monitor import Settings, monitor
from wsteer.monitoring.trajectories import read_scores
from wsteer.monitoring.watch import watch

STEPS = (2, 4, 10)


def drift(folder: Path, base: Path, towards: Path, share: float) -> Path:
    """An adapter whose B is noise and so much of another's."""
    save_adapter(folder, base, seed=3)
    mine, other = (load_file(path / "adapter_model.safetensors") for path in (folder, towards))
    drifted = {
        name: tensor if "lora_A" not in name and "lora_B" not in name else (1 - share) * tensor + share * other[name]
        for name, tensor in mine.items()
    }
    save_file(drifted, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture
def run(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> Path:
    """A training folder that drifts towards w, the first adapter; its end is in the folder itself."""
    for step, share in zip(STEPS, (0.0, 0.4, 0.8), strict=True):
        drift(tmp_path / "run" / f"checkpoint-{step}", tiny, adapters[0], share)
    shutil.copytree(tmp_path / "run" / "checkpoint-10", tmp_path / "end")
    for path in (tmp_path / "end").iterdir():
        shutil.copy(path, tmp_path / "run" / path.name)
    return tmp_path / "run"


@pytest.fixture
def w(tmp_path: Path, adapters: tuple[Path, Path]) -> Path:
    wsteer.diff(adapters[0], output=tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def expected(run: Path, w: Path) -> list[float]:
    target = Delta.load(w)
    return [Delta.of_factors(adapter_factors(run / f"checkpoint-{step}")).cosine(target) for step in STEPS]


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


def test_without_an_end_the_last_checkpoint_stands_in_the_table(tmp_path: Path, run: Path, w: Path) -> None:
    (run / "adapter_config.json").unlink()
    report = monitor([w], tmp_path / "m", [run])
    assert report.similarity.rows == ("run/checkpoint-10",)
    assert report.trajectories[0].steps == STEPS


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


def test_watch_follows_checkpoints_that_are_being_written(tmp_path: Path, run: Path, w: Path) -> None:
    """The second checkpoint stands half written for a while, the third has its folder only; both are read at last."""
    shutil.move(run, tmp_path / "whole")
    growing = tmp_path / "run"
    growing.mkdir()
    said: list[str] = []

    def until(text: str) -> None:
        for _ in range(6000):  # a minute, so that a failure ends
            if any(text in line for line in said):
                return
            time.sleep(0.01)

    def write() -> None:
        shutil.copytree(tmp_path / "whole" / "checkpoint-2", growing / "checkpoint-2")
        until("step 2: w")
        half = growing / "checkpoint-4"
        half.mkdir()
        until("step 4: not complete yet")
        for path in sorted((tmp_path / "whole" / "checkpoint-4").iterdir()):
            (half / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        until("is not valid JSON")
        shutil.copy(tmp_path / "whole" / "checkpoint-4" / "adapter_config.json", half)
        until("truncated")
        for path in (tmp_path / "whole" / "checkpoint-4").iterdir():
            shutil.copy(path, half)
        until("step 4: w")
        shutil.copytree(tmp_path / "whole" / "checkpoint-10", growing / "checkpoint-10")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    report = watch([w], growing, tmp_path / "m", until_step=10, interval=0.05, note=said.append)
    writer.join()
    cosines = expected(tmp_path / "whole", w)
    assert (report.trajectory.steps, report.interrupted, report.failures) == (STEPS, False, ())
    assert [row[0] for row in report.trajectory.cosines] == pytest.approx(cosines, abs=1e-9)
    lines = [json.loads(line) for line in (tmp_path / "m" / "trajectory.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(STEPS)
    assert [line["cosines"]["w"] for line in lines] == pytest.approx(cosines, abs=1e-9)
    assert len([line for line in said if ": w " in line]) == 3
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["trajectory.csv", "trajectory.jsonl", "trajectory.png", "trajectory.svg", "wsteer.json"]


def test_watch_ends_at_the_step_or_the_gate(tmp_path: Path, run: Path, w: Path, cli: Cli) -> None:
    watched = ["monitor", w, "--of", run, "--watch", "--interval", 0.1]
    ran = cli(*watched, "--until-step", 4, "-o", tmp_path / "m", "--json")
    assert ran.code == 0
    assert ran.json["trajectory"]["steps"] == [2, 4]
    assert "step 4: w 0." in ran.err
    bound = expected(run, w)[1] - 1e-6
    ran = cli(*watched, "--fail-above", f"w={bound}", "-o", tmp_path / "n", "-q")
    assert (ran.code, ran.out.splitlines()[-1]) == (3, str(tmp_path / "n"))
    assert ran.err.startswith("wsteer: gate failed: run/checkpoint-4: cosine with w is")
    again = cli(*watched, "--until-step", 2, "-o", tmp_path / "n", "--force")
    assert again.code == 0
    assert len((tmp_path / "n" / "trajectory.jsonl").read_text().splitlines()) == 1


def test_watch_of_another_model_is_refused(tmp_path: Path, run: Path) -> None:
    Delta.of_tensors({"p": torch.ones(3)}).save(tmp_path / "p.safetensors")
    with pytest.raises(WsteerError, match="no parameter in common"):
        watch([tmp_path / "p.safetensors"], run, tmp_path / "m", until_step=2)


def test_ctrl_c_ends_watch_with_its_result(tmp_path: Path, run: Path, w: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "wsteer", "monitor", w, "--of", run, "--watch", "-o", tmp_path / "m"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    for line in process.stderr:  # blocks until the last checkpoint was measured
        if "step 10: w" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert out.splitlines()[-1] == str(tmp_path / "m")
    assert "leaves the floor: w at step 4" in out
    assert "Traceback" not in err
    assert len((tmp_path / "m" / "trajectory.jsonl").read_text().splitlines()) == 3


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
