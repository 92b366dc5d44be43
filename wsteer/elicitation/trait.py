"""Trait files: pairs of opposite instructions, and the questions asked under them."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.text import read_json


@dataclass(frozen=True)
class Trait:
    """A trait file in the persona-vectors schema: instruction pairs, questions, and the judge's prompt."""

    pos: tuple[str, ...]
    neg: tuple[str, ...]
    questions: tuple[str, ...]
    eval_prompt: str


def read_trait(path: Path) -> Trait:
    """Read and check a trait file `{"instruction": [{"pos", "neg"}, ...], "questions": [...], "eval_prompt"}`."""
    value = read_json(path)
    pairs, questions = value.get("instruction"), value.get("questions")
    if not isinstance(pairs, list) or not pairs or not all(_is_pair(pair) for pair in pairs):
        raise WsteerError(f'{path}: "instruction" must be a list of objects with the texts "pos" and "neg"')
    if not isinstance(questions, list) or len(set(map(str, questions))) < 2:
        raise WsteerError(f'{path}: "questions" must be a list of two or more different questions')
    if not all(isinstance(question, str) and question.strip() for question in questions):
        raise WsteerError(f'{path}: every entry of "questions" must be a text')
    pos, neg = (tuple(pair[side] for pair in pairs) for side in ("pos", "neg"))
    return Trait(pos, neg, tuple(dict.fromkeys(questions)), str(value.get("eval_prompt", "")))


def _is_pair(pair: object) -> bool:
    return isinstance(pair, dict) and all(isinstance(pair.get(side), str) and pair[side] for side in ("pos", "neg"))


def split_questions(questions: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Half of the questions to ask and half to keep for evaluation, chosen by the seed, each in the file's order."""
    kept = set(random.Random(seed).sample(range(len(questions)), len(questions) // 2))
    asked = [question for i, question in enumerate(questions) if i not in kept]
    return asked, [question for i, question in enumerate(questions) if i in kept]
