"""Training folders watched while they grow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from tests.helpers.command import Cli
from tests.helpers.drifting_run import STEPS, expected, wait_until_said
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.watch import watch


@pytest.mark.slow
def test_watch_follows_checkpoints_that_are_being_written(tmp_path: Path, run: Path, w: Path) -> None:
    """The second checkpoint stands half written for a while, the third has its folder only; both are read at last."""
    shutil.move(run, tmp_path / "whole")
    growing = tmp_path / "run"
    growing.mkdir()
    said: list[str] = []

    def write() -> None:
        shutil.copytree(tmp_path / "whole" / "checkpoint-2", growing / "checkpoint-2")
        wait_until_said(said, "step 2: w")
        half = growing / "checkpoint-4"
        half.mkdir()
        wait_until_said(said, "step 4: not complete yet")
        for path in sorted((tmp_path / "whole" / "checkpoint-4").iterdir()):
            (half / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        wait_until_said(said, "is not valid JSON")
        shutil.copy(tmp_path / "whole" / "checkpoint-4" / "adapter_config.json", half)
        wait_until_said(said, "truncated")
        for path in (tmp_path / "whole" / "checkpoint-4").iterdir():
            shutil.copy(path, half)
        wait_until_said(said, "step 4: w")
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


@pytest.mark.slow
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


@pytest.mark.slow
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
