"""The fold of one block of rows."""

from pathlib import Path

import torch

from wsteer.deltas.terms import Change
from wsteer.steering.folding import fold
from wsteer.steering.rounding import Rounding


def test_noise_of_an_element_is_a_function_of_its_index(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, factors = torch.randn(37, 11).bfloat16(), (torch.randn(37, 2) * 1e-3, torch.randn(2, 11))
    change, rounding = Change((37, 11), factors, ()), Rounding("stochastic", 3)
    whole = fold("p", base, change, 0, 1.0, rounding).clone()
    for start, stop in ((0, 5), (5, 6), (7, 37)):
        assert torch.equal(fold("p", base[start:stop], change, start, 1.0, rounding), whole[start:stop])
