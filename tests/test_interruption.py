"""Steering that is killed, interrupted, run twice at once or out of disk: never a half-written output, nothing lost."""

import contextlib
import errno
import fcntl
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import wsteer
from tests.helpers.command import Cli
from tests.helpers.interruption import contents
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.checkpoints.contents import links_followed
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.saving import OLD, WORK, partial_folder
from wsteer.steering import streaming
from wsteer.steering.layout import output_files

KILLS = 50
# imports once, then forks a real `wsteer` command for every line that it reads; torch does nothing before the forks
SERVER = """
import os, sys
import wsteer.cli.steer, wsteer.steering.steer
from wsteer.cli.main import main
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        try:
            main(line.split())
        except SystemExit as done:
            sys.stdout.flush()
            os._exit(done.code or 0)  # tearing down torch takes longer than the work
    print(child, flush=True)
    _, status = os.waitpid(child, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bfloat16 checkpoint of 24 MB in six shards, and a delta of every matrix in it."""
    folder = tmp_path_factory.mktemp("interruption")
    base = folder / "base"
    base.mkdir()
    (base / "config.json").write_text("{}")
    torch.manual_seed(0)
    names = [f"layers.{i}.w.weight" for i in range(6)]
    for number, name in enumerate(names):
        tensors = {name: (0.02 * torch.randn(2000, 1000)).bfloat16()}
        save_file(tensors, base / f"model-{number + 1:05}-of-00006.safetensors")
    factors = {name: (torch.randn(2000, 4) * 1e-2, torch.randn(4, 1000) * 1e-2) for name in names}
    Delta.of_factors(factors).save(folder / "w.safetensors")
    return base, folder / "w.safetensors"


def leftovers(output: Path) -> list[Path]:
    return sorted(output.parent.glob(f".{output.name}.*.partial"))


@pytest.mark.slow
def test_killed_at_any_moment_it_never_stands_half_written(tmp_path: Path, case: tuple[Path, Path]) -> None:
    base, w = case
    output = tmp_path / "out"
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    expected = contents(tmp_path / "expected")
    chance = random.Random(0)
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    killed = resumed = 0

    def run(*options: str, after: float | None = None) -> int:
        server.stdin.write(f"steer {base} {w} --k 1 -o {output} -q {' '.join(options)}\n")
        server.stdin.flush()
        child = int(server.stdout.readline())
        if after is not None:
            time.sleep(after)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
        while not re.fullmatch(r"-?\d+", line := server.stdout.readline().strip()):
            pass  # the command's own output
        return int(line)

    for _ in range(2):  # the first one warms the server up
        shutil.rmtree(output, ignore_errors=True)
        started = time.perf_counter()
        assert run() == 0
        whole = time.perf_counter() - started
    shutil.rmtree(output)
    for attempt in range(KILLS):
        code = run(after=chance.uniform(whole / 4, whole))
        if output.exists():
            assert contents(output) == expected
        else:
            assert code == -signal.SIGKILL
            killed += 1
            kept = any((left / WORK).exists() for left in leftovers(output))
            resumed += kept
            if kept:
                assert run() == 1  # work is not dropped without a word
            assert run(*([["--resume"], ["--force"]][attempt % 2] if kept else [])) == 0
            assert contents(output) == expected
        assert leftovers(output) == []
        shutil.rmtree(output)
    server.stdin.close()
    server.wait()
    assert killed > KILLS // 2  # else this shows nothing
    assert resumed > 0


@pytest.mark.slow
def test_ctrl_c_exits_130_and_resume_goes_on_with_what_was_finished(tmp_path: Path, case: tuple[Path, Path]) -> None:
    base, w = case
    output = tmp_path / "out"
    code = "import sys; from wsteer.cli.main import main; main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "steer", str(base), str(w), "--k", "1", "-o", str(output), "-q"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    # a file has its name a moment before it is marked as work to go on with
    while not any((leftover / WORK).exists() for leftover in leftovers(output)) and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(signal.SIGINT)
    process.communicate()
    if process.returncode == 0:
        pytest.skip("it was done before the signal came")
    assert process.returncode == 130
    assert not output.exists()
    (left,) = leftovers(output)
    kept = {path.name: path.stat().st_mtime_ns for path in left.glob("*.safetensors")}
    wsteer.steer(base, w, k=1, output=output, resume=True)
    assert {name: (output / name).stat().st_mtime_ns for name in kept} == kept
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    assert contents(output) == contents(tmp_path / "expected")


def interrupted_steer(output: Path, base: Path, w: Path) -> Path:
    """What a run with k = 1 leaves that fails when two of its files are written."""

    def failing(items: Iterable, label: str, total: int | None = None) -> Iterator:
        if label.startswith("model-00003"):
            raise OSError(errno.ENOSPC, "No space left on device")
        yield from items

    with pytest.raises(WsteerError, match="kept in"):
        wsteer.steer(base, w, k=1, output=output, progress=failing)
    (left,) = leftovers(output)
    return left


def test_another_k_does_not_go_on_with_what_was_left(
    tmp_path: Path, case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    base, w = case
    monkeypatch.setattr(streaming, "worker_count", lambda: 2)
    left = interrupted_steer(tmp_path / "out", base, w)
    kept = contents(left)
    with pytest.raises(WsteerError, match="with other options"):
        wsteer.steer(base, w, k=2, output=tmp_path / "out", resume=True)
    assert contents(left) == kept
    wsteer.steer(base, w, k=2, output=tmp_path / "out", force=True)
    wsteer.steer(base, w, k=2, output=tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")
    assert leftovers(tmp_path / "out") == []


def cut(path: Path) -> None:
    os.truncate(path, 100)


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def other_header(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[20] ^= 1
    path.write_bytes(content)


def replaced_by_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


HARMS = [cut, emptied, other_header, Path.unlink]


@pytest.mark.parametrize("harm", HARMS)
def test_resume_writes_again_what_is_not_whole(
    tmp_path: Path, case: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], object]
) -> None:
    base, w = case
    monkeypatch.setattr(streaming, "worker_count", lambda: 2)
    left = interrupted_steer(tmp_path / "out", base, w)
    harm(left / "model-00001-of-00006.safetensors")
    wsteer.steer(base, w, k=1, output=tmp_path / "out", resume=True)
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    assert contents(tmp_path / "out") == contents(tmp_path / "expected")


@pytest.mark.parametrize("harm", [*HARMS, replaced_by_a_folder])
def test_a_file_that_is_not_whole_is_not_taken_for_written(
    tmp_path: Path, case: tuple[Path, Path], harm: Callable[[Path], object]
) -> None:
    base, w = case
    plan = output_files(open_checkpoint(base), {}, {}, "F32")[0]
    wsteer.steer(base, w, k=1, output=tmp_path / "out", dtype="float32")
    written = tmp_path / "out" / plan.name
    assert streaming.is_written(plan, written)
    harm(written)
    assert not streaming.is_written(plan, written)


def test_a_running_run_is_left_alone(tmp_path: Path, case: tuple[Path, Path]) -> None:
    base, w = case
    running = partial_folder(tmp_path / "out", "0123456789ab")
    running.mkdir()
    descriptor = os.open(running, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(WsteerError, match="another run is writing"):
        wsteer.steer(base, w, k=1, output=tmp_path / "out", force=True)
    assert running.exists()
    os.close(descriptor)
    wsteer.steer(base, w, k=1, output=tmp_path / "out", force=True)
    assert not running.exists()


def test_a_replaced_output_that_was_put_aside_comes_back(tmp_path: Path, case: tuple[Path, Path]) -> None:
    """A run killed between its two renames leaves the old output under a temporary name."""
    base, w = case
    wsteer.steer(base, w, k=1, output=tmp_path / "out")
    old = contents(tmp_path / "out")
    (tmp_path / "out").rename(tmp_path / f".out.0123456789ab{OLD}")
    with pytest.raises(WsteerError, match="exists"):
        wsteer.steer(base, w, k=2, output=tmp_path / "out")
    assert contents(tmp_path / "out") == old


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, case: tuple[Path, Path]) -> None:
    """The limit on a file's size is what a full disk looks like to the writer: a failing write."""
    base, w = case
    before = contents(base)
    code = (
        "import resource, signal, sys; from wsteer.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)); main(sys.argv[1:])"
    )
    for command in (
        ["steer", base, w, "--k", 1, "-o", tmp_path / "out"],
        ["diff", w, "-o", tmp_path / "d.safetensors"],
    ):
        limited = code if command[0] == "steer" else code.replace("2_000_000", "50_000")
        arguments = [sys.executable, "-c", limited, *map(str, command), "-q"]
        done = subprocess.run(arguments, capture_output=True, text=True)
        assert done.returncode == 1, done.stderr
        assert done.stderr.startswith("wsteer: error: ") and done.stderr.count("\n") == 1
        assert "File too large" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert contents(base) == before
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == resource.RLIM_INFINITY


def test_an_output_that_is_the_base_or_cannot_be_made_is_refused(
    tmp_path: Path, case: tuple[Path, Path], cli: Cli
) -> None:
    base, w = case
    before = contents(base)
    (tmp_path / "file").touch()
    for output, reason in (
        (base, "is the input"),
        (base / "out", "inside the base"),
        (tmp_path / "file/x", "cannot write"),
    ):
        ran = cli("steer", base, w, "--k", 1, "-o", output, "--force")
        assert (ran.code, reason in ran.error) == (1, True), ran.error
    assert contents(base) == before


def test_shards_that_are_links_are_read_and_written_as_files(tmp_path: Path, case: tuple[Path, Path]) -> None:
    base, w = case
    linked = tmp_path / "linked"
    linked.mkdir()
    for path in base.iterdir():
        (linked / path.name).symlink_to(path)
    with pytest.raises(WsteerError, match="--follow-links"):
        wsteer.steer(linked, w, k=1, output=tmp_path / "out")
    with links_followed():
        wsteer.steer(linked, w, k=1, output=tmp_path / "out")
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    for path in (tmp_path / "out").glob("*.safetensors"):
        assert not path.is_symlink()
        assert path.read_bytes() == (tmp_path / "expected" / path.name).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--resume"], ["--force"]])
def test_a_second_run_of_the_same_is_refused_and_does_the_first_no_harm(
    tmp_path: Path, case: tuple[Path, Path], cli: Cli, options: list[str]
) -> None:
    base, w = case
    output = tmp_path / "out"
    code = "import sys; from wsteer.cli.main import main; main(sys.argv[1:])"
    arguments = ["steer", str(base), str(w), "--k", "1", "-o", str(output), "-q"]
    first = subprocess.Popen([sys.executable, "-c", code, *arguments])
    while not any(list(leftover.iterdir()) for leftover in leftovers(output)) and first.poll() is None:
        time.sleep(0.001)
    first.send_signal(signal.SIGSTOP)
    try:
        assert not output.exists()
        ran = cli(*arguments, *options)
    finally:
        first.send_signal(signal.SIGCONT)
    assert (ran.code, "another run is writing" in ran.error) == (1, True), ran.error
    assert first.wait() == 0
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    assert contents(output) == contents(tmp_path / "expected")
