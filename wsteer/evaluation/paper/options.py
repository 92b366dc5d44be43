"""Questions with options under letters: the letter that an answer chooses, and the two options exchanged."""

import re
from collections.abc import Sequence

# what people and models write around a letter: (B), **B**, "B", [B], <B>, $\boxed{B}$
_SIGN = r"[\s*_`\"'\u201c\u2018(\[{<$]|\\(?:boxed|text|mathrm)\{"
_OPEN = rf"(?:{_SIGN})*"  # never two in a row: long runs of spaces, which broken models write, would take minutes
_CLOSE = r"[*_`\"'\u201d\u2019)\]}>$]"
_MARKER = re.compile(r"final\s+answer[\s*_`\"]*[:\uff1a]", re.I)
_LONE = re.compile(rf"{_OPEN}([A-Za-z])(?:{_CLOSE}|[\s.:])*")
# a letter before the end of its line, a sign of punctuation, or something that closes it; "A man" has none of them
_CHOSEN = re.compile(
    rf"{_OPEN}(?:(?:option|choice)\s{_OPEN})?([A-Za-z])(?![A-Za-z])"
    rf"(?:{_CLOSE}+[.:,;]?(?![a-z])|[.:,;](?=\s|\Z)|(?=[^\S\n]+[-\u2013\u2014]\s)|(?=[^\S\n]*(?:\n|\Z)))",
    re.I,
)
_ANOTHER = re.compile(rf"(?:[,/&|]|{_SIGN})*(?:(?:or|and|nor)\b{_OPEN})?(?:[Oo]ption\s{_OPEN})?([A-Z])\b(?!['\u2019])")

# an option's letter at the beginning of a line, A) (A) A. A: **A)** - A) Option A:, or inside of one, A) or (A)
_LINE = re.compile(r"^[ \t>*_#-]*(?:(?i:option|choice)[ \t]+)?[(\[*_]*([A-Z])[)\].:*_]+[ \t]*(?=\S)", re.M)
_INSIDE = re.compile(r"(?<=[\s:;,])\(?([A-Z])\)[ \t]+(?=\S)")
_BLANK = re.compile(r"\n[ \t]*\n")
_SENTENCE = re.compile(r"[.?!](?=\s)")
_JOIN = re.compile(r"[\s.,;?!]*(?:(?<=[\s,;])(?:or|and)\s*)?\Z")  # between two options
_END = re.compile(r"[\s.,;?!]*\Z")
_NAMED = re.compile(r"\b(?i:option|choice)s?\s+[(\[]?[AB]\b")


def lone_letter(text: str, letters: Sequence[str] = "AB") -> str | None:
    """The letter that is the whole answer, whatever marks it; None for all else, also for another letter.

    >>> lone_letter("**(b)**."), lone_letter("A man"), lone_letter("C")
    ('B', None, None)
    """
    found = _LONE.fullmatch(text)
    return found[1].upper() if found and found[1].upper() in letters else None


def final_letter(text: str, letters: Sequence[str] = "AB") -> str | None:
    """The letter after the last "Final Answer:"; None without one, for two letters, and for one that is no option.

    >>> final_letter("A man... Final Answer: (B)"), final_letter("Final Answer: A or B"), final_letter("I choose A.")
    ('B', None, None)
    """
    markers = list(_MARKER.finditer(text))
    if not markers:
        return None
    told = text[markers[-1].end() :]
    found = _CHOSEN.match(told)
    if found is None or (letter := found[1].upper()) not in letters:
        return None
    other = _ANOTHER.match(told, found.end())
    return None if other and other[1] in letters and other[1] != letter else letter


def exchanged(text: str) -> str | None:
    """The question with what stands behind its letters A and B exchanged; None where the two cannot be told apart.

    The letters stand at the beginning of lines (`A)`, `(A)`, `A.`, `A:`, `Option A:`), or inside of one as `A)` or
    `(A)`. What follows the second option after an empty line stays. A text with a third option, or one that speaks of
    "option A", cannot be changed so. Exchanged twice, the text is what it was.
    """
    once = _exchanged(text)
    return once if once is not None and once != text and _exchanged(once) == text else None


def _exchanged(text: str) -> str | None:
    marks = list(_LINE.finditer(text))
    inside = [mark[1] for mark in marks][-2:] != ["A", "B"]
    if inside:
        marks = list(_INSIDE.finditer(text))
        if [mark[1] for mark in marks] != ["A", "B"]:
            return None
    first, second = marks[-2:]
    one, two = text[first.end() : second.start()], text[second.end() :]
    end = (_SENTENCE if inside else _BLANK).search(two)
    tail = two[end.start() :] if end else ""
    two = two[: end.start()] if end else two
    if tail.strip(" \t\n.?!") and (_SENTENCE if inside else _BLANK).search(one.strip()):
        return None  # options of several paragraphs (or sentences): where the second ends is not known
    if _NAMED.search(text[: first.start()] + one + two):
        return None
    between, after = _JOIN.search(one), _END.search(two)
    if between is None or after is None:  # both match the empty end
        return None
    one, two = one[: between.start()], two[: after.start()]
    if not one or not two:
        return None
    mark = text[second.start() : second.end()]
    return text[: first.end()] + two + between[0] + mark + one + after[0] + tail
