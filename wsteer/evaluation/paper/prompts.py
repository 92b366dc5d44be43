"""Prompts of tasks and judges: our own wordings, or the user's, with `{names}` to be filled in."""

import re
from collections.abc import Mapping, Sequence
from os.path import isfile  # a Path's is_file raises for a text that is too long for a name

from wsteer.errors import WsteerError
from wsteer.files.text import read_text

PLACE = re.compile(r"\{(\w+)\}")


def prompt_of(given: str, own: str, places: Sequence[str], option: str) -> str:
    """The user's prompt, a file or a text with these `{places}`; `own` where none is given.

    Raises WsteerError, with the name of the `option`, where a place is missing.
    """
    if not given:
        return own
    text = read_text(given) if isfile(given) else given
    check_places(text, places, f"-T {option}=")
    return text


def check_places(text: str, places: Sequence[str], what: str) -> None:
    """Refuse a prompt, called `what`, that lacks one of these `{places}`."""
    if missing := [place for place in places if f"{{{place}}}" not in text]:
        raise WsteerError(
            f"{what} has no {{{missing[0]}}}: give a file or a text with {', '.join(f'{{{p}}}' for p in places)}"
        )


def filled(prompt: str, values: Mapping[str, str]) -> str:
    """The prompt with its places filled in; braces of the values, and those of no place, stay as they are."""
    return PLACE.sub(lambda match: values.get(match[1], match[0]), prompt)
