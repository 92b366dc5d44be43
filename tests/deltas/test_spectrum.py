"""Spectra against dense singular value decompositions, and the edges of noise against noise."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import wsteer
from tests.deltas.test_diff import change, nudged
from tests.helpers.merging import EXPERTS, adapter_on, save_architecture
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.deltas.spectrum import Spectrum, matrices, spectra
from wsteer.errors import WsteerError
from wsteer.files.text import read_csv


def found_in(path: Path) -> dict[tuple[str, int | None], Spectrum]:
    return {(each.parameter, each.part): each for each in spectra(Delta.load(path))}


def of_tensors(folder: Path, **tensors: torch.Tensor) -> dict[str, Spectrum]:
    Delta.of_tensors(tensors).save(folder / "d.safetensors", force=True)
    return {each.parameter: each for each in spectra(Delta.load(folder / "d.safetensors"))}


def expect(found: Spectrum, matrix: torch.Tensor, rank: int | None = None) -> None:
    """The values, norm, stable rank, edge and counts of a dense matrix, by numpy in float64."""
    exact = np.linalg.svd(matrix.double().numpy(), compute_uv=False)
    exact = exact[: len(exact) if rank is None else rank]
    np.testing.assert_allclose(found.values.numpy(), exact, rtol=0, atol=2e-7 * exact[0])
    norm = np.linalg.norm(matrix.double().numpy())
    height, width = matrix.shape
    edge = (norm / math.sqrt(height * width)) * (math.sqrt(height) + math.sqrt(width))
    assert found.shape == (height, width)
    assert found.square**0.5 == pytest.approx(norm, rel=1e-6)
    assert found.edge == pytest.approx(edge, rel=1e-6)
    assert found.stable_rank == pytest.approx((norm / exact[0]) ** 2, rel=1e-5)
    assert found.above == int((exact > edge).sum())


def test_low_rank_spectra_are_those_of_the_dense_products(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, seed=1, rank_pattern={"q_proj": 7})
    neg = save_adapter(tmp_path / "neg", tiny, seed=2, r=3, target_modules=["q_proj", "up_proj"])
    wsteer.diff(pos, neg, tmp_path / "w.safetensors")
    found = found_in(tmp_path / "w.safetensors")
    ranks = {"q_proj": 10, "up_proj": 7}
    assert len(found) == 21
    for (name, part), each in found.items():
        assert part is None
        expect(each, change(tmp_path / "w.safetensors", name), ranks.get(each.module, 4))
        assert each.values.dtype == torch.float64


@pytest.mark.parametrize("shape", [(23, 23), (40, 12), (12, 40), (1, 9), (9, 1)])
def test_dense_spectra_in_blocks_are_those_of_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr("wsteer.files.tensors.BLOCK_BYTES", 4 * shape[1] * 5)
    monkeypatch.setattr("wsteer.deltas.spectrum.COLUMNS", 7)
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    expect(of_tensors(tmp_path, w=matrix)["w"], matrix)


def test_tied_embeddings_and_conv1d_have_the_spectra_of_their_changes(tmp_path: Path) -> None:
    base = save_architecture(tmp_path / "base", "gpt2")
    adapter = adapter_on(base, tmp_path / "a", seed=1, target_modules=["c_attn", "wte"], r=3)
    wsteer.diff(adapter, output=tmp_path / "w.safetensors")
    found = found_in(tmp_path / "w.safetensors")
    assert {each.module for each in found.values()} == {"c_attn", "wte"}
    for (name, _), each in found.items():
        expect(each, change(tmp_path / "w.safetensors", name), 3)


@pytest.mark.slow
def test_stacked_experts_count_one_by_one(tmp_path: Path) -> None:
    base = save_architecture(tmp_path / "base", "gpt_oss")
    config = {"target_modules": ["q_proj"], "target_parameters": EXPERTS, "r": 2}
    wsteer.diff(adapter_on(base, tmp_path / "a", seed=1, **config), output=tmp_path / "w.safetensors")
    found = found_in(tmp_path / "w.safetensors")
    stacks = {name for name, part in found if part is not None}
    assert len(stacks) == 6 and all("experts" in name for name in stacks)
    for name in stacks:
        exact = change(tmp_path / "w.safetensors", name)
        for part, matrix in enumerate(exact):
            expect(found[name, part], matrix, 2)


def test_which_matrices_a_parameter_has() -> None:
    assert matrices("norm.weight", (7,)) == [] == matrices("scalar", ()) == matrices("empty.weight", (0, 4))
    assert matrices("q_proj.weight", (5, 7)) == [(None, (5, 7))]
    assert matrices("experts.gate_up_proj", (2, 5, 7)) == [(0, (5, 7)), (1, (5, 7))]
    assert matrices("block_sparse_moe.input_linear.weight", (1, 5, 7)) == [(0, (5, 7))]
    assert matrices("mixer.conv1d.weight", (6, 1, 4)) == [(None, (6, 4))]
    assert matrices("patch_embed.proj.weight", (6, 3, 2, 2)) == [(None, (6, 12))]


def test_kernels_of_convolutions_are_one_matrix(tmp_path: Path) -> None:
    kernel = torch.randn(6, 2, 4)
    expect(of_tensors(tmp_path, **{"conv1d.weight": kernel})["conv1d.weight"], kernel.flatten(1))


def test_noise_stays_below_the_edge_and_planted_directions_stand_above(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(300, 200, generator=generator)
    left = torch.linalg.qr(torch.randn(300, 3, generator=generator)).Q
    right = torch.linalg.qr(torch.randn(200, 3, generator=generator)).Q
    planted = noise + 60 * left @ right.T  # noise alone reaches about 31.5
    found = of_tensors(tmp_path, noise=noise, planted=planted)
    assert found["noise"].above <= 1  # the largest value of noise fluctuates about its edge
    assert float(found["noise"].values[0]) == pytest.approx(found["noise"].edge, rel=0.03)
    assert found["planted"].above == 3
    assert found["planted"].random_b_edge is None  # no factors


def test_a_random_b_stays_below_its_edge_and_a_learned_one_stands_above(tmp_path: Path) -> None:
    """Of a product of rank 16 most values stand above the Marchenko-Pastur edge, whatever B is."""
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(16, 128, generator=generator) * torch.linspace(0.5, 2, 16)[:, None]
    b = torch.randn(256, 16, generator=generator)
    learned = b + 8 * torch.randn(256, 1, generator=generator) * torch.randn(1, 16, generator=generator) / 4
    delta = Delta.of_factors({"noise.weight": (b, a), "learned.weight": (learned, a)})
    delta.save(tmp_path / "d.safetensors")
    found = {each.parameter: each for each in spectra(Delta.load(tmp_path / "d.safetensors"))}
    noise, learned_one = found["noise.weight"], found["learned.weight"]
    assert (noise.above_random_b, learned_one.above_random_b) == (0, 1)
    assert noise.above > 4
    norm = float((b.double() @ a.double()).norm())
    scales = np.linalg.svd(a.double().numpy(), compute_uv=False)
    expected = norm * (1 + math.sqrt(16 / 256)) * scales[0] / np.linalg.norm(scales)
    assert noise.random_b_edge == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_factors_that_a_truncation_made_have_no_random_b(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors", rank=3)
    again = wsteer.diff(tmp_path / "w.safetensors", output=tmp_path / "v.safetensors", spectrum=tmp_path / "s")
    assert {each.random_b_edge for each in found_in(tmp_path / "v.safetensors").values()} == {None}
    assert {each.above_random_b for each in again.spectrum.modules.values()} == {None}


def test_matrices_of_zeros_have_no_values(tmp_path: Path) -> None:
    stack = torch.randn(3, 4, 5)
    stack[1] = 0
    delta = {"experts.up": stack}
    Delta.of_tensors(delta).save(tmp_path / "e.safetensors")
    factors = {"a.weight": (torch.zeros(4, 2), torch.randn(2, 5)), "b.weight": (torch.ones(4, 2), torch.zeros(2, 5))}
    Delta.of_factors(factors).save(tmp_path / "f.safetensors")
    for path, zeros in (("e", [("experts.up", 1)]), ("f", [("a.weight", None), ("b.weight", None)])):
        for key in zeros:
            each = found_in(tmp_path / f"{path}.safetensors")[key]
            assert (len(each.values), each.square, each.stable_rank, each.above, each.edge) == (0, 0, None, 0, 0)
    report = wsteer.diff(tmp_path / "e.safetensors", output=tmp_path / "w.safetensors", spectrum=tmp_path / "s")
    assert (report.spectrum.matrices, report.spectrum.modules["experts"].matrices) == (3, 2)


@pytest.mark.slow
def test_the_tables_hold_every_value_and_every_matrix(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors", spectrum=tmp_path / "s")
    found = found_in(tmp_path / "w.safetensors")
    names = sorted(path.name for path in (tmp_path / "s").iterdir())
    assert names == ["matrices.csv", "spectrum.csv", "spectrum.png", "spectrum.svg", "wsteer.json"]
    _, values = read_csv(tmp_path / "s" / "spectrum.csv")
    assert len(values) == 21 * 8
    for row in values:
        each = found[row["parameter"], None]
        value = float(each.values[int(row["index"])])
        assert float(row["singular_value"]) == pytest.approx(value, rel=1e-12)
        assert float(row["energy"]) == pytest.approx(value**2 / each.square, rel=1e-9)
    _, rows = read_csv(tmp_path / "s" / "matrices.csv")
    assert [row["parameter"] for row in rows] == sorted(Delta.load(tmp_path / "w.safetensors").terms)
    for row in rows:
        each = found[row["parameter"], None]
        assert (int(row["layer"]), row["module"]) == (int(each.layer), each.module)
        for name in ("stable_rank", "edge", "above", "random_b_edge", "above_random_b"):
            assert float(row[name]) == pytest.approx(getattr(each, name))
    assert math.fsum(float(row["norm"]) ** 2 for row in rows) == pytest.approx(report.norm**2, rel=1e-6)
    of_q = [each for each in found.values() if each.module == "q_proj"]
    summary = report.spectrum.modules["q_proj"]
    assert summary.matrices == 3
    assert summary.stable_rank == pytest.approx(sorted(each.stable_rank for each in of_q)[1])
    assert summary.above == sorted(each.above for each in of_q)[1]


@pytest.mark.slow
def test_the_spectrum_is_of_what_is_written(tmp_path: Path, tiny: Path) -> None:
    tuned = nudged(tmp_path / "p", tiny, seed=1)
    options = {"rank": 4, "complement": True, "selection": Selection(layers=[1])}
    report = wsteer.diff(tuned, tiny, tmp_path / "w.safetensors", spectrum=tmp_path / "s", **options)
    assert report.spectrum.matrices == 3
    wsteer.diff(tuned, tiny, tmp_path / "whole.safetensors")
    for (name, _), each in found_in(tmp_path / "w.safetensors").items():
        exact = torch.linalg.svdvals(change(tmp_path / "w.safetensors", name))[:28]
        torch.testing.assert_close(each.values, exact, rtol=1e-5, atol=0)  # a rank of 32 less 4


@pytest.mark.slow
def test_the_same_delta_gives_the_same_bytes_of_its_spectrum(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    for name in ("s", "t"):
        wsteer.diff(*adapters, tmp_path / "w.safetensors", spectrum=tmp_path / name, force=True)
    for path in (tmp_path / "s").iterdir():
        assert path.read_bytes() == (tmp_path / "t" / path.name).read_bytes()


def test_what_has_no_spectrum_or_no_place_for_it_is_refused(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    Delta.of_tensors({"model.norm.weight": torch.ones(4)}).save(tmp_path / "v.safetensors")
    with pytest.raises(WsteerError, match="vectors alone, which have no singular values"):
        wsteer.diff(tmp_path / "v.safetensors", output=tmp_path / "w", spectrum=tmp_path / "s")
    Delta.of_tensors({"blocks.0": torch.ones(4)}, kind="activation").save(tmp_path / "a.safetensors")
    with pytest.raises(WsteerError, match="vectors alone"):
        wsteer.diff(tmp_path / "a.safetensors", output=tmp_path / "w", spectrum=tmp_path / "s")
    for output, folder in (("s/w", "s"), ("s", "s"), ("s", "s/t")):
        with pytest.raises(WsteerError, match="places of their own"):
            wsteer.diff(*adapters, tmp_path / output, spectrum=tmp_path / folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    for force, message in ((False, "--spectrum .* exists; name a new folder"), (True, "did not write")):
        with pytest.raises(WsteerError, match=message):
            wsteer.diff(*adapters, tmp_path / "w", spectrum=tmp_path / "mine", force=force)
    with pytest.raises(WsteerError, match="is the input"):
        wsteer.diff(*adapters, tmp_path / "w", spectrum=adapters[0], force=True)
    assert not (tmp_path / "w").exists() and not (tmp_path / "s").exists()


def test_if_no_delta_can_be_written_there_is_no_spectrum(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    with pytest.raises(WsteerError, match="changes nothing"):
        wsteer.diff(adapters[0], adapters[0], tmp_path / "w", spectrum=tmp_path / "s")
    assert list(tmp_path.iterdir()) == []
