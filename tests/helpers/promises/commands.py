"""Options at their edges, configs, environments, terminals."""

from tests.helpers.promises.case import Case

CASES: list[Case] = []
