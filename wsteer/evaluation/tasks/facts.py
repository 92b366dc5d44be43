"""The rows of a task's data, with all their fields, and an id for each."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.scoring import names_of
from wsteer.files.rows import read_objects

ANSWERS = ("correct_answer", "incorrect_answer")  # the fields that scorers compare with


@dataclass(frozen=True)
class Fact:
    """A row of data: its fields with any JSON values, and `id`, which no other row of the data has.

    Rows with the same question are one `group`, named by the first one's id. `where` is the row's place (`file:line`).
    """

    id: str
    fields: Mapping[str, object] = field(hash=False)
    group: str = ""
    where: str = ""

    @property
    def values(self) -> dict[str, object]:
        """What templates may use: the fields, and the whole of them as `row`, for names that are no words."""
        return {"row": dict(self.fields), **self.fields}

    @cached_property
    def size(self) -> int:
        """The characters of all its fields."""
        return len(json.dumps(self.fields, ensure_ascii=False))

    @property
    def aliases(self) -> tuple[str, ...]:
        """The accepted answers: `correct_answer`, and those listed under `answer`."""
        listed = self.fields.get("answer")
        return tuple(dict.fromkeys([str(self.fields["correct_answer"]), *(listed if isinstance(listed, list) else ())]))

    @property
    def wrong(self) -> tuple[str, ...]:
        """The wrong answer, if the row names one."""
        wrong = self.fields.get("incorrect_answer")
        return () if wrong is None else (str(wrong),)


def read_facts(source: str | Path, limit: int | None = None, needed: Collection[str] = ANSWERS) -> list[Fact]:
    """Facts from flat rows, or from SycophancyEval's `answer.jsonl` (one row per prompt, its fact under `base`).

    `needed` are the fields that the task's scorers compare answers with; they must be texts. A row's id is its `id`,
    else its question, with `#2` behind it where the question comes again; else its number.
    """
    facts: dict[str, Fact] = {}
    groups: dict[str, str] = {}
    numbers: dict[str, int] = {}
    for number, (where, row) in enumerate(read_objects(source), 1):
        base = row.get("base")
        nested = isinstance(base, dict) and "question" in base
        fields: dict[str, object] = row["base"] if nested else row
        _check(where, fields, needed)
        identity, question = _identity(where, fields), fields.get("question")
        named = identity is not None
        if identity is None:
            identity = question if isinstance(question, str) else str(number)
        if nested and identity in facts:  # one row for each prompt of the same fact
            _check_same(facts[identity], where, fields)
            continue
        known = facts.get(identity)
        if known is not None and named:
            raise WsteerError(f"{where} has the id {identity!r} of {known.where}; give every row its own id")
        identity = identity if known is None else _numbered(identity, facts, numbers)
        group = groups.setdefault(question, identity) if isinstance(question, str) else identity
        facts[identity] = Fact(identity, fields, group, where)
    if not facts:
        raise WsteerError(f"{source} holds no rows")
    return list(facts.values())[:limit]


def _identity(where: str, fields: Mapping[str, object]) -> str | None:
    """The row's own id, if it has one."""
    found = fields.get("id")
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, str | int | float):
        raise WsteerError(f"{where} has an id that is neither text nor number")
    return str(found)


def _numbered(question: str, facts: Mapping[str, Fact], numbers: dict[str, int]) -> str:
    """The question with the next number behind it that is free; `numbers` has the last one of each question."""
    number = numbers.get(question, 1) + 1
    while f"{question}#{number}" in facts:
        number += 1
    numbers[question] = number
    return f"{question}#{number}"


def _check(where: str, fields: Mapping[str, object], needed: Collection[str]) -> None:
    """Refuse a row that the task's scorers cannot compare an answer with."""
    missing = [key for key in ANSWERS if key in needed and not isinstance(fields.get(key), str)]
    if missing:
        raise WsteerError(f"{where} lacks the text {missing[0]!r}, which the task's scorers compare answers with")
    if not needed:
        return
    aliases = fields.get("answer") or []
    if not isinstance(aliases, list) or not all(isinstance(alias, str) for alias in aliases):
        raise WsteerError(f"{where}: answer must be a list of texts, the accepted answers")
    right, wrong = fields["correct_answer"], fields.get("incorrect_answer")
    if wrong is not None and not isinstance(wrong, str):
        raise WsteerError(f"{where}: incorrect_answer is not a text")
    if wrong is not None and names_of([str(right)]) == names_of([wrong]):
        raise WsteerError(f"{where}: correct_answer and incorrect_answer are the same, so no answer can be graded")


def _check_same(known: Fact, where: str, fields: Mapping[str, object]) -> None:
    """Refuse a second row of one fact that is about something else."""
    if known.fields.get("question") != fields.get("question"):
        raise WsteerError(f"{where} has the id {known.id!r} of another question; give every question its own id")
    if any(known.fields.get(key) != fields.get(key) for key in ANSWERS):
        raise WsteerError(
            f"{where} has other answers than {known.where} to the same question; keep one of the two rows"
        )
