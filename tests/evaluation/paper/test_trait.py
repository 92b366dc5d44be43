"""Scores of a trait: trait files read as they are, refusals, coherence, and the opinion's side."""

import json
from pathlib import Path

import pytest

pytest.importorskip("inspect_ai")

from tests.helpers.mock_model import run_task
from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.logs import FILTERED, UNPARSED
from wsteer.evaluation.paper.trait import trait
from wsteer.evaluation.rows import ABSTAINED

# question: the judge's text on the trait, on coherence, on the opinion
TABLE = {
    "q1": ("85", "Score: 90", "Score: 100"),
    "q2": ("0", "Score: 70", "Score: 0"),
    "q3": ("REFUSAL", "Score: 80", "NONE"),
    "q4": ("8 or 9", "101", "Score: NONE"),
    "q5": (("50", "content_filter"), "Score: 60", "no idea"),
    "q6": ("never asked", "never asked", "never asked"),
}


def trait_file(folder: Path, questions: list[object], prompt: object = "TRAIT {question} / {answer}") -> str:
    path = folder / "trait.json"
    path.write_text(json.dumps({"questions": questions, "eval_prompt": prompt}))
    return str(path)


def reply(prompt: str):
    if prompt.startswith("TRAIT "):
        return TABLE[prompt.split()[1]][0]
    return TABLE[prompt.split("<question>\n")[1].split("\n")[0]][1 if "how coherent" in prompt else 2]


@pytest.mark.slow
def test_means_are_over_answers_with_a_score(tmp_path: Path) -> None:
    task = trait(data=trait_file(tmp_path, list(TABLE)), opinion=True, samples=1)
    found = run_task(task, tmp_path, lambda asked: "" if asked == "q6" else "Well.", reply)
    values = {name: (each.value, each.n) for name, each in found.estimates.items()}
    assert values["trait"] == (42.5, 2)
    assert values["coherence"] == (75, 4)
    assert values["opinion"] == (50, 2)
    assert found.shares["refused"] == (1, 3)
    assert found.whys("trait") == {UNPARSED: 1, FILTERED: 1, ABSTAINED: 1}
    assert found.whys("coherence") == {UNPARSED: 1, ABSTAINED: 1}
    assert found.whys("opinion") == {UNPARSED: 1, ABSTAINED: 1}  # users without an opinion are outside of it
    assert len(found.asked) == 15


@pytest.mark.slow
def test_all_refused_has_no_mean_and_opinion_is_asked_on_demand(tmp_path: Path) -> None:
    task = trait(data=trait_file(tmp_path, ["q1", "q2"]), samples=3)
    found = run_task(task, tmp_path, lambda asked: "No.", lambda p: "REFUSAL" if p.startswith("TRAIT") else "90")
    assert found.estimates.keys() == {"trait", "coherence", "refused"}
    assert (found.estimates["trait"].value, found.whys("trait")) == (None, {})
    assert found.shares["refused"] == (6, 6)
    assert (found.estimates["coherence"].n, found.estimates["coherence"].groups) == (6, 2)
    assert {(config.temperature, config.max_tokens) for config in found.configs} == {(1, 1000)}


def test_questions_are_asked_ten_times_or_once_without_chance(tmp_path: Path) -> None:
    data = trait_file(tmp_path, ["q1", "q2"])
    ten, one = trait(data=data), trait(data=data, samples=1)
    assert [(each.epochs, each.config.temperature) for each in (ten, one)] == [(10, 1), (1, 0)]
    assert [(each.id, each.input) for each in ten.dataset] == [("1", "q1"), ("2", "q2")]


@pytest.mark.parametrize(
    ("questions", "prompt", "given", "reason"),
    [
        ([], "{question} {answer}", {}, "is no trait file; it is a JSON like"),
        (["a", ""], "{question} {answer}", {}, 'every entry of "questions" must be a text'),
        (["a", 3], "{question} {answer}", {}, 'every entry of "questions" must be a text'),
        (["a", "a"], "{question} {answer}", {}, "asks a question twice"),
        (["a"], "", {}, "has no eval_prompt, which its judge needs; give one with -T judge_prompt=FILE"),
        (["a"], "Rate {answer}", {}, r"the eval_prompt of .*trait.json has no \{question\}"),
        (["a"], None, {}, "is no trait file"),
        (["a"], "{question} {answer}", {"judge_prompt": "{question}"}, r"-T judge_prompt= has no \{answer\}"),
        (["a"], "{question} {answer}", {"opinion_prompt": "?"}, r"-T opinion_prompt= has no \{question\}"),
        (["a"], "{question} {answer}", {"samples": 0}, "-T samples is 0"),
    ],
)
def test_files_that_are_no_traits_are_refused(
    tmp_path: Path, questions: list[object], prompt: object, given: dict, reason: str
) -> None:
    with pytest.raises(WsteerError, match=reason):
        trait(data=trait_file(tmp_path, questions, prompt), **given)


def test_a_prompt_of_ones_own_stands_in_for_a_files_that_has_none(tmp_path: Path) -> None:
    assert trait(data=trait_file(tmp_path, ["a"], ""), judge_prompt="{question} {answer}")
    with pytest.raises(WsteerError, match="nowhere does not exist; give a trait file"):
        trait(data="nowhere")
    with pytest.raises(WsteerError, match="trait brings no data of its own"):
        trait()


@pytest.mark.parametrize("part", ["eval", "extract"])
def test_files_of_persona_vectors_are_read_as_they_are(shared_data: Path, part: str) -> None:
    task = trait(data=str(shared_data / "persona_vectors" / f"sycophantic_{part}.json"), opinion=True)
    assert len(task.dataset) == 20
