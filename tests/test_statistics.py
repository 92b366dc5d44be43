"""Intervals against published values, Holm's test against the textbook's adjustment."""

import numpy as np
import pytest

from wsteer.statistics import holm, p_value, wilson


def test_wilson_equals_the_textbook_and_is_never_of_zero_width() -> None:
    # Newcombe 1998, table I: 81/263 and 0/20
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(0, 0) is None


def test_holm_is_that_of_scipy_style_adjustment() -> None:
    generator = np.random.default_rng(0)
    for _ in range(50):
        p = generator.uniform(size=6) ** 4
        order = np.argsort(p)
        adjusted = np.empty(6)
        adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(6, 0, -1)))
        assert holm(list(p)) == list(adjusted <= 0.05)
    assert p_value(1.959964) == pytest.approx(0.05, abs=1e-6)
