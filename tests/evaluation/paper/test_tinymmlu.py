"""TinyMMLU: metrics of hand-made answers, rows of both kinds, and the real file read as it is."""

import json
from pathlib import Path

import pytest

from tests.helpers.mock_model import run_task
from wsteer.errors import WsteerError

pytest.importorskip("inspect_ai")

from wsteer.evaluation.paper.tinymmlu import tinymmlu


def questions(folder: Path, *answers: object) -> str:
    """A file of numbered questions with these right options."""
    rows = [
        {"question": f"{number}: which?", "subject": "s", "choices": ["k", "l", "m", "n"], "answer": answer}
        for number, answer in enumerate(answers)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "questions.jsonl")


@pytest.mark.slow
def test_an_answer_without_a_marked_letter_is_not_right(tmp_path: Path) -> None:
    said = dict(
        enumerate(
            [
                "A man chose. Final Answer: C",
                "Final Answer: (B) l",
                "Final Answer: A\nNo, wait.\n**Final Answer:** D",
                "C is right.",  # no marker
                "Final Answer: A man",
                "Final Answer: E",
                ("Final Answer: C or so I think. Let me check", "max_tokens"),
                "Final Answer: A",
            ]
        )
    )
    task = tinymmlu(questions(tmp_path, 2, "B", 3, 2, 0, 2, 2, 1))
    outcome = run_task(task, tmp_path, lambda prompt: said[int(prompt[0])])
    assert outcome.shares == {"accuracy": (3, 8), "valid": (4, 8), "accuracy_of_valid": (3, 4)}
    always = run_task(task, tmp_path, lambda prompt: "Final Answer: C")
    assert always.shares == {"accuracy": (4, 8), "valid": (8, 8), "accuracy_of_valid": (4, 8)}
    silent = run_task(task, tmp_path, lambda prompt: "")
    assert silent.shares == {"accuracy": (0, 8), "valid": (0, 8), "accuracy_of_valid": (0, 0)}


def test_the_prompt_has_the_question_and_its_four_options_and_may_be_the_users(tmp_path: Path) -> None:
    data = questions(tmp_path, 2)
    (sample,) = tinymmlu(data).dataset
    assert str(sample.input).startswith("0: which?\n\nA. k\nB. l\nC. m\nD. n\n\n")
    assert "Final Answer: " in str(sample.input)
    task = tinymmlu(data, prompt="{options} {question}")
    assert [each.input for each in task.dataset] == ["A. k\nB. l\nC. m\nD. n 0: which?"]
    assert (task.config.max_tokens, task.config.temperature) == (3000, 0)
    with pytest.raises(WsteerError, match=r"-T prompt= has no \{options\}"):
        tinymmlu(data, prompt="{question}")


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"question": "x", "choices": ["a", "b", "c"], "answer": 1}, ":1 has no choices, a list of four texts"),
        ({"question": "x", "choices": "abcd", "answer": 1}, ":1 has no choices"),
        ({"question": "x", "choices": ["a", "b", "c", 4], "answer": 1}, ":1 has no choices"),
        ({"question": "x", "choices": ["a", "b", "c", "d"], "answer": 4}, ":1 has the answer '4'; it is a number"),
        ({"question": "x", "choices": ["a", "b", "c", "d"], "answer": True}, ":1 has the answer 'True'"),
        ({"question": "x", "choices": ["a", "b", "c", "d"], "answer": ""}, ":1 has the answer ''"),
        ({"choices": ["a", "b", "c", "d"], "answer": "A"}, ":1 lacks the text 'question'"),
    ],
)
def test_a_row_of_another_shape_is_named(tmp_path: Path, row: dict, reason: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(WsteerError, match=f"x.jsonl{reason}"):
        tinymmlu(str(tmp_path / "x.jsonl"))


def test_the_real_file_is_read_as_it_is(shared_data: Path) -> None:
    samples = list(tinymmlu(str(shared_data / "mmlu" / "mmlu_anchor100.jsonl")).dataset)
    assert len(samples) == 100
    assert (samples[0].id, samples[0].target) == ("6737", "A")
    assert {each.target for each in samples} == set("ABCD")
