"""Sums over parameters on a device, against dense float64 matrices."""

import numpy as np
import pytest
import torch

from tests.helpers.dense_changes import OF_MATRICES
from wsteer.deltas.gram import grouped_sums
from wsteer.errors import WsteerError
from wsteer.models.devices import float64_device

CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"))


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_sums_on_a_device_are_those_of_dense_matrices(device: str) -> None:
    deltas, wholes = zip(*(build() for build in OF_MATRICES.values()), strict=True)
    sums = grouped_sums([delta.terms for delta in deltas], 3, lambda name: "", device=device)[""]
    on_cpu = grouped_sums([delta.terms for delta in deltas], 3, lambda name: "")[""]
    for i, one in enumerate(wholes):
        for j, other in enumerate(wholes[:3]):
            expected = sum((one[name] * other[name]).sum() for name in one.keys() & other.keys())
            scale = np.sqrt(float(sums.whole[i] * sums.whole[j]))
            assert float(sums.dots[i, j]) == pytest.approx(expected, abs=1e-9 * scale)
    for key in ("overlaps", "variances", "likenesses", "chances", "squares", "column_squares", "whole"):
        found = getattr(sums, key)
        assert found.device.type == "cpu"
        torch.testing.assert_close(found, getattr(on_cpu, key), rtol=1e-9, atol=1e-12)


def test_devices_without_float64_are_refused() -> None:
    for device, reason in (("mps", "it has no float64"), ("gpu", "must be one of auto, cpu, cuda, mps")):
        with pytest.raises(WsteerError, match=reason):
            float64_device(device)
    if not torch.cuda.is_available():
        assert float64_device("auto") == "cpu"
        with pytest.raises(WsteerError, match="no CUDA device"):
            float64_device("cuda:1")
