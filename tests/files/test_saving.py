"""Files and folders appear whole under their final name, or not at all."""

import os
from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.files.saving import check_free_space, check_output, new_file, new_folder
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


def test_failure_keeps_what_force_would_replace(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("old")
    with pytest.raises(ValueError), new_file(tmp_path / "x", force=True) as partial:
        partial.write_text("half")
        raise ValueError
    assert (tmp_path / "x").read_text() == "old"


def test_existing_output_is_refused_and_force_replaces_it(tmp_path: Path) -> None:
    with new_folder(tmp_path / "d") as partial:
        write_json(partial / "wsteer.json", {})
        (partial / "old").touch()
    with pytest.raises(WsteerError, match=r"d exists; .*--force"):
        check_output(tmp_path / "d", force=False, folder=True)
    with new_folder(tmp_path / "d", force=True) as partial:
        (partial / "new").touch()
    assert os.listdir(tmp_path / "d") == ["new"]
    assert os.listdir(tmp_path) == ["d"]


def test_force_never_replaces_a_folder_of_someone_else(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").touch()
    with pytest.raises(WsteerError, match="did not write"):
        check_output(tmp_path / "home", force=True, folder=True)


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
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "wsteer.json").write_text("old")
    rename, calls = os.rename, []

    def interrupted(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            raise KeyboardInterrupt
        rename(source, target)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "d", force=True) as partial:
        (partial / "wsteer.json").write_text("new")
    assert (tmp_path / "d" / "wsteer.json").read_text() == "old"
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


def test_full_disk_is_told_before_writing(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match="free"):
        check_free_space(tmp_path / "x", 1 << 60)
