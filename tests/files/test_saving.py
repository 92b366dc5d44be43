"""Files and folders appear whole under their final name, or not at all."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.saving import (
    check_free_space,
    check_output,
    growing_folder,
    mark_work,
    new_file,
    new_folder,
    partial_folder,
)
from wsteer.files.text import write_json


def test_file_appears_whole_and_readable_by_umask(tmp_path: Path) -> None:
    with new_file(tmp_path / "sub" / "x.txt") as partial:
        partial.write_text("hello")
        assert not (tmp_path / "sub" / "x.txt").exists()
    assert (tmp_path / "sub" / "x.txt").read_text() == "hello"
    assert os.listdir(tmp_path / "sub") == ["x.txt"]


@pytest.mark.parametrize("failure", [ValueError, KeyboardInterrupt])
def test_failure_and_ctrl_c_leave_nothing(tmp_path: Path, failure: type[BaseException]) -> None:
    for opened in (new_file(tmp_path / "x"), new_folder(tmp_path / "d")):
        with pytest.raises(failure), opened as partial:
            (partial / "part" if partial.is_dir() else partial).write_text("half")
            raise failure
    assert os.listdir(tmp_path) == []


def delta_file(path: Path, value: float = 1.0) -> bytes:
    Delta.of_tensors({"w": torch.full((2,), value)}).save(path, force=True)
    return path.read_bytes()


def test_failure_keeps_what_force_would_replace(tmp_path: Path) -> None:
    old = delta_file(tmp_path / "x")
    with pytest.raises(ValueError), new_file(tmp_path / "x", force=True) as partial:
        partial.write_text("half")
        raise ValueError
    assert (tmp_path / "x").read_bytes() == old
    assert delta_file(tmp_path / "x", 2.0) != old
    assert os.listdir(tmp_path) == ["x"]


def written(path: Path, *names: str, force: bool = False) -> Path:
    """A folder of ours with a record and files of these names."""
    with new_folder(path, force) as partial:
        write_json(partial / "wsteer.json", {})
        for name in names:
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).touch()
    return path


def test_existing_output_is_refused_and_force_replaces_it(tmp_path: Path) -> None:
    written(tmp_path / "d", "old", "sub/deep")
    assert json.loads((tmp_path / "d" / "wsteer.json").read_text())["files"] == ["old", "sub/deep", "wsteer.json"]
    with pytest.raises(WsteerError, match=r"d exists; .*--force"):
        check_output(tmp_path / "d", force=False, folder=True)
    written(tmp_path / "d", "new", force=True)
    assert sorted(os.listdir(tmp_path / "d")) == ["new", "wsteer.json"]
    assert os.listdir(tmp_path) == ["d"]


def put_a_record(content: str) -> Callable[[Path], object]:
    return lambda folder: (folder / "wsteer.json").write_text(content)


FOREIGN: dict[str, Callable[[Path], object]] = {
    "a file": lambda folder: (folder / "thesis.tex").touch(),
    "a file in a subfolder": lambda folder: (folder / "sub" / "notes").touch(),
    "a link": lambda folder: (folder / "link").symlink_to("/etc"),
    "an empty record": put_a_record(""),
    "a record that is no record": put_a_record("[1]"),
    "a record without a list": put_a_record("{}"),
    "a record with a list of something": put_a_record('{"files": [1]}'),
    "no record": lambda folder: (folder / "wsteer.json").unlink(),
    "a name that is not UTF-8": lambda folder: (folder / os.fsdecode(b"caf\xe9")).touch(),
}


@pytest.mark.parametrize("kind", list(FOREIGN))
def test_force_replaces_only_what_a_record_lists(tmp_path: Path, kind: str) -> None:
    folder = written(tmp_path / "d", "old", "sub/deep")
    FOREIGN[kind](folder)
    before = sorted(os.walk(folder))
    with pytest.raises(WsteerError):
        check_output(folder, force=True, folder=True)
    with pytest.raises(WsteerError), new_folder(folder, force=True):
        raise AssertionError("nothing must start")
    assert sorted(os.walk(folder)) == before


def test_names_that_are_not_utf8_are_listed_and_replaced(tmp_path: Path) -> None:
    written(tmp_path / "d", os.fsdecode(b"caf\xe9"))
    written(tmp_path / "d", "new", force=True)
    assert sorted(os.listdir(tmp_path / "d")) == ["new", "wsteer.json"]


def with_metadata(metadata: object) -> bytes:
    header = json.dumps({"__metadata__": metadata}).encode()
    return len(header).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"my notes",
        b"\x02\0\0\0\0\0\0\0{}",
        b"\xff\xff\xff\xff\0\0\0\0{}",
        with_metadata({"wsteer": "my training notes"}),
        with_metadata({"wsteer": "{}"}),
        with_metadata(["wsteer"]),
        b'{"prompt": "a", "answer": "b"}\n{"wsteer": "{}"}',  # rows of a user's
    ],
)
def test_force_never_replaces_a_file_that_is_no_delta(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    with pytest.raises(WsteerError, match="not a delta file"):
        check_output(tmp_path / "x", force=True, folder=False)
    (tmp_path / "empty").touch()
    check_output(tmp_path / "empty", force=True, folder=False)


def test_force_never_replaces_a_folder_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(WsteerError, match="did not write"):
        check_output(tmp_path / "home", force=True, folder=True)


def appears_as_a_folder(path: Path) -> None:
    path.mkdir()
    (path / "precious").touch()


APPEARING: dict[str, Callable[[Path], object]] = {
    "file": lambda path: path.write_text("precious"),
    "folder": appears_as_a_folder,
    "link": lambda path: path.symlink_to("nowhere"),
}


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("kind", list(APPEARING))
def test_what_appears_during_a_run_stays_and_the_result_gets_another_name(
    tmp_path: Path, kind: str, force: bool
) -> None:
    for path, opened in (
        (tmp_path / "w.safetensors", new_file(tmp_path / "w.safetensors", force)),
        (tmp_path / "d", new_folder(tmp_path / "d", force)),
    ):
        other = path.with_name(f"{path.stem}-1{path.suffix}")
        with pytest.raises(WsteerError, match=f"appeared while .* the result is {other}"), opened as partial:
            (partial / "part" if partial.is_dir() else partial).write_text("whole")
            APPEARING[kind](path)
            before = os.lstat(path)
        assert os.lstat(path).st_ino == before.st_ino and os.lstat(path).st_mtime_ns == before.st_mtime_ns
        assert (other / "part" if other.is_dir() else other).read_text() == "whole"
    assert len(os.listdir(tmp_path)) == 4


def test_without_hard_links_what_appears_stays_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*paths: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", refused)
    with new_file(tmp_path / "x") as partial:
        partial.write_text("whole")
    with pytest.raises(WsteerError, match="appeared"), new_file(tmp_path / "y") as partial:
        (tmp_path / "y").write_text("precious")
    assert (tmp_path / "x").read_text() == "whole"
    assert (tmp_path / "y").read_text() == "precious"


def test_what_force_may_replace_is_looked_at_again_at_the_end(tmp_path: Path) -> None:
    written(tmp_path / "d", "old")
    with pytest.raises(WsteerError, match=r"the result is .*d-1"), new_folder(tmp_path / "d", force=True) as partial:
        (partial / "part").touch()
        (tmp_path / "d" / "precious").touch()
    assert sorted(os.listdir(tmp_path / "d")) == ["old", "precious", "wsteer.json"]
    assert sorted(os.listdir(tmp_path)) == ["d", "d-1"]


def test_a_second_run_into_one_output_is_refused_at_its_start(tmp_path: Path) -> None:
    for opened, second in (
        (new_folder(tmp_path / "d", key="a" * 12), new_folder(tmp_path / "d", key="b" * 12)),
        (new_folder(tmp_path / "e"), new_folder(tmp_path / "e", force=True)),
        (new_file(tmp_path / "x"), new_file(tmp_path / "x")),
    ):
        with opened, pytest.raises(WsteerError, match="another run is writing"), second:
            raise AssertionError("nothing must start")
    assert sorted(os.listdir(tmp_path)) == ["d", "e", "x"]


@pytest.mark.parametrize("name", [".d.abc.partial", ".d.old", ".d.0123456789ab.partial", ".d.b.old", ".d.partial"])
def test_files_of_users_beside_an_output_are_never_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    written(tmp_path / "d", "x")
    written(tmp_path / "d", "y", force=True)
    assert (tmp_path / name).read_text() == "precious"


FAILURES = [WsteerError("no memory"), OSError(errno.ENOSPC, "full"), KeyboardInterrupt(), ZeroDivisionError()]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_failure_keeps_marked_work_and_says_where(tmp_path: Path, failure: BaseException) -> None:
    output, key = tmp_path / "d", "0123456789ab"
    kind = WsteerError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(kind) as caught, new_folder(output, key=key) as partial:
        (partial / "state").write_bytes(bytes(2_000_000))
        mark_work(partial)
        raise failure
    if not isinstance(failure, ZeroDivisionError):  # a bug has its own traceback
        assert re.search(r"kept in .*wsteer.partial \(2.0 MB\): .* --resume, .* --force", str(caught.value))
    with pytest.raises(WsteerError, match=r"left its work in .*2.0 MB.* --resume, .* --force"):
        check_output(output, force=False, folder=True)
    with pytest.raises(WsteerError, match="left its work"), new_folder(output, key=key):
        pass
    with pytest.raises(WsteerError, match="with other options"), new_folder(output, key="f" * 12, resume=True):
        pass
    with new_folder(output, key=key, resume=True) as partial:
        assert (partial / "state").stat().st_size == 2_000_000
    assert os.listdir(output) == ["state"]
    assert os.listdir(tmp_path) == ["d"]


def test_force_drops_work(tmp_path: Path) -> None:
    with pytest.raises(ValueError), new_folder(tmp_path / "d", key="a" * 12) as partial:
        mark_work(partial)
        raise ValueError
    with new_folder(tmp_path / "d", force=True, key="b" * 12) as partial:
        (partial / "new").touch()
    assert os.listdir(tmp_path / "d") == ["new"]
    assert os.listdir(tmp_path) == ["d"]


@pytest.mark.parametrize("error", [SafetensorError("No space left"), RuntimeError("PytorchStreamWriter failed")])
def test_disk_errors_of_libraries_are_one_line(tmp_path: Path, error: Exception) -> None:
    with pytest.raises(WsteerError, match="cannot write"), new_folder(tmp_path / "d"):
        raise error
    assert os.listdir(tmp_path) == []


def test_names_too_long_for_the_disk_are_refused_at_the_start(tmp_path: Path) -> None:
    check_output(tmp_path / ("x" * 220), force=False, folder=True)
    for name in ("x" * 245, "é" * 120):
        with pytest.raises(WsteerError, match="too long"):
            check_output(tmp_path / name, force=False, folder=True)


@pytest.mark.parametrize(("made", "folder"), [("file", True), ("folder", False)])
def test_force_replaces_a_file_by_a_file_and_a_folder_by_a_folder(tmp_path: Path, made: str, folder: bool) -> None:
    (tmp_path / "x").touch() if made == "file" else (tmp_path / "x").mkdir()
    with pytest.raises(WsteerError, match="is not a"):
        check_output(tmp_path / "x", force=True, folder=folder)
    assert (tmp_path / "x").exists()


def test_devices_and_the_current_folder_are_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for path, folder in ((Path("/dev/null"), False), (Path("/dev/null"), True), (Path("."), True), (tmp_path, True)):
        with pytest.raises(WsteerError):
            check_output(path, force=True, folder=folder)


def test_an_output_that_is_or_holds_an_input_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "wsteer.json").touch()
    (tmp_path / "data" / "pos.jsonl").touch()
    for output, folder in ((tmp_path / "data", True), (tmp_path / "data" / "pos.jsonl", False)):
        with pytest.raises(WsteerError, match="is the input"):
            check_output(output, force=True, folder=folder, inputs=[tmp_path / "data" / "pos.jsonl"])
    check_output(tmp_path / "other", force=True, folder=True, inputs=[tmp_path / "data" / "pos.jsonl", "org/name"])


def test_an_interrupted_swap_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "d", "old")
    rename, calls = os.rename, []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "d", force=True) as partial:
        (partial / "new").touch()
    assert sorted(os.listdir(tmp_path / "d")) == ["old", "wsteer.json"]
    assert os.listdir(tmp_path) == ["d"]


def test_a_failure_leaves_no_parents_behind(tmp_path: Path) -> None:
    with pytest.raises(ValueError), new_folder(tmp_path / "a" / "b" / "c"):
        raise ValueError
    assert os.listdir(tmp_path) == []


def test_a_file_as_parent_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with pytest.raises(WsteerError, match="not a folder"):
        check_output(tmp_path / "x" / "y", force=False, folder=True)


def test_files_of_libraries_get_the_umask_mode(tmp_path: Path) -> None:
    with new_folder(tmp_path / "d") as partial:
        (partial / "private").touch(mode=0o600)
        (partial / "plain").touch()
    modes = {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "d").iterdir()}
    assert modes["private"] == modes["plain"]


@pytest.mark.parametrize("mask", [0o777, 0o222, 0o400])
def test_a_umask_that_forbids_ones_own_files_is_told_at_the_start(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        with pytest.raises(WsteerError, match="umask"):
            check_output(tmp_path / "x", force=False, folder=True)
    finally:
        assert os.umask(before) == mask


def test_a_folder_that_is_growing_is_not_replaced(tmp_path: Path) -> None:
    with growing_folder(tmp_path / "d", False, {}, ["lines"]):
        (tmp_path / "d" / "lines").touch()
        for opened in (new_folder(tmp_path / "d", force=True), growing_folder(tmp_path / "d", True, {}, [])):
            with pytest.raises(WsteerError, match="another run is writing"), opened:
                raise AssertionError("nothing must start")
    with growing_folder(tmp_path / "d", True, {}, ["other"]):
        assert os.listdir(tmp_path / "d") == ["wsteer.json"]


def test_the_root_is_refused(tmp_path: Path) -> None:
    for force in (False, True):
        for folder in (False, True):
            with pytest.raises(WsteerError):
                check_output(Path("/"), force=force, folder=folder)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_memory_that_is_short_keeps_marked_work_and_says_where(tmp_path: Path, error: Exception) -> None:
    with (
        pytest.raises(WsteerError, match=r"out of memory.*kept in .*--resume"),
        new_folder(tmp_path / "d", key="a" * 12) as partial,
    ):
        mark_work(partial)
        raise error
    assert (partial_folder(tmp_path / "d", "a" * 12)).is_dir()


def test_work_inside_a_folder_that_cannot_be_gone_on_with_goes_with_it(tmp_path: Path) -> None:
    told = pytest.raises(WsteerError, match=r"^no memory$")
    with told, new_folder(tmp_path / "outer") as outer, new_folder(outer / "inner", key="a" * 12) as inner:
        mark_work(inner)
        raise WsteerError("no memory")
    assert os.listdir(tmp_path) == []


def test_full_disk_is_told_before_writing(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match="free"):
        check_free_space(tmp_path / "x", 1 << 60)
