"""POS - NEG of adapters, checkpoints and delta files."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.conftest import save_adapter, save_model
from wsteer import Delta
from wsteer.adapter import read_adapter
from wsteer.errors import WsteerError


def change(path: Path, name: str) -> torch.Tensor:
    delta = Delta.load(path)
    return delta.change(name).rows(0, delta.shape(name)[0]).double()


def nudged(folder: Path, base: Path, seed: int, std: float = 1e-2, only: str = "mlp") -> Path:
    """A copy of the checkpoint `base` with noise on the parameters whose name holds `only`."""
    import shutil

    shutil.copytree(base, folder)
    generator = torch.Generator().manual_seed(seed)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name in sorted(name for name in tensors if only in name):
            noise = std * torch.randn(tensors[name].shape, generator=generator)
            tensors[name] = (tensors[name].float() + noise).to(tensors[name].dtype)
        save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_two_adapters_give_the_exact_low_rank_difference(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors")
    pos, neg = (read_adapter(folder).factors for folder in adapters)
    for name in pos:
        expected = pos[name][0].double() @ pos[name][1].double() - neg[name][0].double() @ neg[name][1].double()
        torch.testing.assert_close(change(tmp_path / "w.safetensors", name), expected, rtol=0, atol=1e-8)
    assert (report.kind, report.low_rank, report.dense, report.rank) == ("contrastive", 21, 0, 8)
    tau_pos, tau_neg = (Delta.of_factors(factors) for factors in (pos, neg))
    assert report.norm_pos == pytest.approx(tau_pos.norm())
    assert report.norm_neg == pytest.approx(tau_neg.norm())
    assert report.cos_pos_neg == pytest.approx(tau_pos.cosine(tau_neg))
    assert report.norm == pytest.approx((tau_pos - tau_neg).norm())
    assert report.bytes == (tmp_path / "w.safetensors").stat().st_size


def test_one_adapter_gives_its_task_vector(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    report = wsteer.diff(adapters[0], output=tmp_path / "t.safetensors")
    delta = Delta.load(tmp_path / "t.safetensors")
    assert report.kind == delta.kind == "task_vector"
    assert delta.base["name"] == "tiny-llama"
    assert delta.sources[0]["path"] == "pos"
    assert report.norm == report.norm_pos
    assert report.cos_pos_neg is None


def test_two_checkpoints_give_a_dense_difference_of_what_differs(tmp_path: Path, tiny: Path) -> None:
    pos, neg = nudged(tmp_path / "p", tiny, seed=1), nudged(tmp_path / "n", tiny, seed=2)
    report = wsteer.diff(pos, neg, tmp_path / "w.safetensors")
    a, b = (load_file(folder / "model.safetensors") for folder in (pos, neg))
    differing = {name for name in a if not torch.equal(a[name], b[name])}
    assert Delta.load(tmp_path / "w.safetensors").terms.keys() == differing
    for name in differing:
        assert torch.equal(change(tmp_path / "w.safetensors", name).float(), a[name] - b[name])
    assert (report.low_rank, report.dense, report.rank) == (0, 9, None)
    assert report.norm_pos is report.norm_neg is report.cos_pos_neg is None
    assert report.warnings == ()


def test_sharded_bf16_checkpoints_against_their_base(tmp_path: Path, tiny_bf16: Path) -> None:
    pos, neg = nudged(tmp_path / "p", tiny_bf16, seed=1), nudged(tmp_path / "n", tiny_bf16, seed=2)
    report = wsteer.diff(pos, neg, tmp_path / "w.safetensors", base=tiny_bf16)
    loaded = [
        {k: v for p in sorted(f.glob("*.safetensors")) for k, v in load_file(p).items()} for f in (pos, neg, tiny_bf16)
    ]
    taus = [
        torch.cat([(side[name].double() - loaded[2][name].double()).flatten() for name in loaded[2]])
        for side in loaded[:2]
    ]
    assert report.norm_pos == pytest.approx(float(taus[0].norm()), rel=1e-6)
    assert report.norm_neg == pytest.approx(float(taus[1].norm()), rel=1e-6)
    assert report.cos_pos_neg == pytest.approx(float(taus[0] @ taus[1] / (taus[0].norm() * taus[1].norm())), abs=1e-6)
    assert report.norm == pytest.approx(float((taus[0] - taus[1]).norm()), rel=1e-6)
    assert report.dense == 9  # what neither side touched is not in the delta, though the base took part
    for name in Delta.load(tmp_path / "w.safetensors").terms:
        expected = loaded[0][name].float() - loaded[1][name].float()
        assert torch.equal(change(tmp_path / "w.safetensors", name).float(), expected)


def test_checkpoint_against_base_is_a_task_vector_and_alone_an_error(tmp_path: Path, tiny: Path) -> None:
    tuned = nudged(tmp_path / "p", tiny, seed=1)
    report = wsteer.diff(tuned, output=tmp_path / "t.safetensors", base=tiny)
    assert (report.kind, report.dense) == ("task_vector", 9)
    with pytest.raises(WsteerError, match="--base"):
        wsteer.diff(tuned, output=tmp_path / "u.safetensors")


def test_adapter_minus_checkpoint_needs_and_takes_the_base(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    tuned = nudged(tmp_path / "p", tiny, seed=1)
    with pytest.raises(WsteerError, match="--base"):
        wsteer.diff(adapters[0], tuned, tmp_path / "w.safetensors")
    wsteer.diff(adapters[0], tuned, tmp_path / "w.safetensors", base=tiny)
    name = "model.layers.0.mlp.up_proj.weight"
    base, after = (load_file(folder / "model.safetensors")[name] for folder in (tiny, tuned))
    b, a = read_adapter(adapters[0]).factors[name]
    expected = b.double() @ a.double() - (after.double() - base.double())
    torch.testing.assert_close(change(tmp_path / "w.safetensors", name), expected, rtol=0, atol=1e-7)


def test_delta_files_are_subtracted_too(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    for side, folder in zip(("p", "n"), adapters, strict=True):
        wsteer.diff(folder, output=tmp_path / side)
    wsteer.diff(tmp_path / "p", tmp_path / "n", tmp_path / "w.safetensors")
    wsteer.diff(*adapters, tmp_path / "v.safetensors")
    assert Delta.load(tmp_path / "w.safetensors").cosine(Delta.load(tmp_path / "v.safetensors")) == pytest.approx(1)


def test_a_16_bit_pair_that_cannot_resolve_its_difference_warns(tmp_path: Path, tiny_bf16: Path) -> None:
    pos, neg = (nudged(tmp_path / side, tiny_bf16, seed, std=1e-6) for seed, side in enumerate("pn"))
    report = wsteer.diff(pos, neg, tmp_path / "w.safetensors")
    assert "cannot resolve" in report.warnings[0]


def test_different_bases_are_an_error(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    wide = save_model(tmp_path / "wide", intermediate_size=64)
    other = save_adapter(tmp_path / "other", wide, seed=1)
    with pytest.raises(WsteerError, match="different base"):
        wsteer.diff(adapters[0], other, tmp_path / "w.safetensors")
    with pytest.raises(WsteerError, match="the bases differ"):
        wsteer.diff(wide, save_model(tmp_path / "narrow"), tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_a_base_that_is_not_the_adapters_is_an_error(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    wide = save_model(tmp_path / "wide", intermediate_size=64)
    with pytest.raises(WsteerError, match="different bases"):
        wsteer.diff(adapters[0], output=tmp_path / "t.safetensors", base=wide)


def test_a_delta_alone_keeps_its_kind(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    assert wsteer.diff(tmp_path / "w.safetensors", output=tmp_path / "v.safetensors").kind == "contrastive"


def test_a_difference_of_nothing_is_an_error(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    for side in (adapters[0], tiny):
        with pytest.raises(WsteerError, match="changes nothing"):
            wsteer.diff(side, side, tmp_path / "w.safetensors")


def test_nan_in_an_input_is_an_error(tmp_path: Path, tiny: Path) -> None:
    broken = nudged(tmp_path / "broken", tiny, seed=1, std=float("nan"), only="norm")
    with pytest.raises(WsteerError, match="NaN"):
        wsteer.diff(broken, tiny, tmp_path / "w.safetensors")


def test_same_input_gives_the_same_bytes(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    for name in ("x", "y"):
        wsteer.diff(*adapters, tmp_path / name)
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()
