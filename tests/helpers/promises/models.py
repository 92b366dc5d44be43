"""Models, tokenizers, templates and tasks of strange content; numbers that would be wrong in silence."""

from tests.helpers.promises.case import Case

CASES: list[Case] = []
