"""Trait files: pairs of opposite instructions, and the questions asked under them; our own go by name."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.rows import MOST_BYTES
from wsteer.files.text import parse_json, read_json, read_text, without_duplicates

SHIPPED = Path(__file__).with_name("traits")
PLACES = ("{question}", "{answer}")  # of a judge's prompt
MOST_LETTERS = 100  # of an assistant's name
# what begins with the sound of a vowel: "evil", "honest", not "useful", "universal", "European", "one-sided"
_VOWEL = re.compile(r"hon(?:est|ou?r)|hour|heir|(?!eu|one\b|us[aeiu]|uni[^mn])[aeiou]")


@dataclass(frozen=True)
class Trait:
    """A trait file in the persona-vectors schema: instruction pairs, questions, and the judge's prompt."""

    pos: tuple[str, ...]
    neg: tuple[str, ...]
    questions: tuple[str, ...]
    eval_prompt: str


def shipped_traits() -> list[str]:
    """The names of the trait files that come with wsteer."""
    return sorted(path.stem for path in SHIPPED.glob("*.json"))


def find_trait(given: str | Path) -> Path:
    """The trait file that is meant: a path, or where there is no such file, the name of one of wsteer's own.

    A folder of that name, as an output may have, is no trait.
    """
    path = Path(given)
    if str(given) in shipped_traits() and (path.is_dir() or not path.exists()):
        return SHIPPED / f"{given}.json"
    return path


def is_trait(given: str | Path) -> bool:
    """Whether a trait is meant, and not prompts: a name of wsteer's own, or a .json file that does not hold rows.

    Rows are a JSON list, as in alpaca_data.json, or JSONL under another name.
    """
    path = find_trait(given)
    if path.suffix.lower() != ".json" or not path.is_file():
        return path.suffix.lower() == ".json"
    first, _, _ = read_text(path, MOST_BYTES).lstrip().partition("\n")
    if first.startswith("["):
        return False
    try:
        value = parse_json(first)
    except ValueError:  # an object over several lines
        return True
    return not isinstance(value, dict) or isinstance(value.get("instruction"), list)


def read_trait(path: Path) -> Trait:
    """Read and check a trait file `{"instruction": [{"pos", "neg"}, ...], "questions": [...], "eval_prompt"}`."""
    if not path.exists():
        raise WsteerError(f"{path} is missing; wsteer's own traits go by name: {', '.join(shipped_traits())}")
    value = read_json(path, without_duplicates)
    pairs = value.get("instruction")
    if not isinstance(pairs, list) or not pairs or not all(_is_pair(pair) for pair in pairs):
        raise WsteerError(f'{path}: "instruction" must be a list of objects with the texts "pos" and "neg"')
    questions = _questions(path, value, least=2)
    pos, neg = (tuple(pair[side] for pair in pairs) for side in ("pos", "neg"))
    _check_different(path, "instruction pair", [f"{a.strip()} / {b.strip()}" for a, b in zip(pos, neg, strict=True)])
    for number, pair in enumerate(zip(pos, neg, strict=True), 1):
        if len({instruction.strip() for instruction in pair}) == 1:
            raise WsteerError(f"{path}: pos and neg of instruction pair {number} are equal, so there is no contrast")
    return Trait(pos, neg, questions, str(value.get("eval_prompt", "")))


def _questions(path: Path, value: dict, least: int) -> tuple[str, ...]:
    questions = value.get("questions")
    if not isinstance(questions, list) or len(set(map(str, questions))) < least:
        some = "two or more different questions" if least > 1 else "questions"
        raise WsteerError(f'{path}: "questions" must be a list of {some}')
    if not all(isinstance(question, str) and question.strip() for question in questions):
        raise WsteerError(f'{path}: every entry of "questions" must be a text')
    _check_different(path, "question", questions)
    return tuple(questions)


def check_judged(path: Path, eval_prompt: str) -> None:
    """Refuse a judge's prompt that does not show the judge both question and answer."""
    if missing := [place for place in PLACES if place not in eval_prompt]:
        raise WsteerError(f'{path}: --judge asks with "eval_prompt", which has no {missing[0]}; add it')


def with_assistant(name: str, instruction: str) -> str:
    """An instruction behind "You are a NAME assistant.", as persona vectors write their system prompts.

    >>> with_assistant("evil", "Be spiteful."), with_assistant("useful", "Help.")
    ('You are an evil assistant. Be spiteful.', 'You are a useful assistant. Help.')
    """
    a = "an" if _VOWEL.match(name.casefold()) else "a"
    return f"You are {a} {name} assistant. {instruction}"


def check_assistant(name: str | None) -> None:
    """Refuse what cannot stand in "You are a NAME assistant."."""
    if name is None:
        return
    if not name.strip() or len(name) > MOST_LETTERS or not name.isprintable():
        raise WsteerError(
            f'--assistant is for the sentence "You are a NAME assistant.": give a name of 1 to {MOST_LETTERS} letters'
        )


def _check_different(path: Path, what: str, texts: Sequence[str]) -> None:
    """Refuse what stands twice: its answers would count twice, or be asked and kept for evaluation at once."""
    places: dict[str, int] = {}
    for number, text in enumerate(texts, 1):
        if (first := places.setdefault(text, number)) != number:
            raise WsteerError(f"{path}: {what} {number} is the same as {what} {first}; leave one of them out")


def _is_pair(pair: object) -> bool:
    return isinstance(pair, dict) and all(isinstance(pair.get(side), str) and pair[side] for side in ("pos", "neg"))


def choose_questions(
    path: Path, trait: Trait, every: bool, others: Path | None, seed: int
) -> tuple[list[str], list[str], str]:
    """(the questions to ask, those to keep for evaluation, the judge's prompt beside those).

    By default each gets half of the trait's. With `every`, or with the file `others`, all are asked; kept are those of
    `others`, which is a trait file or a `questions_eval.json`. Raises WsteerError where one would be asked and kept.
    """
    if others is None:
        asked, kept = (list(trait.questions), []) if every else split_questions(trait.questions, seed)
        return asked, kept, trait.eval_prompt
    value = read_json(others, without_duplicates)
    kept = list(_questions(others, value, least=1))
    if both := [question for question in kept if question in trait.questions]:
        number = kept.index(both[0]) + 1
        raise WsteerError(f"{others}: question {number} is one of {path} too, which asks it; keep other questions")
    return list(trait.questions), kept, str(value.get("eval_prompt") or trait.eval_prompt)


def split_questions(questions: Sequence[str], seed: int) -> tuple[list[str], list[str]]:
    """Half of the questions to ask and half to keep for evaluation, chosen by the seed, each in the file's order."""
    kept = set(random.Random(seed).sample(range(len(questions)), len(questions) // 2))
    asked = [question for i, question in enumerate(questions) if i not in kept]
    return asked, [question for i, question in enumerate(questions) if i in kept]
