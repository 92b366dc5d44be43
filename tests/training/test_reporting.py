"""--track and --report-to: the cosine of the running change with deltas, in the log, the picture and reporters."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from wsteer import diff
from wsteer.deltas.delta import Delta
from wsteer.training import reporting as watching


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bias", "full"])
def test_logged_cosines_are_those_of_the_checkpoints(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str
) -> None:
    rank = ["--rank", 4] if method == "lora" else []
    common = ["--method", method, *rank, "--lr", "1e-2", "--max-steps", 6, "--eval-every", 2, "-q"]
    assert cli("finetune", tiny, chats[1], "-o", tmp_path / "neg", *common).code == 0
    base = ["--base", tiny] if method == "full" else []
    for name, folder in (("w", "neg"),):
        assert cli("diff", tmp_path / folder, *base, "-o", tmp_path / f"{name}.safetensors", "-q").code == 0
    (2 * Delta.load(tmp_path / "w.safetensors")).save(tmp_path / "double.safetensors")
    names = ["w.safetensors", "double.safetensors", *(["neg"] if method != "full" else [])]
    watched = ",".join(str(tmp_path / name) for name in names)
    ran = cli("finetune", tiny, chats[0], "-o", tmp_path / "pos", *common, "--save-every", 2, "--track", watched)
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in (tmp_path / "pos" / "log.jsonl").open()]
    logged = {row["step"]: row["cosine_w"] for row in rows if "cosine_w" in row}
    assert list(logged) == [2, 4, 6]
    w = Delta.load(tmp_path / "w.safetensors")
    for step, cosine in logged.items():
        tau = tmp_path / f"tau{step}.safetensors"
        diff(tmp_path / "pos" / f"checkpoint-{step}", output=tau, base=tiny if method == "full" else None)
        assert cosine == pytest.approx(w.cosine(Delta.load(tau)), abs=1e-5)
        assert 0 < abs(cosine) < 0.999
    if method != "full":
        assert all(row["cosine_neg"] == row["cosine_w"] for row in rows if "cosine_w" in row)
    inputs = json.loads((tmp_path / "pos" / "wsteer.json").read_text())["inputs"]
    entries = [entry for entry in inputs if entry["role"] == "watched"]
    assert [entry["path"] for entry in entries] == names and all(entry["sha256"] for entry in entries)
    assert all(row["cosine_double"] == pytest.approx(row["cosine_w"], abs=1e-9) for row in rows if "cosine_w" in row)


def test_reporters_are_known_and_installed(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--report-to"]
    assert "tensorboard, wandb" in cli(*arguments, "paper").error
    monkeypatch.setattr(watching.importlib.util, "find_spec", lambda name: None)
    assert "pip install tensorboard" in cli(*arguments, "tensorboard").error
    assert not (tmp_path / "out").exists()


def test_losses_and_cosines_are_reported_to_tensorboard(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.chdir(tmp_path)
    common = ["--rank", 4, "--lr", "1e-2", "--max-steps", 4, "--eval-every", 2, "-q"]
    assert cli("finetune", tiny, chats[1], "-o", "neg", *common).code == 0
    assert cli("diff", "neg", "-o", "w.safetensors", "-q").code == 0
    tracked = ["--track", "w.safetensors", "--report-to", "tensorboard"]
    assert cli("finetune", tiny, chats[0], "-o", "pos", *common, *tracked).code == 0
    rows = [json.loads(line) for line in Path("pos/log.jsonl").read_text().splitlines()]
    events = EventAccumulator("runs/pos/lr-0.01")
    events.Reload()
    for tag, key in (("train/loss", "train_loss"), ("eval/loss", "val_loss"), ("train/cosine_w", "cosine_w")):
        expected = {row["step"]: row[key] for row in rows if row.get(key) is not None}
        assert {event.step: event.value for event in events.Scalars(tag)} == pytest.approx(expected, rel=1e-6)
