"""The bisector: unit τ⁺ minus unit τ⁻, for sides of unequal length."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.deltas.test_diff import change, nudged
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.merging import adapter_on
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError


def products(folder: Path) -> dict[str, torch.Tensor]:
    return {name: b.double() @ a.double() for name, (b, a) in adapter_factors(folder).items()}


def unit(change: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    norm = sum(float((each**2).sum()) for each in change.values()) ** 0.5
    return {name: each / norm for name, each in change.items()}


def expect(path: Path, pos: dict[str, torch.Tensor], neg: dict[str, torch.Tensor], atol: float = 1e-8) -> None:
    pos, neg = unit(pos), unit(neg)
    delta = Delta.load(path)
    assert delta.terms.keys() == pos.keys() | neg.keys()
    for name in delta.terms:
        expected = pos.get(name, 0) - neg.get(name, 0)
        torch.testing.assert_close(change(path, name), expected, rtol=0, atol=atol)


@pytest.fixture(scope="module")
def unequal(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Adapters whose changes differ in length, rank and targets."""
    folder = tmp_path_factory.mktemp("unequal")
    pos = save_adapter(folder / "pos", tiny, seed=1, std=0.1)
    return pos, save_adapter(folder / "neg", tiny, seed=2, r=2, target_modules=["q_proj", "down_proj"])


def test_the_bisector_of_adapters_is_low_rank_and_exact(tmp_path: Path, unequal: tuple[Path, Path]) -> None:
    plain = wsteer.diff(*unequal, tmp_path / "plain.safetensors")
    report = wsteer.diff(*unequal, tmp_path / "w.safetensors", bisector=True)
    expect(tmp_path / "w.safetensors", *map(products, unequal))
    assert plain.norm_ratio > 10
    assert (report.kind, report.bisector, report.dense) == ("contrastive", True, 0)
    for name in ("norm_pos", "norm_neg", "cos_pos_neg", "norm_drift", "drift_ratio"):  # of the sides as they are
        assert getattr(report, name) == getattr(plain, name)
    # it halves the angle: equal cosines with τ⁺ and -τ⁻
    taus = [Delta.of_factors(adapter_factors(folder)) for folder in unequal]
    w = Delta.load(tmp_path / "w.safetensors")
    assert w.cosine(taus[0]) == pytest.approx(-w.cosine(taus[1]), abs=1e-7)
    assert report.norm == pytest.approx((2 - 2 * report.cos_pos_neg) ** 0.5, rel=1e-6)
    assert w.options == {"bisector": True}


def test_norms_are_taken_over_what_is_selected(tmp_path: Path, unequal: tuple[Path, Path]) -> None:
    wsteer.diff(*unequal, tmp_path / "w", bisector=True, selection=Selection(layers=[0, 2], include="q_proj|down"))
    part = [
        {n: t for n, t in products(folder).items() if "layers.1" not in n and ("q_proj" in n or "down" in n)}
        for folder in unequal
    ]
    expect(tmp_path / "w", *part)
    with pytest.raises(WsteerError, match="neg changes nothing in what is selected"):
        wsteer.diff(*unequal, tmp_path / "v", bisector=True, selection=Selection(include="up_proj"))


def test_the_bisector_of_checkpoints_needs_the_base_and_keeps_small_changes(tmp_path: Path, tiny: Path) -> None:
    """Scaled one by one in float32, three large tensors would lose a change of 1e-6."""
    pos, neg = (nudged(tmp_path / side, tiny, seed, std) for seed, (side, std) in enumerate((("p", 1e-6), ("n", 2e-6))))
    with pytest.raises(WsteerError, match="--bisector needs the task vectors of both sides; name their base"):
        wsteer.diff(pos, neg, tmp_path / "w.safetensors", bisector=True)
    wsteer.diff(pos, neg, tmp_path / "w.safetensors", base=tiny, bisector=True)
    loaded = [load_file(folder / "model.safetensors") for folder in (pos, neg, tiny)]
    taus = [{n: side[n].double() - loaded[2][n].double() for n in side if "mlp" in n} for side in loaded[:2]]
    delta = Delta.load(tmp_path / "w.safetensors")
    assert delta.terms.keys() == taus[0].keys()  # what neither side touched is not in it
    pos_unit, neg_unit = map(unit, taus)
    for name in delta.terms:
        expected = pos_unit[name] - neg_unit[name]
        torch.testing.assert_close(change(tmp_path / "w.safetensors", name), expected, rtol=3e-7, atol=1e-9)


@pytest.mark.slow
def test_the_bisector_of_dora_reads_the_base(tmp_path: Path, tiny: Path) -> None:
    sides = [adapter_on(tiny, tmp_path / f"{seed}", seed=seed, use_dora=True) for seed in (1, 2)]
    for side in sides:
        wsteer.diff(side, output=tmp_path / f"{side.name}.safetensors")
    wsteer.diff(*sides, tmp_path / "w.safetensors", bisector=True)
    taus = [Delta.load(tmp_path / f"{side.name}.safetensors") for side in sides]
    expected = (1 / taus[0].norm()) * taus[0] - (1 / taus[1].norm()) * taus[1]
    assert (Delta.load(tmp_path / "w.safetensors") - expected).norm() < 1e-5


@pytest.mark.slow
def test_each_seed_is_bisected_by_its_own_norms(tmp_path: Path, tiny: Path, unequal: tuple[Path, Path]) -> None:
    for side, folder in zip(("pos", "neg"), unequal, strict=True):
        shutil.copytree(folder, tmp_path / side / "seed-0")
        save_adapter(tmp_path / side / "seed-1", tiny, seed=5 if side == "pos" else 6, std=0.3)
    report = wsteer.diff(tmp_path / "pos", tmp_path / "neg", tmp_path / "w.safetensors", bisector=True)
    singles = []
    for seed in (0, 1):
        folders = [tmp_path / side / f"seed-{seed}" for side in ("pos", "neg")]
        wsteer.diff(*folders, tmp_path / f"{seed}.safetensors", bisector=True)
        singles.append(Delta.load(tmp_path / f"{seed}.safetensors"))
    mean = 0.5 * (singles[0] + singles[1])
    assert (Delta.load(tmp_path / "w.safetensors") - mean).norm() < 1e-6
    assert report.cos_seeds[0][1] == pytest.approx(singles[0].cosine(singles[1]), abs=1e-6)


def test_sides_in_one_direction_have_no_bisector(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(adapters[0], output=tmp_path / "a.safetensors")
    tensors = load_file(tmp_path / "a.safetensors")
    tensors = {name: 2 * value if name.endswith("lora_B") else value for name, value in tensors.items()}
    scaled = Delta.of_factors(
        {n[:-7]: (tensors[f"{n[:-7]}.lora_B"], tensors[n]) for n in tensors if n.endswith("lora_A")}
    )
    scaled.save(tmp_path / "b.safetensors")
    with pytest.raises(WsteerError, match="changes nothing against"):
        wsteer.diff(tmp_path / "b.safetensors", tmp_path / "a.safetensors", tmp_path / "w", bisector=True)
    with pytest.raises(WsteerError, match="changes nothing against"):
        wsteer.diff(adapters[0], adapters[0], tmp_path / "w", bisector=True)


def test_a_side_that_changes_nothing_has_no_direction(tmp_path: Path, tiny: Path) -> None:
    tuned = nudged(tmp_path / "p", tiny, seed=1)
    with pytest.raises(WsteerError, match="changes nothing in what is selected, so it has no direction"):
        wsteer.diff(tuned, tiny, tmp_path / "w", base=tiny, bisector=True)
    broken = shutil.copytree(tuned, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.weight"][0, 0] = float("inf")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WsteerError, match="broken holds NaN or infinity"):
        wsteer.diff(broken, tuned, tmp_path / "w", base=tiny, bisector=True)


def test_the_bisector_needs_two_sides(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    with pytest.raises(WsteerError, match="give NEG"):
        wsteer.diff(adapters[0], output=tmp_path / "w", bisector=True)


@pytest.mark.slow
def test_bisector_rank_complement_and_spectrum_follow_one_another(tmp_path: Path, unequal: tuple[Path, Path]) -> None:
    options = {"bisector": True, "rank": 1, "complement": True, "selection": Selection(include="q_proj")}
    report = wsteer.diff(*unequal, tmp_path / "w", spectrum=tmp_path / "s", **options)
    taus = [{n: t for n, t in products(folder).items() if "q_proj" in n} for folder in unequal]
    pos, neg = map(unit, taus)
    values = {name: torch.linalg.svdvals(pos[name] - neg[name]) for name in pos}
    assert report.norm**2 == pytest.approx(sum(float((s[1:] ** 2).sum()) for s in values.values()), rel=1e-5)
    assert report.spectrum.matrices == 3
    ratios = sorted(float((s[1:] ** 2).sum() / s[1] ** 2) for s in values.values())
    assert report.spectrum.modules["q_proj"].stable_rank == pytest.approx(ratios[1], rel=1e-5)
