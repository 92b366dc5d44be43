"""Which coefficients a combination has, however they are given."""

import numpy as np
import pytest

from wsteer.errors import WsteerError
from wsteer.steering.combination import Combination


def test_coefficients_may_be_any_sequence_of_numbers() -> None:
    for ks in ([1, 2], (1.0, 2.0), np.array([1.0, 2.0])):
        combination = Combination.of(["w", "v"], ks, None)
        assert (combination.weights, combination.ks) == ((1.0, 2.0), (1.0,))
    assert Combination.of("w", np.array([0.0]), None).ks == (0.0,)


def test_one_of_k_and_sweep_is_needed() -> None:
    for k, sweep in ((None, None), (1.0, [1.0])):
        with pytest.raises(WsteerError, match="one of --k and --sweep is needed"):
            Combination.of("w", k, sweep)
