"""Runs that are killed, interrupted or out of disk go on with --resume, and end with the same bytes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers.command import Cli, Inputs
from tests.helpers.interruption import contents, leftovers, press_ctrl_c
from wsteer.errors import Interrupted, WsteerError
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.evaluate import evaluate
from wsteer.evaluation.pieces import Pieces
from wsteer.evaluation.presentation import outputs
from wsteer.evaluation.results import EvalReport
from wsteer.evaluation.rows import Measure, Outcome, Row

CONDITION = Condition(BASE, model="m")
OUTCOME = Outcome(
    (Row("t", "accuracy", CONDITION.name, "1", 1.0), Row("t", "accuracy", CONDITION.name, "2", None, "cut", "g", "p")),
    (Measure("t", "accuracy", role="capability"),),
    ("a warning \udcff",),
    ({"id": "1", "answer": "ä\x1b\n"},),
    {"lm_eval.json": {"a": [1.5, None]}},
)


class Stages:
    """A `progress` that keeps the labels of all stages, and acts when one begins."""

    def __init__(self, at: str = "", act=press_ctrl_c):
        self.seen: list[str] = []
        self.at, self.act = at, act

    def __call__(self, items: Iterable, label: str, total: int | None = None) -> Iterator:
        self.seen.append(label)
        if label == self.at:
            self.act()
        yield from items


def run(inputs: Inputs, name: str, stages: Stages | None = None, **changes) -> EvalReport:
    delta = changes.pop("delta", None) or inputs.delta()
    options = {"delta": delta, "ks": (0.5, 1), "limit": 2, "device": "cpu", **changes}
    tasks = ["agreement", "agreement_choices"]
    return evaluate(inputs.tiny, inputs.folder / name, tasks, progress=stages or Stages(), **options)


def test_an_outcome_is_read_as_it_was_written(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path)
    assert pieces.read("key", CONDITION) is None
    pieces.write("key", CONDITION, OUTCOME)
    assert pieces.read("key", CONDITION) == OUTCOME
    assert pieces.read("other", CONDITION) is None
    assert pieces.read("key", Condition(BASE, model="other")) is None
    (path,) = (tmp_path / "pieces").iterdir()
    lines = path.read_text().splitlines(keepends=True)
    for torn in ("".join(lines)[:100], "".join(lines[:-1]), "".join(lines)[:-1], ""):  # by a power cut
        path.write_text(torn)
        assert pieces.read("key", CONDITION) is None
    pieces.remove()
    assert not (tmp_path / "pieces").exists()


def test_a_piece_may_hold_more_than_any_one_file_of_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Outcome(tuple(Row("t", "accuracy", CONDITION.name, str(i), 1.0) for i in range(20)), OUTCOME.measures)
    monkeypatch.setattr("wsteer.files.text.MOST_VALUES", 60)
    pieces = Pieces(tmp_path)
    pieces.write("key", CONDITION, many)
    assert pieces.read("key", CONDITION) == many


def test_results_of_a_failed_run_do_not_stay_but_its_work_does(tmp_path: Path) -> None:
    pieces = Pieces(tmp_path)
    pieces.write("key", CONDITION, OUTCOME)
    (tmp_path / "inspect").mkdir()
    for name in ("tradeoff.png", "lm_eval.w_k_1-0123.json", "inspect/a.eval"):
        (tmp_path / name).touch()
    pieces.remove_results()
    kept = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert kept == {".wsteer-work", "inspect/a.eval", f"pieces/key.{CONDITION.name}.jsonl"}


@pytest.mark.slow
def test_an_interrupted_run_goes_on_behind_its_finished_pieces(inputs: Inputs) -> None:
    run(inputs, "whole")
    stages = Stages(at="w k=0.5 score")
    with pytest.raises(Interrupted, match=r"the work so far is kept in .*\.out\..*--resume"):
        run(inputs, "out", stages)
    assert not (inputs.folder / "out").exists()
    assert stages.seen == ["base generate", "base score", "w k=0.5 generate", "w k=0.5 score"]
    with pytest.raises(WsteerError, match=r"an interrupted run .* left its work"):
        run(inputs, "out")
    stages = Stages()
    run(inputs, "out", stages, resume=True)
    assert stages.seen == ["w k=0.5 score", "w k=1 generate", "w k=1 score"]
    assert contents(inputs.folder / "out") == contents(inputs.folder / "whole")
    assert leftovers(inputs.folder / "out") == []


@pytest.mark.slow
def test_a_k_is_added_to_an_interrupted_run_and_another_delta_is_not_taken_for_it(inputs: Inputs) -> None:
    with pytest.raises(Interrupted):
        run(inputs, "out", Stages(at="w k=1 generate"))
    stages = Stages(at="w k=2 generate")
    with pytest.raises(Interrupted):
        run(inputs, "out", stages, ks=(0.5, 2), resume=True)
    assert stages.seen == ["w k=2 generate"]
    changed = inputs.delta(tensors={"model.norm.weight": torch.full((32,), 0.5)})
    stages = Stages()
    run(inputs, "out", stages, delta=changed, ks=(0.5,), resume=True)
    assert stages.seen == ["w k=0.5 generate", "w k=0.5 score"]  # the base's are the same
    run(inputs, "whole", delta=changed, ks=(0.5,))
    assert contents(inputs.folder / "out") == contents(inputs.folder / "whole")


@pytest.mark.slow
def test_what_all_pieces_depend_on_makes_another_run(inputs: Inputs) -> None:
    with pytest.raises(Interrupted):
        run(inputs, "out", Stages(at="w k=1 generate"))
    with pytest.raises(WsteerError, match="with other options, inputs or versions left its work"):
        run(inputs, "out", limit=1, resume=True)
    run(inputs, "out", limit=1, force=True)
    assert leftovers(inputs.folder / "out") == []


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_rows(inputs: Inputs, cli: Cli) -> None:
    """By kill -9 of a process when the second condition has begun."""
    arguments = ["eval", inputs.tiny, "--delta", inputs.delta(), "--k=0.5,1", "--task", "agreement", "--limit", 2]
    code = (
        "import os, signal, sys\n"
        "from wsteer.cli import output\n"
        "def progress(self, items, label, total=None):\n"
        "    if label == 'w k=1 generate': os.kill(os.getpid(), signal.SIGKILL)\n"
        "    yield from items\n"
        "output.Printer.progress = progress\n"
        "from wsteer.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    out = inputs.folder / "out"
    command = [sys.executable, "-c", code, *map(str, arguments), "-o", str(out)]
    killed = subprocess.run(command, capture_output=True, env={**os.environ}, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (work,) = leftovers(out)
    assert len(list((work / "pieces").iterdir())) == 2
    ran = cli(*arguments, "-o", out)
    assert ran.code == 1 and "left its work" in ran.error
    ran = cli(*arguments, "-o", out, "--resume")
    assert ran.code == 0
    assert "base generate" not in ran.err and "w k=0.5 generate" not in ran.err and "w k=1 generate" in ran.err
    assert cli(*arguments, "-o", inputs.folder / "whole").code == 0
    assert contents(out) == contents(inputs.folder / "whole")


@pytest.mark.slow
def test_a_failure_while_results_are_written_is_an_error_and_loses_no_answers(
    inputs: Inputs, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    arguments = ["eval", inputs.tiny, "--delta", inputs.delta(), "--task", "agreement", "--limit", 2, "-q"]

    def full(*given: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(outputs, "write_page", full)
        ran = cli(*arguments, "-o", inputs.folder / "out")
    assert (ran.code, ran.out) == (1, "")
    assert "No space left on device" in ran.error and "--resume" in ran.error
    assert not (inputs.folder / "out").exists()
    stages = Stages()
    evaluate(
        inputs.tiny, inputs.folder / "out", "agreement", delta=inputs.delta(), limit=2, resume=True, progress=stages
    )
    assert stages.seen == []
    assert json.loads((inputs.folder / "out" / "results.json").read_text())["conditions"]
