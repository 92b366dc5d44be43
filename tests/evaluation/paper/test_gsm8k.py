"""GSM8K: metrics of hand-made answers, and the real file read as it is."""

import json
from pathlib import Path

import pytest

from tests.helpers.mock_model import run_task
from wsteer.errors import WsteerError

pytest.importorskip("inspect_ai")

from wsteer.evaluation.paper.gsm8k import gsm8k


def problems(folder: Path, *golds: str) -> str:
    """A file of numbered problems with these right numbers."""
    rows = [
        {"question": f"{number}: how many?", "answer": f"There are <<1+1=2>>2.\n#### {gold}"}
        for number, gold in enumerate(golds)
    ]
    (folder / "problems.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return str(folder / "problems.jsonl")


@pytest.mark.slow
def test_the_final_number_decides_and_a_cut_answer_is_not_graded(tmp_path: Path) -> None:
    said = dict(
        enumerate(
            [
                "Answer: $18",
                "It is 18 at first. Answer: 20",  # the right number in passing
                "No, I will not.",
                ("9 * 2 = 18", "max_tokens"),
                ("Answer: 18\nFor", "max_tokens"),
                "She has 1,234 eggs.",
            ]
        )
    )
    task = gsm8k(problems(tmp_path, "18", "18", "18", "18", "18", "1,234.00"))
    outcome = run_task(task, tmp_path, lambda prompt: said[int(prompt[0])])
    assert outcome.shares == {"accuracy": (3, 6), "valid": (4, 6), "accuracy_of_valid": (3, 4)}
    silent = run_task(task, tmp_path, lambda prompt: "")
    assert silent.shares == {"accuracy": (0, 6), "valid": (0, 6), "accuracy_of_valid": (0, 0)}
    always = run_task(task, tmp_path, lambda prompt: "Answer: 18")
    assert always.shares == {"accuracy": (5, 6), "valid": (6, 6), "accuracy_of_valid": (5, 6)}
    cut = run_task(task, tmp_path, lambda prompt: ("Let us", "max_tokens"))
    assert cut.shares == {"accuracy": (0, 6), "valid": (0, 6), "accuracy_of_valid": (0, 0)}


def test_a_row_without_a_number_is_named(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match=r"problems\.jsonl:2 has an answer without a number"):
        gsm8k(problems(tmp_path, "18", "many"))
    (tmp_path / "x.jsonl").write_text('{"question": "x"}')
    with pytest.raises(WsteerError, match=r"x\.jsonl:1 lacks the text 'answer'; its keys are question"):
        gsm8k(str(tmp_path / "x.jsonl"))


def test_the_real_file_is_read_as_it_is(shared_data: Path) -> None:
    samples = list(gsm8k(str(shared_data / "gsm8k" / "test.jsonl")).dataset)
    assert len(samples) == 1319
    assert samples[0].target == "18"
    assert {each.target for each in samples} >= {"-10", "1450000"}
    assert str(samples[0].input).startswith("Janet\u2019s ducks")
