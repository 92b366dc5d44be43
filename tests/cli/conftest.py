"""Fixtures of the command line's tests."""

import pytest

from tests.helpers.command import ARGUMENTS, Arguments, Inputs


@pytest.fixture
def arguments(inputs: Inputs) -> Arguments:
    """Arguments, without -o, with which each command succeeds quickly."""
    return lambda name: [name, *map(str, ARGUMENTS[name](inputs))]
