"""Disks that fill up or may not be written to: one line, inputs as they were, nothing left behind."""

import contextlib
import os
import shutil
import subprocess
import types
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.helpers.command import ARGUMENTS, Cli, Inputs
from tests.helpers.interruption import contents
from wsteer.cli.output import Printer
from wsteer.deltas.delta import Delta
from wsteer.training import callbacks

Mount = Callable[[str], Path]


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Mount]:
    """Mount a small disk in memory with the given options; skips where that is not permitted."""
    mounted: list[Path] = []

    def make(options: str) -> Path:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "wsteer-test", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("mounting a disk is not permitted")
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def case(tmp_path: Path) -> tuple[Path, Path]:
    """A checkpoint of 4 MB in two shards with another megabyte beside them, and a delta of one of them."""
    base = tmp_path / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    (base / "tokenizer.json").write_bytes(b" " * (1 << 20))
    for number in (1, 2):
        save_file({f"w{number}": torch.ones(1000, 500)}, base / f"model-{number:05}-of-00002.safetensors")
    Delta.of_tensors({"w2": torch.ones(1000, 500)}).save(tmp_path / "w.safetensors")
    return base, tmp_path / "w.safetensors"


@pytest.mark.parametrize(
    ("command", "megabytes"),
    [("steer", 0.5), ("steer", 3), ("steer", 4.5), ("sweep", 4.5), ("diff", 1), ("delta", 1)],
)
def test_a_disk_that_fills_up_while_it_is_written_is_one_line(
    mount: Mount, case: tuple[Path, Path], cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str, megabytes: float
) -> None:
    base, w = case
    disk = mount(f"size={int(megabytes * 2**20)}")
    before = contents(base)
    # the check before writing sees a disk that others then fill
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 40))
    arguments = {
        "steer": ["steer", base, w, "--k", 1],
        "sweep": ["steer", base, w, "--sweep=1,2"],
        "delta": ["steer", base, w, "--k", 1, "--as", "delta"],
        "diff": ["diff", w],
    }
    ran = cli(*arguments[command], "-o", disk / "made" / "out", "-q")
    assert (ran.code, ran.out) == (1, "")
    assert "No space left on device" in ran.error
    assert list(disk.iterdir()) == []
    assert contents(base) == before


ARGUMENTS_HERE = {**ARGUMENTS, "adapter": lambda i: [*steered_by_factors(i), "--as", "adapter"]}


def steered_by_factors(inputs: Inputs) -> list:
    w = inputs.folder / "factors.safetensors"
    Delta.of_factors({"lm_head.weight": (torch.ones(262, 2), torch.ones(2, 32))}).save(w)
    return [inputs.tiny, w, "--k", 1]


@pytest.mark.slow
@pytest.mark.parametrize("command", [name for name in ARGUMENTS_HERE if name != "demo"])
def test_every_writer_tells_of_a_full_disk_in_one_line(
    mount: Mount, inputs: Inputs, cli: Cli, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    """On a disk that is four times as large each time, until the command succeeds."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 40))
    arguments = ARGUMENTS_HERE[command](inputs)
    failed = 0
    for size in (4 << each for each in range(0, 14, 2)):  # kilobytes
        disk = mount(f"size={size}k")
        (disk / "taken").write_bytes(bytes(4096))  # the smallest disk is full
        ran = cli("steer" if command == "adapter" else command, *arguments, "-o", disk / "made" / "out", "-q")
        if ran.code == 0:
            break
        failed += 1
        assert (ran.code, ran.out) == (1, "")
        assert "space" in ran.error, ran.error
        if "kept in" in ran.error:  # eval's finished pieces are work; the result itself is not there
            assert command == "eval" and "--resume" in ran.error
            assert not (disk / "made" / "out").exists()
        else:
            assert list(disk.iterdir()) == [disk / "taken"]
    assert ran.code == 0
    assert failed


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [4, 1024])
def test_the_demo_tells_of_a_disk_that_is_full_at_once_or_later(
    mount: Mount, inputs: Inputs, cli: Cli, monkeypatch: pytest.MonkeyPatch, kilobytes: int
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: types.SimpleNamespace(free=1 << 40))
    disk = mount(f"size={kilobytes}k")
    (disk / "taken").write_bytes(bytes(4096))
    ran = cli("demo", *ARGUMENTS["demo"](inputs), "-o", disk / "made" / "out", "-q")
    assert (ran.code, ran.out) == (1, "")
    assert "space" in ran.error, ran.error
    # what is finished stays, for --resume
    assert (disk / "made" / "out" / "data").exists() is (kilobytes > 4)


@pytest.mark.slow
def test_states_that_fitted_are_kept_when_the_disk_fills_up(
    mount: Mount, inputs: Inputs, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(callbacks, "STATE_SECONDS", 0)
    disk = mount("size=600k")
    arguments = ["finetune", inputs.tiny, inputs.chats[0], "--max-steps", 6, "--rank", 2, "--patience", 0, "-q"]
    filling = disk / "other"

    def filled(items: Iterable, label: str, total: int | None = None) -> Iterator:
        for i, item in enumerate(items):
            if label == "train" and i == 3:
                with contextlib.suppress(OSError), open(filling, "wb", buffering=0) as file:
                    while file.write(bytes(4096)):
                        pass
            yield item

    with monkeypatch.context() as patched:
        patched.setattr(Printer, "progress", lambda self, *stage: filled(*stage))
        ran = cli(*arguments, "-o", disk / "out")
    assert ran.code == 1
    assert "kept in" in ran.error and "--resume" in ran.error
    filling.unlink()
    assert cli(*arguments, "-o", disk / "out", "--resume").code == 0
    assert cli(*arguments, "-o", inputs.folder / "whole").code == 0
    assert contents(disk / "out") == contents(inputs.folder / "whole")


def test_a_folder_that_may_not_be_written_to_is_told_before_reading(
    mount: Mount, case: tuple[Path, Path], cli: Cli
) -> None:
    base, w = case
    disk = mount("size=1m,ro")
    for arguments in (["steer", base, w, "--k", 1, "-o", disk / "out"], ["diff", w, "-o", disk / "d.safetensors"]):
        ran = cli(*arguments)
        assert ran.code == 1
        assert "not a folder you may write to" in ran.error


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_of_someone_else_is_told_before_reading(tmp_path: Path, case: tuple[Path, Path], cli: Cli) -> None:
    base, w = case
    (tmp_path / "theirs").mkdir(mode=0o555)
    ran = cli("steer", base, w, "--k", 1, "-o", tmp_path / "theirs" / "out")
    assert ran.code == 1
    assert "not a folder you may write to" in ran.error
