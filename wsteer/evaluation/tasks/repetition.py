"""How much a text repeats itself: signs of damage that need no judge."""

import re

_WORD = re.compile(r"\w+|[^\w\s]")


def words(text: str) -> list[str]:
    """The words of a text in small letters; a mark that belongs to no word is one of its own.

    >>> words("No, NO... it's")
    ['no', ',', 'no', '.', '.', '.', 'it', "'", 's']
    """
    return _WORD.findall(text.casefold())


def distinct(text: str, n: int) -> float | None:
    """Different n-grams of words / all n-grams (Li et al. 2016); None where the text has fewer than n words.

    >>> distinct("a b a b a", 2)
    0.5
    """
    different, all_of_them = _counted(text, n)
    return different / all_of_them if all_of_them else None


def repeated(text: str, n: int = 4) -> float | None:
    """The share of n-grams of words that the text has had before: seq-rep-n of Welleck et al. (2020).

    None where the text has fewer than n words.

    >>> repeated("one two three four " * 2)
    0.2
    """
    different, all_of_them = _counted(text, n)
    return (all_of_them - different) / all_of_them if all_of_them else None


def _counted(text: str, n: int) -> tuple[int, int]:
    found = words(text)
    grams = [tuple(found[i : i + n]) for i in range(len(found) - n + 1)]
    return len(set(grams)), len(grams)
