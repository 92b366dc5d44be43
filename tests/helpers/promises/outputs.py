"""Outputs: what is never replaced, deleted or left half-written."""

from tests.helpers.promises.case import Case

CASES: list[Case] = []
