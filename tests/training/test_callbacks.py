"""Interrupt and resume: the same bytes as an uninterrupted run, wherever and however it was interrupted."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.interruption import contents, interrupting, leftovers, press_ctrl_c
from wsteer.errors import Interrupted, WsteerError
from wsteer.training import callbacks
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe

pytestmark = pytest.mark.slow

# dropout, so that a random state that is not restored shows
RECIPE = Recipe(lr=3e-2, max_steps=9, batch_size=4, micro_batch_size=2, rank=4, dropout=0.2, eval_every=2, patience=0)
METHODS = ["lora", "bias", "full", "vera"]
NO_LORA = {"rank": None, "dropout": None}


@pytest.mark.parametrize("step", [1, 2, 5, 9])
@pytest.mark.parametrize("method", METHODS)
def test_resumed_run_ends_with_the_bytes_of_an_uninterrupted_one(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str, step: int
) -> None:
    recipe = RECIPE if method == "lora" else replace(RECIPE, method=method, **NO_LORA)
    run = {"base": tiny, "data": chats[0], "recipe": recipe, "device": "cpu", "save_every": 4}
    with pytest.raises(Interrupted, match=rf"step {step} of 9.*--resume"):
        finetune(output=tmp_path / "out", progress=interrupting("train", step, press_ctrl_c), **run)
    assert not (tmp_path / "out").exists()
    assert len(leftovers(tmp_path / "out")) == 1
    resumed = finetune(output=tmp_path / "out", resume=True, **run)
    whole = finetune(output=tmp_path / "whole", **run)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert replace(resumed, output="") == replace(whole, output="")
    assert leftovers(tmp_path / "out") == []
    assert "checkpoint-8" in {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("method", METHODS)
def test_sweep_goes_on_inside_a_later_rate_and_trains_no_finished_one_again(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str
) -> None:
    lora = {"dropout": 0.0} if method == "lora" else NO_LORA
    recipe = replace(RECIPE, method=method, lr=(1e-2, 3e-2, 1e-3), max_steps=6, **lora)
    run = {"base": tiny, "data": chats[0], "recipe": recipe, "device": "cpu"}
    for rate, step in (("0.03", 3), ("0.001", 2)):
        with pytest.raises(Interrupted):
            progress = interrupting(f"train lr-{rate}", step, press_ctrl_c)
            finetune(output=tmp_path / "out", progress=progress, resume=True, **run)
    stages: list[str] = []

    def noting(items: Iterable, label: str, total: int | None = None) -> Iterator:
        stages.append(f"{label} {total}")
        yield from items

    finetune(output=tmp_path / "out", progress=noting, resume=True, **run)
    assert stages == ["train lr-0.001 4"]
    finetune(output=tmp_path / "whole", **run)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_killed_run_goes_on_from_its_last_state(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    code = f"""
import os, signal
from tests.helpers.interruption import interrupting
from tests.training.test_callbacks import RECIPE
from wsteer.training import callbacks
from wsteer.training.finetune import finetune
callbacks.STATE_SECONDS = 0
progress = interrupting("train", 6, lambda: os.kill(os.getpid(), signal.SIGKILL))
finetune({str(tiny)!r}, {str(chats[0])!r}, {str(tmp_path / "out")!r}, RECIPE, device="cpu", progress=progress)
"""
    root = Path(__file__).parents[2]
    killed = subprocess.run([sys.executable, "-c", code], cwd=root)
    assert killed.returncode == -signal.SIGKILL
    (states,) = tmp_path.glob(".out.*.partial/states/*")
    (states / "checkpoint-6").mkdir()  # as if it had been killed while it wrote this one
    (states / "checkpoint-6" / "optimizer.pt").write_bytes(b"half")
    stages: list[int | None] = []

    def noting(items: Iterable, label: str, total: int | None = None) -> Iterator:
        stages.append(total)
        yield from items

    run = {"base": tiny, "data": chats[0], "recipe": RECIPE, "device": "cpu"}
    finetune(output=tmp_path / "out", resume=True, progress=noting, **run)
    assert stages == [4]  # step 6 was not saved yet, step 5 was
    finetune(output=tmp_path / "whole", **run)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_states_on_the_way_change_nothing(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = {"base": tiny, "data": chats[0], "recipe": RECIPE, "device": "cpu"}
    finetune(output=tmp_path / "out", **run)
    monkeypatch.setattr(callbacks, "STATE_SECONDS", 0)
    finetune(output=tmp_path / "often", **run)
    assert contents(tmp_path / "out") == contents(tmp_path / "often")


def test_a_second_signal_within_a_second_is_the_first_one_again(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(callbacks.time, "monotonic", lambda: now)
    with callbacks.Interruption(True, lambda: None) as interruption:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert interruption.signalled
        now += callbacks.BOUNCE
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_other_options_do_not_go_on_with_what_was_left(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    with pytest.raises(Interrupted):
        progress = interrupting("train", 3, press_ctrl_c)
        finetune(tiny, chats[0], tmp_path / "out", RECIPE, device="cpu", progress=progress)
    other = replace(RECIPE, seed=1)
    kept = contents(tmp_path)
    for resume in (False, True):
        with pytest.raises(WsteerError, match=r"interrupted run .* left its work in .* MB\).*--resume.*--force"):
            finetune(tiny, chats[0], tmp_path / "out", other, device="cpu", resume=resume)
    assert contents(tmp_path) == kept
    finetune(tiny, chats[0], tmp_path / "out", other, device="cpu", force=True)
    finetune(tiny, chats[0], tmp_path / "whole", other, device="cpu")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("name", ["optimizer.pt", "trained.safetensors", "rng_state.pth", "best.json", "scheduler.pt"])
def test_a_damaged_state_is_one_line_and_stays(tmp_path: Path, tiny: Path, chats: tuple[Path, Path], name: str) -> None:
    with pytest.raises(Interrupted):
        progress = interrupting("train", 3, press_ctrl_c)
        finetune(tiny, chats[0], tmp_path / "out", RECIPE, device="cpu", progress=progress)
    (state,) = tmp_path.glob(f".out.*.partial/states/*/checkpoint-*/{name}")
    os.truncate(state, 10)
    kept = contents(tmp_path)
    with pytest.raises(WsteerError, match=r"the saved state .* is damaged .*--force"):
        finetune(tiny, chats[0], tmp_path / "out", RECIPE, device="cpu", resume=True)
    assert contents(tmp_path) == kept


def test_ctrl_c_at_the_command_line_says_how_to_go_on(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path]
) -> None:
    arguments = [str(each) for each in ("finetune", tiny, chats[0], "-o", tmp_path / "out", "--max-steps", 200)]
    command = [sys.executable, "-m", "wsteer", *arguments]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert any("started" in line for line in process.stderr)  # blocks until the work is under way
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert err.splitlines()[-1].startswith("wsteer: interrupted at step ")
    assert "--resume" in err
    assert "Traceback" not in err
    assert cli(*arguments, "--resume", "-q").code == 0
    assert leftovers(tmp_path / "out") == []
