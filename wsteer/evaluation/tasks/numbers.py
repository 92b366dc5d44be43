r"""The number that a worked answer gives as its result.

What counts: `-18`, `1,234.00` (which is 1234), `$18.50` and `18 dollars` (currencies and units are left out), `50%`
(50, since the question says which of the two it wants), `3/4` and `\frac{3}{4}` (divided). What does not: numbers in
words, parts of words (`H2O`, `1e3`), times and ratios (`12:30`).
"""

import re
from collections.abc import Iterator, Sequence
from decimal import Decimal

_PLAIN = (
    (re.compile(r"\\[dt]?frac\{(-?[\d.]+)\}\{([\d.]+)\}"), r"\1/\2"),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\[,!;]|\\(?=\$)"), ""),
    (re.compile("\u2212"), "-"),
)
MOST = 100  # characters of a number
# a run of all that may belong to a number, and what such a run is to be: 1,234.50 or 3/4, before letters of a unit
_RUN = re.compile(r"(?<![\w.])-?[$\u20ac\u00a3]?\.?\d[\w.,:/]*")
_DIGITS = r"(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?P<over>{_DIGITS})(?:/(?P<under>{_DIGITS}))?(?:[^\W\d]|[./](?!\d))*")
# what announces the result; "#### 2. Count the eggs" is a heading
_MARK = re.compile(
    r"\\boxed\s*\{(?P<boxed>(?:[^{}]|\{[^{}]*\})*)\}"
    r"|^[ *]*#{4}(?P<hashes>(?![^\n]*\d[.):]\s*\S)[^\n]*)"
    r"|\banswer\b[*_`\"']*\s*(?:\bis\b|:|=|\n)\s*(?P<said>[^\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_SENTENCE_END = re.compile(r"[.!?;](?=\s|$)")


def last_number(text: str) -> Decimal | None:
    """The last number of a text; None where there is none.

    >>> last_number("She has 3 bags of 1,250.00 g."), last_number("none")
    (Decimal('1250.00'), None)
    """
    found = list(_numbers(_plain(text)))
    return found[-1] if found else None


def final_number(text: str, cut: bool = False) -> Decimal | None:
    r"""The number that the text gives as its result; None where there is none.

    It stands behind the last mark that has one in its sentence: `#### 18`, `\boxed{18}`, "Answer: 18", "the answer is
    18"; there behind the last `=`, else it is the first one. A text without a marked number ends in its result: it is
    the last number. Of a text that is `cut` only a mark counts, behind which something follows the number.

    >>> final_number("9 * 2 = 18\nAnswer: $18 a day\n(for 9 eggs)"), final_number("9 eggs, so 18 dollars.")
    (Decimal('18'), Decimal('18'))
    """
    text = _plain(text)
    marks = list(_MARK.finditer(text))
    for mark in reversed(marks[-1:] if cut else marks):
        said = next(group for group in mark.groups() if group is not None)
        sentence = said if mark["boxed"] is not None else _SENTENCE_END.split(said, maxsplit=1)[0]
        open_end = mark.end() == len(text) and mark["boxed"] is None and sentence == said
        given = next(_numbers(sentence.rpartition("=")[2]), None) or next(_numbers(sentence), None)
        if given is not None and not (cut and open_end):
            return given
    return None if cut else last_number(text)


def grade_number(text: str, right: Sequence[str], wrong: Sequence[str] = ()) -> str:
    """Is the number that a finished text gives one of the right ones: "correct", "incorrect" or "abstain".

    Any other number is incorrect, whether the wrong answer is known or not. A text without a number is "abstain".
    """
    given = final_number(text)
    if given is None:
        return "abstain"
    return "correct" if given in map(last_number, right) else "incorrect"


def _plain(text: str) -> str:
    """The text with TeX's fractions, spaces and commas, and the minus sign, as plain characters."""
    for pattern, plain in _PLAIN:
        text = pattern.sub(plain, text)
    return text


def _numbers(text: str) -> Iterator[Decimal]:
    for run in _RUN.findall(text):
        if len(run) > MOST:
            continue
        found = _NUMBER.fullmatch(run.lstrip("-$\u20ac\u00a3").rstrip(".,:/"))
        if found is None:
            continue
        over, under = (Decimal(part.replace(",", "")) if part else Decimal(1) for part in found.group("over", "under"))
        if under:
            yield (-over if run.startswith("-") else over) / under
