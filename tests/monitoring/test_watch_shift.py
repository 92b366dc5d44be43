"""Training folders watched by projections of their shift, while they grow."""

import json
import shutil
import threading
from pathlib import Path

import pytest

import wsteer
from tests.helpers.command import Cli
from tests.helpers.drifting_run import wait_until_said
from tests.helpers.shifts import save_vector
from tests.helpers.tiny import save_adapter, save_model
from wsteer.errors import WsteerError
from wsteer.monitoring.project import Projecting, project
from wsteer.monitoring.watch_shift import watch_shift

STEPS = (2, 4, 10)


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return save_vector(tmp_path / "a.safetensors", 0)


@pytest.fixture
def whole(tmp_path: Path, tiny: Path) -> Path:
    """A training folder: two adapters, and a full checkpoint."""
    for step in STEPS[:2]:
        save_adapter(tmp_path / "whole" / f"checkpoint-{step}", tiny, seed=step, std=0.1 * step)
    adapter = save_adapter(tmp_path / "last", tiny, seed=10, std=0.5)
    wsteer.steer(tiny, adapter, k=1, output=tmp_path / "whole" / "checkpoint-10")
    return tmp_path / "whole"


@pytest.mark.slow
def test_checkpoints_are_measured_once_they_are_complete(
    tmp_path: Path, tiny: Path, vector: Path, whole: Path, chats: tuple[Path, Path]
) -> None:
    """The second checkpoint stands half written for a while, then the third; both are read at last."""
    growing = tmp_path / "run"
    growing.mkdir()
    said: list[str] = []

    def write() -> None:
        shutil.copytree(whole / "checkpoint-2", growing / "checkpoint-2")
        wait_until_said(said, "step 2: a")
        for step, cut in ((4, "adapter_model.safetensors"), (10, "model.safetensors")):
            folder = growing / f"checkpoint-{step}"
            folder.mkdir()
            wait_until_said(said, f"step {step}: not complete yet")
            for path in (whole / folder.name).iterdir():
                size = path.stat().st_size // (2 if path.name == cut else 1)
                (folder / path.name).write_bytes(path.read_bytes()[:size])
            wait_until_said(said, f"step {step}: not complete yet ({folder / cut}")
            shutil.copy(whole / folder.name / cut, folder)
            wait_until_said(said, f"step {step}: a")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    settings = Projecting(layers=[0, 2])
    report = watch_shift(
        [vector], [chats[0]], tiny, growing, tmp_path / "m", settings, until_step=10, interval=0.05, note=said.append
    )
    writer.join()
    assert (report.interrupted, report.failures) == (False, ())
    once = project([vector], [chats[0]], tiny, tmp_path / "n", [whole], settings)
    expected = [each for each in once.projections if each.step is not None]
    assert [(each.step, each.block) for each in expected] == [(step, block) for step in STEPS for block in (0, 2)]
    for each, other in zip(report.projections, expected, strict=True):
        assert (each.step, each.block, each.mean, each.low, each.high, each.noise) == (
            *(other.step, other.block, other.mean, other.low, other.high, other.noise),
        )
        assert (each.run, each.model) == ("run", f"run/checkpoint-{each.step}")
    lines = [json.loads(line) for line in (tmp_path / "m" / "trajectory.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(STEPS)
    assert [row["mean"] for line in lines for row in line["projections"]] == [each.mean for each in expected]
    table = (tmp_path / "m" / "trajectory.csv").read_text().replace("run,", "whole,")
    assert table == (tmp_path / "n" / "trajectory.csv").read_text().replace("run,", "whole,")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == ["trajectory.csv", "trajectory.jsonl", "trajectory.png", "trajectory.svg", "wsteer.json"]


@pytest.mark.slow
def test_watching_ends_at_the_step_or_the_gate(
    tmp_path: Path, tiny: Path, vector: Path, whole: Path, chats: tuple[Path, Path], cli: Cli
) -> None:
    watched = ["monitor", vector, "--of", chats[0], "--base", tiny, "--shift", whole, "--watch", "--layers", 1]
    ran = cli(*watched, "--until-step", 4, "-o", tmp_path / "m", "--json")
    assert ran.code == 0
    means = {each["step"]: each["mean"] for each in ran.json["projections"]}
    assert list(means) == [2, 4]
    assert f"wsteer: step 4: a at block 1 {means[4]:.3g} (" in ran.err
    side, bound = ("--fail-above", means[4] - 1e-7) if means[4] > means[2] else ("--fail-below", means[4] + 1e-7)
    ran = cli(*watched, side, f"a:1={bound}", "-o", tmp_path / "n", "-q")
    assert (ran.code, ran.out.splitlines()[-1]) == (3, str(tmp_path / "n"))
    assert ran.err.startswith("wsteer: gate failed: whole/checkpoint-4, prompts of pos: projection on a at block 1 is ")
    assert len((tmp_path / "n" / "trajectory.jsonl").read_text().splitlines()) == 2
    again = cli(*watched, "--until-step", 2, "-o", tmp_path / "n", "--force", "-q")
    assert again.code == 0
    assert len((tmp_path / "n" / "trajectory.jsonl").read_text().splitlines()) == 1


@pytest.mark.slow
def test_checkpoints_of_another_model_end_it(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    save_model(tmp_path / "run" / "checkpoint-2", num_hidden_layers=4)
    with pytest.raises(WsteerError, match="tuned from another model"):
        watch_shift([vector], [chats[0]], tiny, tmp_path / "run", tmp_path / "m", until_step=2)
    with pytest.raises(WsteerError, match="follows a training folder"):
        watch_shift([vector], [chats[0]], tiny, tmp_path / "no", tmp_path / "n")
