"""Templates see all fields of a row; options are shown in both orders."""

import json
from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.facts import read_facts
from wsteer.evaluation.tasks.task import load_task
from wsteer.evaluation.tasks.turns import ChoiceTurn, choice_turns, user_turns

LETTERS = """
name: mine
data: rows.jsonl
choices:
  letters:
    user: "{{ question }} A) {{ options[0] }} B) {{ options[1] }}"
    options: ["{{ right }}", "{{ wrong }}"]
    labels: [A, B]
    answer: "{{ right }}"
metrics: {accuracy: {chosen: letters}, first: {first: letters}}
"""
ROW = {"question": "2?", "right": "two", "wrong": "three", "choices": ["one", "two"], "gold": 1, "letter": "B"}


def turns(folder: Path, task: str, row: dict = ROW) -> list[ChoiceTurn]:
    (folder / "mine.yaml").write_text(task)
    (folder / "rows.jsonl").write_text(json.dumps(row))
    parsed = load_task(str(folder / "mine.yaml"))
    return choice_turns(parsed, read_facts(parsed.data, needed=parsed.needed))


def test_prompts_may_use_fields_of_any_kind(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "name: t\ndata: rows.jsonl\nmax_new_tokens: 4\nmetrics: {tokens: {tokens: p}}\nprompts:\n"
        "  p: {user: \"{{ row['Best Answer'] }} {{ tags[1] }} {{ deep.x + 1 }}{% if not none %}!{% endif %}\"}\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"Best Answer": "4", "tags": ["a", "b"], "deep": {"x": 1}, "none": null}')
    task = load_task(str(tmp_path / "t.yaml"))
    ((_, name, text),) = user_turns(task, read_facts(task.data, needed=task.needed))
    assert (name, text) == ("p", "4 b 2!")


def test_templates_cannot_change_what_the_next_one_sees(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text(
        "name: t\ndata: rows.jsonl\nmax_new_tokens: 4\nmetrics: {tokens: {tokens: p}}\n"
        'prompts: {p: {user: "{{ tags.append(1) }}"}}\n'
    )
    (tmp_path / "rows.jsonl").write_text('{"tags": []}')
    task = load_task(str(tmp_path / "t.yaml"))
    with pytest.raises(WsteerError, match="the template of prompt 'p' fails"):
        user_turns(task, read_facts(task.data, needed=task.needed))


def test_shown_options_are_asked_in_both_orders(tmp_path: Path) -> None:
    plain, swapped = turns(tmp_path, LETTERS)
    assert (plain.user, plain.options, plain.said, plain.right) == (
        "2? A) two B) three",
        ("two", "three"),
        ("A", "B"),
        0,
    )
    assert (swapped.user, swapped.options, swapped.said) == ("2? A) three B) two", ("three", "two"), ("A", "B"))
    assert (plain.right, swapped.right, plain.id, swapped.id) == (0, 1, "2?", "2? (swapped)")


def test_options_that_are_not_shown_have_no_order(tmp_path: Path) -> None:
    task = LETTERS.replace(" A) {{ options[0] }} B) {{ options[1] }}", "").replace("    labels: [A, B]\n", "")
    (turn,) = turns(tmp_path, task)
    assert (turn.user, turn.said, turn.right) == ("2?", ("two", "three"), 0)


@pytest.mark.parametrize(("answer", "right"), [("{{ choices[gold] }}", 1), ("{{ letter }}", 1), (" one ", 0)])
def test_options_of_a_field_and_answers_by_text_or_label(tmp_path: Path, answer: str, right: int) -> None:
    task = LETTERS.replace('["{{ right }}", "{{ wrong }}"]', "choices").replace('"{{ right }}"', f'"{answer}"')
    plain, swapped = turns(tmp_path, task)
    assert (plain.options, plain.right, swapped.right) == (("one", "two"), right, 1 - right)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (
            'answer: "{{ right }}"',
            'answer: "{{ question }}"',
            r"rows.jsonl:1: the answer '2\?' is none of the options",
        ),
        ("{{ wrong }}", "{{ right }}", r"rows\.jsonl:1: two options of .* are the same"),
        ("{{ wrong }}", " ", "or one is empty"),
        ('["{{ right }}", "{{ wrong }}"]', "question", "takes its options from 'question', which is no list"),
        ('["{{ right }}", "{{ wrong }}"]', "[one]", "must be a list of 2 to 100 texts"),
        ("[A, B]", "[A, A]", "has a label twice"),
        ("[A, B]", "[Yes, No]", "YAML reads one of the labels of choice 'letters' as True and not as a text"),
        ("{{ options[0] }} B) {{ options[1] }}", "", "has labels, and its user's turn shows no options"),
        ("{{ question }} A)", "{{ gone }}", "the template of the user's turn fails"),
        ("[A, B]", "[A, two]", "'two' is both an option and another one's label"),
    ],
)
def test_bad_choices_are_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    assert old in LETTERS
    with pytest.raises(WsteerError, match=reason):
        turns(tmp_path, LETTERS.replace(old, new))


def test_more_options_than_labels_are_refused(tmp_path: Path) -> None:
    task = LETTERS.replace('["{{ right }}", "{{ wrong }}"]', "choices")
    with pytest.raises(WsteerError, match=r"rows.jsonl:1 has 3 options, and .* takes 2 to 2"):
        turns(tmp_path, task, {**ROW, "choices": ["two", "b", "c"]})


def test_an_id_that_a_swapped_row_has_is_refused(tmp_path: Path) -> None:
    turns(tmp_path, LETTERS)
    rows = [{**ROW, "id": "a"}, {**ROW, "id": "b"}, {**ROW, "id": "a (swapped)"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = load_task(str(tmp_path / "mine.yaml"))
    with pytest.raises(WsteerError, match=r"rows.jsonl:3 has the id 'a \(swapped\)', which is .*:1 with the options"):
        choice_turns(task, read_facts(task.data, needed=task.needed))
