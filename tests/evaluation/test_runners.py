"""Tasks of every kind, told apart and checked without a model."""

import json
from pathlib import Path

import pytest

from tests.helpers.tasks import FACT, TASK
from wsteer.errors import WsteerError
from wsteer.evaluation.runners import MOST_CHATS, Tasks


def own_task(folder: Path, **changes: str) -> Path:
    """The task of `helpers/tasks.py` as a file, with its one fact beside it."""
    (folder / "facts.jsonl").write_text(json.dumps(FACT) + "\n")
    text = TASK
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "task.yaml").write_text(text)
    return folder / "task.yaml"


def test_tasks_of_wsteers_own_are_opened_with_their_data(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("One.\n\nTwo.\n\nThree.\n")
    tasks = Tasks.of(["sycophancy", str(own_task(tmp_path)), f"perplexity:{tmp_path / 'texts.txt'}"], None, 2)
    assert [(task.name, task.count) for task in tasks.own] == [
        ("sycophancy", 2),
        ("mine", 1),
        ("perplexity:texts.txt", 2),
    ]
    assert tasks.harness is None and tasks.inspect == ()
    metrics = [(each.task, each.metric) for each in tasks.measures or ()]
    assert ("sycophancy", "non_sycophancy") in metrics and ("perplexity:texts.txt", "perplexity") in metrics
    roles = [(entry["role"], entry["path"], len(str(entry["sha256"]))) for entry in tasks.sources]
    assert roles == [
        ("task", "sycophancy.yaml", 64),
        ("data", "facts.jsonl", 64),
        ("task", "task.yaml", 64),
        ("data", "facts.jsonl", 64),
        ("data", "texts.txt", 64),
    ]


def test_a_piece_is_known_by_all_that_its_rows_depend_on(tmp_path: Path) -> None:
    def key(limit: int | None = None) -> str:
        (runner,) = Tasks.of([str(tmp_path / "task.yaml")], None, limit).runners(None)  # type: ignore[arg-type]
        return runner.key

    own_task(tmp_path)
    first = key()
    assert key() == first
    assert key(1) != first
    own_task(tmp_path, max_new_tokens="max_new_tokens")  # written again, the same
    assert key() == first
    (tmp_path / "facts.jsonl").write_text((tmp_path / "facts.jsonl").read_text() + "\n")
    assert key() != first
    second = key()
    own_task(tmp_path, **{"max_new_tokens: 4": "max_new_tokens: 5"})
    assert key() not in (first, second)


def test_prompts_to_calibrate_on_are_the_tasks_own_or_the_builtin_facts(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("One.\n")
    (chat,) = Tasks.of([str(own_task(tmp_path))]).chats()
    assert chat == [{"role": "user", "content": "2 + 2?"}]
    chats = Tasks.of([f"perplexity:{tmp_path / 'texts.txt'}"]).chats()
    assert len(chats) == MOST_CHATS and all(chat[0]["role"] == "user" for chat in chats)


@pytest.mark.parametrize(
    ("references", "reason"),
    [
        ([], "names no task"),
        (["agreement", "agreement"], "agreement is given twice"),
        (["nosuch"], "no task 'nosuch'"),
        (["perplexity:nosuch.txt"], "nosuch.txt"),
        (["inspect:nosuch"], "inspect:nosuch is neither a file"),
        (["inspect:nosuch.py"], "nosuch.py"),
    ],
)
def test_what_is_no_task_is_one_line(references: list[str], reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        Tasks.of(references)


def test_inspect_tasks_of_one_name_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    for name in ("a", "b"):
        (tmp_path / f"{name}.py").write_text(
            "from inspect_ai import Task, task\n\n\n@task\ndef mine():\n    return Task()\n"
        )
    with pytest.raises(WsteerError, match="two tasks are named 'mine'"):
        Tasks.of([f"inspect:{tmp_path / 'a.py'}", f"inspect:{tmp_path / 'b.py'}"])
    with pytest.raises(WsteerError, match="two tasks are named 'mine'"):
        Tasks.of([f"inspect:{tmp_path / 'a.py'}", str(own_task(tmp_path))])
    assert Tasks.of([f"inspect:{tmp_path / 'a.py'}"]).measures is None  # known when it has run
