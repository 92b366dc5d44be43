"""What the closest change of a rank leaves: both parts add up, are orthogonal, and equal a dense SVD's."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.deltas.test_diff import change, nudged
from tests.helpers.merging import save_architecture
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError


def parts(pos: Path, neg: Path | None, folder: Path, rank: int, **options: object) -> list[Delta]:
    """The whole delta, its part of this rank, and what that leaves; the reports' norms and shares are checked."""
    names = ("whole", "part", "left")
    reports = [
        wsteer.diff(pos, neg, folder / f"{name}.safetensors", force=True, **settings, **options)
        for name, settings in zip(names, ({}, {"rank": rank}, {"rank": rank, "complement": True}), strict=True)
    ]
    whole, part, left = reports
    assert part.norm**2 + left.norm**2 == pytest.approx(whole.norm**2, rel=1e-6)
    assert part.retained + left.retained == pytest.approx(1, rel=1e-6)
    assert (whole.complement_of, part.complement_of, left.complement_of) == (None, None, rank)
    for field in ("norm_pos", "norm_neg", "cos_pos_neg", "cos_drift"):  # of the sides, whatever is written
        values = [getattr(report, field) for report in reports]
        assert values[0] is None or values[1:] == pytest.approx([values[0]] * 2, rel=1e-12)
    return [Delta.load(folder / f"{name}.safetensors") for name in names]


def rows(delta: Delta, name: str) -> torch.Tensor:
    return delta.change(name).rows(0, delta.shape(name)[0]).double() if name in delta.terms else torch.zeros(())


@pytest.mark.slow
def test_the_complement_of_factors_is_the_rest_of_a_dense_svd(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, seed=1, r=4, rank_pattern={"q_proj": 7})
    neg = save_adapter(tmp_path / "neg", tiny, seed=2, r=3, target_modules=["q_proj", "up_proj"])
    whole, part, left = parts(pos, neg, tmp_path, rank=3)
    assert all(left.is_low_rank(name) for name in left.terms)
    assert {left.rank(name) for name in left.terms} == {1, 4, 7}
    for name in whole.terms:
        exact = rows(whole, name)
        u, s, v = torch.linalg.svd(exact)
        size = min(exact.shape)
        rest = u[:, 3:size] * s[3:size] @ v[3:size]
        torch.testing.assert_close(rows(left, name), rest, rtol=0, atol=1e-8)
        torch.testing.assert_close(rows(part, name) + rows(left, name), exact, rtol=0, atol=1e-8)


def test_parameters_that_the_part_holds_whole_are_left_out(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, seed=1, r=2, rank_pattern={"q_proj": 5})
    _, _, left = parts(pos, None, tmp_path, rank=2)
    assert left.terms.keys() == {f"model.layers.{i}.self_attn.q_proj.weight" for i in range(3)}
    with pytest.raises(WsteerError, match="the part of rank 5 is the whole delta, and leaves nothing; lower --rank"):
        wsteer.diff(pos, output=tmp_path / "none.safetensors", rank=5, complement=True)
    assert not (tmp_path / "none.safetensors").exists()


def test_columns_of_factors_that_cancel_leave_nothing(tmp_path: Path) -> None:
    """Ranks of the sides add up, although both share their A: what is left is float64's rounding."""
    a, b = torch.randn(4, 9), torch.randn(2, 12, 4)
    for side, path in zip(b, "pn", strict=True):
        Delta.of_factors({"w": (side, a), f"only.{path}": (side, a)}).save(tmp_path / path)
    _, _, left = parts(tmp_path / "p", tmp_path / "n", tmp_path, rank=3)
    assert {left.rank(name) for name in ("only.p", "only.n")} == {1}
    with pytest.raises(WsteerError, match="leaves nothing"):
        wsteer.diff(tmp_path / "p", tmp_path / "n", tmp_path / "l", rank=4, complement=True)


@pytest.mark.parametrize("tied", [False, True])
def test_the_complement_of_dense_changes_is_dense_and_exact(tmp_path: Path, tiny: Path, tied: bool) -> None:
    base = save_architecture(tmp_path / "base", "llama", tie_word_embeddings=tied)
    pos, neg = (nudged(tmp_path / side, base, seed, only="") for seed, side in enumerate("pn"))
    tensors = load_file(pos / "model.safetensors")
    torch.manual_seed(0)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] += torch.randn(48, 2) @ torch.randn(2, 32)
    save_file(tensors, pos / "model.safetensors", metadata={"format": "pt"})
    whole, part, left = parts(pos, neg, tmp_path, rank=2)
    matrices = {name for name in whole.terms if len(whole.shape(name)) == 2}
    assert left.terms.keys() == matrices < whole.terms.keys()
    assert not any(left.is_low_rank(name) for name in left.terms)
    for each in whole.terms:
        exact = rows(whole, each)
        torch.testing.assert_close(rows(part, each) + rows(left, each), exact, rtol=0, atol=1e-6)
    u, s, v = torch.linalg.svd(rows(whole, name))
    torch.testing.assert_close(rows(left, name), u[:, 2:32] * s[2:32] @ v[2:32], rtol=0, atol=1e-4)


def test_a_complement_says_what_the_part_holds_whole(tmp_path: Path, tiny: Path) -> None:
    tuned = nudged(tmp_path / "p", tiny, seed=1, only="layers.0")
    report = wsteer.diff(tuned, tiny, tmp_path / "w.safetensors", rank=2, complement=True)
    assert report.warnings == ("2 parameters are no matrices: --rank keeps them dense, the complement lacks them",)


def test_stacked_experts_and_small_matrices_are_in_the_part(tmp_path: Path) -> None:
    torch.manual_seed(0)
    tensors = {"experts.up": torch.randn(3, 6, 4), "small.weight": torch.randn(2, 9), "w.weight": torch.randn(7, 9)}
    Delta.of_tensors(tensors).save(tmp_path / "d.safetensors")
    whole, part, left = parts(tmp_path / "d.safetensors", None, tmp_path, rank=2)
    assert left.terms.keys() == {"w.weight"}
    for name in whole.terms:
        torch.testing.assert_close(rows(part, name) + rows(left, name), tensors[name].double(), rtol=0, atol=1e-5)


def test_dense_complements_in_several_blocks_and_threads_are_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsteer.files.tensors.BLOCK_BYTES", 4 * 20 * 3)  # three rows
    Delta.of_tensors({f"{i}.weight": torch.randn(17, 20) for i in range(3)}).save(tmp_path / "d.safetensors")
    parts(tmp_path / "d.safetensors", None, tmp_path, rank=4)
    first = (tmp_path / "left.safetensors").read_bytes()
    whole, part, left = parts(tmp_path / "d.safetensors", None, tmp_path, rank=4)
    assert (tmp_path / "left.safetensors").read_bytes() == first
    for name in whole.terms:
        torch.testing.assert_close(rows(part, name) + rows(left, name), rows(whole, name), rtol=0, atol=1e-6)


def test_a_complement_needs_a_rank(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    with pytest.raises(WsteerError, match="give --rank R"):
        wsteer.diff(*adapters, tmp_path / "w.safetensors", complement=True)


def test_the_share_of_equal_entries_is_that_of_the_whole_delta(tmp_path: Path, tiny_bf16: Path) -> None:
    pos = nudged(tmp_path / "p", tiny_bf16, seed=1, std=2e-5)
    whole, left = (
        wsteer.diff(pos, tiny_bf16, tmp_path / f"{number}.safetensors", **options)
        for number, options in enumerate(({}, {"rank": 1, "complement": True}))
    )
    assert left.below_half_ulp == whole.below_half_ulp
    assert "cannot resolve" in left.warnings[0]


def test_the_metadata_tells_rank_and_complement(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors", rank=2, complement=True)
    assert Delta.load(tmp_path / "w.safetensors").options == {"rank": 2, "complement": True}
    wsteer.diff(tmp_path / "w.safetensors", output=tmp_path / "u.safetensors", rank=1)
    assert Delta.load(tmp_path / "u.safetensors").options == {"rank": 1}
    wsteer.diff(tmp_path / "w.safetensors", output=tmp_path / "copy.safetensors")
    assert Delta.load(tmp_path / "copy.safetensors").options == {"rank": 2, "complement": True}
    wsteer.diff(*adapters, tmp_path / "v.safetensors")
    assert Delta.load(tmp_path / "v.safetensors").options == {}
    assert change(tmp_path / "w.safetensors", "model.layers.0.self_attn.q_proj.weight").shape == (32, 32)
