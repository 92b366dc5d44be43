"""Trait files: pairs of opposite instructions, and the questions asked under them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.text import read_json, without_duplicates


@dataclass(frozen=True)
class Trait:
    """A trait file in the persona-vectors schema: instruction pairs, questions, and the judge's prompt."""

    pos: tuple[str, ...]
    neg: tuple[str, ...]
    questions: tuple[str, ...]
    eval_prompt: str


def read_trait(path: Path) -> Trait:
    """Read and check a trait file `{"instruction": [{"pos", "neg"}, ...], "questions": [...], "eval_prompt"}`."""
    value = read_json(path, without_duplicates)
    pairs, questions = value.get("instruction"), value.get("questions")
    if not isinstance(pairs, list) or not pairs or not all(_is_pair(pair) for pair in pairs):
        raise WsteerError(f'{path}: "instruction" must be a list of objects with the texts "pos" and "neg"')
    if not isinstance(questions, list) or len(set(map(str, questions))) < 2:
        raise WsteerError(f'{path}: "questions" must be a list of two or more different questions')
    if not all(isinstance(question, str) and question.strip() for question in questions):
        raise WsteerError(f'{path}: every entry of "questions" must be a text')
    pos, neg = (tuple(pair[side] for pair in pairs) for side in ("pos", "neg"))
    _check_different(path, "question", questions)
    _check_different(path, "instruction pair", [f"{a.strip()} / {b.strip()}" for a, b in zip(pos, neg, strict=True)])
    for number, pair in enumerate(zip(pos, neg, strict=True), 1):
        if len({instruction.strip() for instruction in pair}) == 1:
            raise WsteerError(f"{path}: pos and neg of instruction pair {number} are equal, so there is no contrast")
    return Trait(pos, neg, tuple(questions), str(value.get("eval_prompt", "")))


def _check_different(path: Path, what: str, texts: Sequence[str]) -> None:
    """Refuse what stands twice: its answers would count twice, or be asked and kept for evaluation at once."""
    places: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        if (first := places.setdefault(text, number)) != number:
            raise WsteerError(f"{path}: {what} {number} is the same as {what} {first}; leave one of them out")


def _is_pair(pair: object) -> bool:
    return isinstance(pair, dict) and all(isinstance(pair.get(side), str) and pair[side] for side in ("pos", "neg"))


def split_questions(questions: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Half of the questions to ask and half to keep for evaluation, chosen by the seed, each in the file's order."""
    kept = set(random.Random(seed).sample(range(len(questions)), len(questions) // 2))
    asked = [question for i, question in enumerate(questions) if i not in kept]
    return asked, [question for i, question in enumerate(questions) if i in kept]
