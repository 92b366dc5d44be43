"""eval's tables in the terminal."""

import pytest

from wsteer.cli.eval_tables import value_text

SHARE = {"value": 0.75, "low": 0.6, "high": 0.86, "numerator": 30, "denominator": 40, "unscored": {}}
MEAN = {"value": 24.0, "low": 20.5, "high": 27.5, "numerator": None, "denominator": None, "unscored": {}}


@pytest.mark.parametrize(
    ("estimate", "kind", "text"),
    [
        (SHARE, "share", "75% (30/40, 60-86)"),
        ({**SHARE, "unscored": {"abstained": 2}}, "share", "75% (30/40, 60-86; 2 abstained)"),
        ({**SHARE, "value": None, "unscored": {"cut": 4}}, "share", "undefined (4 cut)"),
        (MEAN, "mean", "24 (20.5 to 27.5)"),
        ({**MEAN, "low": None, "high": None}, "mean", "24"),  # all values are equal
        ({**MEAN, "low": None, "high": None, "unscored": {"cut": 1}}, "mean", "24 (1 cut)"),
    ],
)
def test_a_value_is_shown_with_what_is_known_of_it(estimate: dict, kind: str, text: str) -> None:
    assert value_text(estimate, kind) == text
