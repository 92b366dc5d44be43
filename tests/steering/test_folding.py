"""The fold of one block of rows."""

from pathlib import Path

import pytest
import torch

from wsteer.deltas.terms import Change
from wsteer.steering.folding import ONEDNN, fold
from wsteer.steering.rounding import Rounding


def test_noise_of_an_element_is_a_function_of_its_index(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, factors = torch.randn(37, 11).bfloat16(), (torch.randn(37, 2) * 1e-3, torch.randn(2, 11))
    change, rounding = Change((37, 11), factors, ()), Rounding("stochastic", 3)
    whole = fold("p", base, change, 0, 1.0, rounding).clone()
    for start, stop in ((0, 5), (5, 6), (7, 37)):
        assert torch.equal(fold("p", base[start:stop], change, start, 1.0, rounding), whole[start:stop])


@pytest.mark.parametrize("columns", [1, 11, 1536])
def test_rows_have_the_same_bits_in_blocks_of_any_height(columns: int) -> None:
    torch.manual_seed(0)
    base, factors = torch.randn(37, columns), (torch.randn(37, 64), torch.randn(64, columns))
    change = Change((37, columns), factors, ())
    whole = fold("p", base, change, 0, 0.5, Rounding()).clone()
    expected = base.double() + 0.5 * (factors[0].double() @ factors[1].double())
    assert (whole - expected).abs().max() < 1e-4
    if ONEDNN:
        for start, stop in ((0, 36), (5, 6), (36, 37)):
            assert torch.equal(fold("p", base[start:stop], change, start, 0.5, Rounding()), whole[start:stop])


@pytest.mark.skipif(not ONEDNN, reason="torch has no oneDNN here")
def test_the_right_factor_is_packed_once_for_all_blocks() -> None:
    change = Change((4, 3), (torch.ones(4, 2), torch.ones(2, 3)), ())
    first = fold("p", torch.zeros(2, 3), change, 0, 1.0, Rounding())
    packed = change.packed
    assert torch.equal(fold("p", torch.zeros(2, 3), change, 2, 1.0, Rounding()), first)
    assert change.packed is packed
