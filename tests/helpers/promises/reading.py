"""Files of others: links, pipes, encodings, bombs, regexes, a silent network."""

from tests.helpers.promises.case import Case

CASES: list[Case] = []
