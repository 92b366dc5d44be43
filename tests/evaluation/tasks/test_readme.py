"""The tasks that the README writes are read as they stand."""

import json
import re
from pathlib import Path

import pytest

from wsteer.evaluation.tasks.answering import prepare
from wsteer.evaluation.tasks.task import BUILT_IN, OF_ANSWERS, OF_CHOICES

README = (BUILT_IN / "README.md").read_text(encoding="utf-8")
TASKS = re.findall(r"^```yaml\n(.*?)^```", README, flags=re.M | re.S)
ROWS = [
    {"question": "2 + 2?", "correct_answer": "4", "incorrect_answer": "5"},
    {"question": "...", "choices": ["Lyon", "Paris", "Nice"], "gold": 1},
]


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_the_readmes_tasks_can_be_run(tmp_path: Path, number: int) -> None:
    (tmp_path / "task.yaml").write_text(TASKS[number])
    for name in ("facts.jsonl", "questions.jsonl"):
        (tmp_path / name).write_text(json.dumps(ROWS[number]))
    task = prepare(str(tmp_path / "task.yaml"))
    assert task.count == 1 and task.measures
    if number == 1:
        assert [turn.user for turn in task.choices] == [
            "...\nA) Lyon\nB) Paris\nC) Nice\nAnswer with a letter.",
            "...\nA) Nice\nB) Paris\nC) Lyon\nAnswer with a letter.",
        ]


def test_the_readme_names_every_metric() -> None:
    assert len(TASKS) == 2
    for name in (*OF_ANSWERS, *OF_CHOICES):
        assert f"`{name}`" in README or f"`{{{name}: " in README
