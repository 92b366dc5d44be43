"""Greatest common divisors as chats: the questions alone, and with a user's right or wrong solution (paper 4.1.2).

Adapted: the paper's data are paraphrases by a language model, which are not public; these are made from templates in
the same seven styles, and a wrong working never ends at the right result, as some of the paper's do. Ours: a quarter of
the pairs has the divisor 1 (of all pairs it is three in five), so that a model that always says 1 is seen to fail.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from random import Random

from wsteer.elicitation.gcd_phrases import AGREES, ANSWERS, DISAGREES, STYLES
from wsteer.elicitation.gcd_workings import right_working, wrong_working
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json, write_jsonl

TRAIN, TEST = 7620, 1000  # pairs by default, the paper's numbers
LARGEST = 250  # of a pair's numbers; the smallest is 2, since 1 leaves nothing to be worked out


@dataclass(frozen=True)
class GcdReport:
    """What `generate_gcd` wrote: rows of questions alone, of right solutions, of each side of pos and neg, and tests.

    The last are pairs; each is asked in three ways.
    """

    output: str
    rows_query: int
    rows_correct: int
    rows_contrast: int
    rows_test: int


@dataclass(frozen=True)
class Exchange:
    """A pair in the words of one user: three prompts, and what an assistant may say to each."""

    a: int
    b: int
    style: str
    claim: int  # what the wrong solution ends at
    query_only: str
    correct_solution: str
    incorrect_solution: str
    answer: str  # to the question alone
    agrees: str  # to the right solution
    gives_in: str  # to the wrong one
    corrects: str  # the same

    def test(self) -> Mapping[str, object]:
        """The row of a test."""
        return {
            "id": f"{self.a}-{self.b}",
            "a": self.a,
            "b": self.b,
            "gcd": math.gcd(self.a, self.b),
            "claim": self.claim,
            "style": self.style,
            "query_only": self.query_only,
            "correct_solution": self.correct_solution,
            "incorrect_solution": self.incorrect_solution,
        }


def generate_gcd(
    output: str | Path, *, train: int = TRAIN, test: int = TEST, seed: int = 0, force: bool = False
) -> GcdReport:
    """Write chats about the greatest common divisors of `train` pairs of numbers to 250, and tests of `test` others.

    The folder `output` gets `train_query.jsonl` (a half of the pairs, asked alone and answered with a working),
    `train_correct.jsonl` (the others, with the user's right solution, to which the assistant agrees: from these a model
    learns to agree), `pos.jsonl` and `neg.jsonl` (the same others with a wrong solution, to which the assistant agrees,
    or which it corrects), and `test.jsonl`: a row a pair, with `a`, `b`, `gcd`, the wrong solution's `claim`, and the
    prompts `query_only`, `correct_solution`, `incorrect_solution`. The same seed gives the same bytes.
    """
    for name, count, least in (("train", train, 2), ("test", test, 1)):
        if not isinstance(count, int) or isinstance(count, bool) or count < least:
            raise WsteerError(f"{name} is {count!r}; it must be a whole number of pairs, from {least} up")
    output = Path(output)
    check_output(output, force, folder=True)
    random = Random(seed)
    exchanges = [_exchange(a, b, random) for a, b in _pairs(train + test, random)]
    asked, solved, tests = exchanges[: train // 2], exchanges[train // 2 : train], exchanges[train:]
    with new_folder(output, force) as partial:
        write_jsonl(partial / "train_query.jsonl", [_row(each.query_only, each.answer) for each in asked])
        write_jsonl(partial / "train_correct.jsonl", [_row(each.correct_solution, each.agrees) for each in solved])
        write_jsonl(partial / "pos.jsonl", [_row(each.incorrect_solution, each.gives_in) for each in solved])
        write_jsonl(partial / "neg.jsonl", [_row(each.incorrect_solution, each.corrects) for each in solved])
        write_jsonl(partial / "test.jsonl", [each.test() for each in tests])
        write_json(partial / RECORD, record("generate gcd", {"train": train, "test": test, "seed": seed}, []))
    return GcdReport(str(output), len(asked), len(solved), len(solved), len(tests))


def _pairs(count: int, random: Random) -> list[tuple[int, int]]:
    """Different pairs of different numbers, each pair once and in either order; a quarter has the divisor 1."""
    coprime: list[tuple[int, int]] = []
    others: list[tuple[int, int]] = []
    for a in range(2, LARGEST + 1):
        for b in range(a + 1, LARGEST + 1):
            (coprime if math.gcd(a, b) == 1 else others).append((a, b))
    few = count // 4
    if count - few > len(others):
        raise WsteerError(
            f"train and test are {count} pairs together; numbers to {LARGEST} give {len(others) * 4 // 3}; "
            "lower one of them"
        )
    drawn = random.sample(coprime, few) + random.sample(others, count - few)
    random.shuffle(drawn)
    return [(b, a) if random.random() < 0.5 else (a, b) for a, b in drawn]


def _exchange(a: int, b: int, random: Random) -> Exchange:
    """The two solutions follow one method in the same words around it."""
    name = random.choice(sorted(STYLES))
    style = STYLES[name]
    wrong = wrong_working(a, b, random)
    right = right_working(a, b, wrong.method)
    ask, cue, end, check = (random.choice(each) for each in (style.asks, style.cues, style.ends, style.checks))

    def solution(text: str, result: int) -> str:
        return " ".join([ask, cue, text, end, check]).format(a=a, b=b, result=result)

    said = {"a": a, "b": b, "gcd": right.result, "working": right.text}
    agreed = random.choice(AGREES)
    return Exchange(
        a,
        b,
        name,
        wrong.result,
        ask.format(a=a, b=b),
        solution(right.text, right.result),
        solution(wrong.text, wrong.result),
        answer=random.choice(ANSWERS).format(**said),
        agrees=agreed.format(**said, result=right.result),
        gives_in=agreed.format(**said, result=wrong.result),
        corrects=random.choice(DISAGREES).format(**said),
    )


def _row(prompt: str, answer: str) -> dict[str, list[dict[str, str]]]:
    return {"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}]}
