"""Experiments in a folder that grows: what runs, what is left out, what runs again, and what a killed run leaves."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.command import Cli, Ran
from tests.helpers.interruption import contents
from tests.helpers.small_experiments import small_experiment
from tests.helpers.tiny import save_model

MADE = {"w.safetensors", "steered", "monitor", "wsteer.json"}
TRAINED = """
title: "Killed while it trains, and while it answers"
section: "3"
small: {{model: {model}, ks: "--k=0.5,1"}}
bring: {{../pos.jsonl: rows, ../pos: "an adapter", ../neg: "another"}}
steps:
  - {{does: w, run: wsteer diff ../pos ../neg -o w.safetensors}}
  - {{does: trained, run: "wsteer finetune {{model}} ../pos.jsonl -o tuned --max-steps 40 --rank 2 --eval-every 10"}}
  - {{does: asked, run: "wsteer eval {{model}} --delta w.safetensors {{ks}} --task agreement --limit 4 -o eval"}}
"""


@pytest.fixture
def mine(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> Path:
    return small_experiment(tmp_path, tiny, adapters)


def outcomes(ran: Ran) -> list[str]:
    assert ran.code == 0, ran.err
    return [step["outcome"] for step in ran.json["steps"]]


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.mark.slow
def test_steps_run_in_the_folder_and_those_without_a_judge_are_left_out_by_name(
    cli: Cli, mine: Path, tmp_path: Path
) -> None:
    ran = cli("demo", mine, "-o", tmp_path / "out", "--json")
    assert outcomes(ran) == ["ran", "ran", "left out", "left out", "ran"]
    assert {path.name for path in (tmp_path / "out").iterdir()} == MADE
    assert "step 3 of 5 is left out, eval -> judged: there is no judge" in ran.err
    assert "step 4 of 5 is left out, report -> page.html: it needs judged, which is left out" in ran.err
    assert "wsteer: step 1 of 5: The difference\n\n$ wsteer diff ../pos ../neg -o w.safetensors\n" in ran.err
    assert "gate failed: pos" in ran.err  # of a step that may
    taken = [step for step in ran.json["steps"] if step["outcome"] == "ran"]
    assert all(step["seconds"] > 0 and step["peak_memory_gb"] > 0 for step in taken)
    assert ran.json["peak_memory_gb"] >= max(step["peak_memory_gb"] for step in taken)


@pytest.mark.slow
def test_the_record_has_digests_and_no_path_of_this_machine(cli: Cli, mine: Path, tmp_path: Path, tiny: Path) -> None:
    assert cli("demo", mine, "-o", tmp_path / "out", "-q").code == 0
    record = json.loads((tmp_path / "out" / "wsteer.json").read_text())
    steer = next(step for step in record["steps"] if "-o steered" in step["command"])
    assert steer["ended"] and steer["inputs"].keys() == {tiny.name, "w.safetensors"}
    assert len(steer["outputs"]["steered"]) == 64
    assert str(tmp_path) not in json.dumps(record) and str(tiny.parent) not in json.dumps(record)
    assert record["files"] == sorted({*contents(tmp_path / "out")} - {"wsteer.json"})


@pytest.mark.slow
def test_only_what_a_changed_number_touches_runs_again(cli: Cli, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    assert outcomes(cli("demo", mine, "-o", out, "--resume", "--json")) == [
        *("unchanged", "unchanged", "left out", "left out", "unchanged")
    ]
    edit(mine, "--k 1", "--k 0.5")
    ran = cli("demo", mine, "-o", out, "--resume", "--json")
    assert outcomes(ran) == ["unchanged", "ran", "left out", "left out", "unchanged"]
    assert "-o steered --force\n" in ran.err
    assert cli("demo", mine, "-o", tmp_path / "anew", "-q").code == 0
    for each in (out, tmp_path / "anew"):
        (each / "wsteer.json").unlink()
    assert contents(out) == contents(tmp_path / "anew")


@pytest.mark.slow
def test_what_changed_outside_of_the_file_runs_again(cli: Cli, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    (out / "steered" / "config.json").unlink()
    assert outcomes(cli("demo", mine, "-o", out, "--resume", "--json"))[:2] == ["unchanged", "ran"]
    (tmp_path / "neg" / "adapter_model.safetensors").write_bytes(
        (tmp_path / "pos" / "adapter_model.safetensors").read_bytes()[:-4] + bytes(4)
    )
    assert outcomes(cli("demo", mine, "-o", out, "--resume", "--json")) == ["ran", "ran", "left out", "left out", "ran"]


@pytest.mark.slow
def test_outputs_that_no_step_makes_any_more_stay_and_are_named(cli: Cli, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    edit(mine, "-o steered", "-o other")
    ran = cli("demo", mine, "-o", out, "--resume")
    assert "no step makes steered any more; it is left as it is" in ran.err
    assert (out / "steered").exists() and (out / "other").exists()
    assert cli("demo", mine, "-o", out, "--force", "-q").code == 0  # all of it is wsteer's to replace
    assert not (out / "steered").exists()


@pytest.mark.slow
def test_an_existing_folder_is_refused_unless_the_run_goes_on_or_replaces_it(
    cli: Cli, mine: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    before = contents(out)
    assert "go on with --resume, replace it with --force" in cli("demo", mine, "-o", out).error
    assert "holds no experiment to go on with" in cli("demo", mine, "-o", tmp_path / "pos", "--resume").error
    assert contents(out) == before
    (out / "note.txt").write_text("mine")
    assert "also holds note.txt" in cli("demo", mine, "-o", out, "--force").error
    assert outcomes(cli("demo", mine, "-o", out, "--resume", "--json"))[0] == "unchanged"
    assert cli("demo", mine, "-o", tmp_path / "new", "--resume", "-q").code == 0  # there is nothing yet to go on with


@pytest.mark.slow
def test_another_model_runs_what_has_it_again(cli: Cli, mine: Path, tmp_path: Path, tiny: Path) -> None:
    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    other = save_model(tmp_path / "a model's", seed=3)
    assert outcomes(cli("demo", mine, "-o", out, "--resume", "--model", other, "--json"))[:2] == ["unchanged", "ran"]


@pytest.mark.slow
def test_a_variable_that_gives_a_command_an_option_counts_as_changed(
    cli: Cli, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    (tmp_path / "more.yaml").write_text("dtype: bfloat16")
    resumed = ("demo", mine, "-o", out, "--resume", "--json")
    monkeypatch.setenv("WSTEER_STEER_CONFIG", str(tmp_path / "more.yaml"))
    assert outcomes(cli(*resumed))[:2] == ["unchanged", "ran"]
    assert outcomes(cli(*resumed))[:2] == ["unchanged", "unchanged"]
    (tmp_path / "more.yaml").write_text("dtype: float16")
    assert outcomes(cli(*resumed))[:2] == ["unchanged", "ran"]
    monkeypatch.delenv("WSTEER_STEER_CONFIG")
    assert outcomes(cli(*resumed))[:2] == ["unchanged", "ran"]


@pytest.mark.slow
def test_a_step_that_fails_says_which_it_was_and_how_to_go_on(cli: Cli, mine: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    edit(mine, "--fail-above w=0.1", "--fail-above nosuch=0.1")
    ran = cli("demo", mine, "-o", out)
    assert (ran.code, ran.out) == (1, "")
    assert (
        "step 5 of 5 failed, monitor -> monitor; once it is mended, go on with the same command and --resume" in ran.err
    )
    assert "names no DELTA" in ran.error
    edit(mine, "--fail-above nosuch=0.1", "--fail-above w=0.1")
    assert outcomes(cli("demo", mine, "-o", out, "--resume", "--json")) == [
        *("unchanged", "unchanged", "left out", "left out", "ran")
    ]


@pytest.mark.slow
def test_a_gate_of_a_step_that_may_not_fail_ends_the_run_with_its_code(cli: Cli, mine: Path, tmp_path: Path) -> None:
    edit(mine, "gate: true,", "")
    ran = cli("demo", mine, "-o", tmp_path / "out")
    assert ran.code == 3
    assert "step 5 of 5 failed" in ran.err and "gate failed: pos" in ran.err


def test_what_is_to_be_brought_is_told_before_the_first_step(cli: Cli, mine: Path, tmp_path: Path) -> None:
    (tmp_path / "neg").rename(tmp_path / "elsewhere")
    ran = cli("demo", mine, "-o", tmp_path / "out")
    assert ran.code == 1
    assert f"{tmp_path / 'neg'}: make another" in ran.error and "make an adapter" not in ran.error
    assert not (tmp_path / "out").exists()


def test_a_line_that_is_wrong_is_told_before_the_first_step(cli: Cli, mine: Path, tmp_path: Path) -> None:
    edit(mine, "--of ../pos", "--off ../pos")
    ran = cli("demo", mine, "-o", tmp_path / "out")
    assert ran.code == 1 and "step 5: " in ran.error and "--off" in ran.error
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("model", ["../nosuch", "nosuch/a/b", "my model", "mine.yaml/"])
def test_a_model_that_cannot_be_is_told_as_such(cli: Cli, mine: Path, tmp_path: Path, model: str) -> None:
    for mode in ((), ("--dry-run",)):
        assert f"model {model} is no folder" in cli("demo", mine, "--model", model, "-o", tmp_path / "out", *mode).error
    assert not (tmp_path / "out").exists()


def test_a_scale_without_a_step_has_nothing_to_run(cli: Cli, mine: Path, tmp_path: Path) -> None:
    text = mine.read_text().partition("steps:")[0]
    mine.write_text(text + "steps: [{does: x, only: paper, run: wsteer diff a b -o w}]\n")
    assert outcomes(cli("demo", mine, "-o", tmp_path / "out", "--json")) == []


def test_nothing_is_written_outside_of_the_folder(cli: Cli, mine: Path, tmp_path: Path) -> None:
    for outside in ("../w", "/tmp/nosuch/w", "a/../../w", "."):
        edit(mine, "-o w.safetensors", f"-o {outside}")
        assert cli("demo", mine, "-o", tmp_path / "out").code == 1
        edit(mine, f"-o {outside}", "-o w.safetensors")
    assert {path.name for path in tmp_path.iterdir()} == {"pos", "neg", "mine.yaml"}


def run_until(said: str, folder: Path, number: int, *arguments: object) -> subprocess.Popen[str]:
    """`wsteer demo`, sent the signal of that number as soon as it has said something."""
    command = [sys.executable, "-m", "wsteer", "demo", *map(str, arguments)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder)
    assert process.stderr is not None and any(said in line for line in process.stderr)
    process.send_signal(number)
    return process


@pytest.mark.slow
@pytest.mark.usefixtures("chats")
def test_killed_in_a_step_it_goes_on_in_that_step_with_the_same_bytes(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    mine = small_experiment(tmp_path, tiny, adapters, TRAINED)
    out = tmp_path / "out"
    assert run_until("train: started", tmp_path, signal.SIGKILL, mine, "-o", out).wait(60) == -signal.SIGKILL
    assert not (out / "tuned").exists()
    # what the second run does before it is killed in turn: the fine-tune anew, and one condition
    killed = run_until("w k=1 generate: started", tmp_path, signal.SIGKILL, mine, "-o", out, "--resume")
    assert killed.wait(60) == -signal.SIGKILL
    assert (out / "tuned").exists() and not (out / "eval").exists()
    ran = cli("demo", mine, "-o", out, "--resume", "--json")
    assert outcomes(ran) == ["unchanged", "unchanged", "ran"]
    assert "-o eval --resume --force\n" in ran.err and "w k=0.5 generate" not in ran.err
    assert cli("demo", mine, "-o", tmp_path / "whole", "-q").code == 0
    for each in (out, tmp_path / "whole"):
        (each / "wsteer.json").unlink()
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.usefixtures("chats")
def test_a_killed_run_is_replaced_by_force_and_the_work_of_another_k_is_dropped(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    mine = small_experiment(tmp_path, tiny, adapters, TRAINED)
    out = tmp_path / "out"
    run_until("w k=1 generate: started", tmp_path, signal.SIGKILL, mine, "-o", out).wait(60)
    assert any(path.name.startswith(".eval.") for path in out.iterdir())
    edit(mine, "--k=0.5,1", "--k=2")
    ran = cli("demo", mine, "-o", out, "--resume", "--json")
    assert outcomes(ran) == ["unchanged", "unchanged", "ran"]
    assert "-o eval --force\n" in ran.err
    assert not any(path.name.startswith(".eval.") for path in out.iterdir())
    run_until("w k=2 generate: started", tmp_path, signal.SIGKILL, mine, "-o", out, "--force").wait(60)
    assert cli("demo", mine, "-o", out, "--force", "-q").code == 0


@pytest.mark.slow
@pytest.mark.usefixtures("chats")
def test_ctrl_c_in_a_step_ends_the_run_and_says_how_to_go_on(
    cli: Cli, tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    mine = small_experiment(tmp_path, tiny, adapters, TRAINED)
    process = run_until("train: started", tmp_path, signal.SIGINT, mine, "-o", "out")
    told, err = process.communicate(timeout=60)
    assert (process.returncode, told) == (130, "")
    last = err.splitlines()[-1]
    assert last == "wsteer: interrupted in step 2 of 3, finetune -> tuned: go on with the same command and --resume"
    ran = cli("demo", mine, "-o", tmp_path / "out", "--resume", "--json")
    assert outcomes(ran) == ["unchanged", "ran", "ran"]
    assert "-o tuned --max-steps 40 --rank 2 --eval-every 10 --resume --force\n" in ran.err


@pytest.mark.slow
def test_two_runs_never_share_a_folder(cli: Cli, mine: Path, tmp_path: Path) -> None:
    import fcntl

    out = tmp_path / "out"
    assert cli("demo", mine, "-o", out, "-q").code == 0
    descriptor = os.open(out, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    for flag in ("--resume", "--force"):
        assert "another run is writing" in cli("demo", mine, "-o", out, flag).error
    os.close(descriptor)


@pytest.mark.slow
def test_the_chain_runs_on_a_model_that_names_its_sizes_otherwise(tmp_path: Path, cli: Cli) -> None:
    base = save_model(tmp_path / "gpt2", "gpt2", tie_word_embeddings=True, max_position_embeddings=256)
    assert "num_hidden_layers" not in (base / "config.json").read_text()
    ran = cli("demo", "--model", base, "-o", tmp_path / "out", "--json", "--quiet")
    assert ran.code == 0, ran.err
    assert ran.json["chain"]["block"] == 1
    assert [each["condition"] for each in ran.json["chain"]["example"]] == ["w k=-1", "base", "w k=1"]
    assert (tmp_path / "out" / "eval" / "report.html").exists()
