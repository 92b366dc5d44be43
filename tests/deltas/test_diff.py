"""POS - NEG of adapters, checkpoints and delta files."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForCausalLM

import wsteer
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.merging import adapter_on, train, weights
from tests.helpers.tiny import save_adapter, save_model
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.errors import WsteerError


def change(path: Path, name: str) -> torch.Tensor:
    delta = Delta.load(path)
    return delta.change(name).rows(0, delta.shape(name)[0]).double()


def nudged(folder: Path, base: Path, seed: int, std: float = 1e-2, only: str = "mlp") -> Path:
    """A copy of the checkpoint `base` with noise on the parameters whose name holds `only`."""
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
    pos, neg = (adapter_factors(folder) for folder in adapters)
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
    assert report.norm == pytest.approx(report.norm_pos, rel=1e-12)
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
    b, a = adapter_factors(adapters[0])[name]
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
    with pytest.raises(WsteerError, match="in wide; was it made on another"):
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


def test_a_rank_keeps_the_largest_singular_components_of_factors(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    full = wsteer.diff(*adapters, tmp_path / "full.safetensors")
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors", rank=3)
    kept = total = 0.0
    for name in Delta.load(tmp_path / "full.safetensors").terms:
        exact = change(tmp_path / "full.safetensors", name)
        u, s, v = torch.linalg.svd(exact)
        best = u[:, :3] * s[:3] @ v[:3]
        torch.testing.assert_close(change(tmp_path / "w.safetensors", name), best, rtol=0, atol=1e-6)
        kept, total = kept + float((s[:3] ** 2).sum()), total + float((s**2).sum())
    assert (report.rank, report.low_rank) == (3, 21)
    assert report.retained == pytest.approx(kept / total, rel=1e-6)
    assert report.norm == pytest.approx(kept**0.5, rel=1e-5)
    assert full.retained is None
    assert report.cos_pos_neg == pytest.approx(full.cos_pos_neg)


def test_a_rank_makes_dense_changes_low_rank(tmp_path: Path, tiny: Path) -> None:
    pos = nudged(tmp_path / "p", tiny, seed=1, std=1e-3)
    path = pos / "model.safetensors"
    tensors = load_file(path)
    torch.manual_seed(0)
    name = "model.layers.1.mlp.up_proj.weight"
    tensors[name] = load_file(tiny / "model.safetensors")[name] + torch.randn(48, 2) @ torch.randn(2, 32)
    tensors["model.norm.weight"] += 1
    save_file(tensors, path, metadata={"format": "pt"})
    report = wsteer.diff(pos, tiny, tmp_path / "w.safetensors", rank=2)
    wsteer.diff(pos, tiny, tmp_path / "full.safetensors")
    exact = change(tmp_path / "full.safetensors", name)
    torch.testing.assert_close(change(tmp_path / "w.safetensors", name), exact, rtol=0, atol=1e-5)
    assert (report.low_rank, report.dense, report.rank) == (9, 1, 2)
    assert "which are no matrices" in report.warnings[0]
    other = "model.layers.0.mlp.gate_proj.weight"
    s = torch.linalg.svdvals(change(tmp_path / "full.safetensors", other))
    best = float((s[:2] ** 2).sum())
    kept = float((change(tmp_path / "w.safetensors", other) ** 2).sum())
    assert best * 0.97 < kept <= best * (1 + 1e-6)  # noise without a direction: the hardest case
    first = (tmp_path / "w.safetensors").read_bytes()
    wsteer.diff(pos, tiny, tmp_path / "w.safetensors", rank=2, force=True)
    assert (tmp_path / "w.safetensors").read_bytes() == first


def test_energy_is_told_by_layer_and_by_module(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors")
    squares = {}
    for name in Delta.load(tmp_path / "w.safetensors").terms:
        squares[name] = float((change(tmp_path / "w.safetensors", name) ** 2).sum())
    total = sum(squares.values())
    assert list(report.layers) == ["0", "1", "2"]
    for layer, share in report.layers.items():
        assert share == pytest.approx(sum(s for n, s in squares.items() if f"layers.{layer}." in n) / total, rel=1e-6)
    for module, share in report.modules.items():
        assert share == pytest.approx(sum(s for n, s in squares.items() if f".{module}." in n) / total, rel=1e-6)
    assert sum(report.modules.values()) == pytest.approx(1)
    assert report.norm_ratio == pytest.approx(report.norm_pos / report.norm_neg)


def test_different_targets_and_ranks_are_united_and_said(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, seed=1, target_modules=["q_proj", "v_proj"], r=2)
    neg = save_adapter(tmp_path / "neg", tiny, seed=2, target_modules=["v_proj", "up_proj"], r=6)
    report = wsteer.diff(pos, neg, tmp_path / "w.safetensors")
    assert (report.parameters, report.pos_only, report.neg_only, report.rank) == (9, 3, 3, 8)
    factors = [adapter_factors(folder) for folder in (pos, neg)]
    for name in Delta.load(tmp_path / "w.safetensors").terms:
        expected = sum(
            sign * side[name][0].double() @ side[name][1].double()
            for sign, side in zip((1, -1), factors, strict=True)
            if name in side
        )
        torch.testing.assert_close(change(tmp_path / "w.safetensors", name), expected, rtol=0, atol=1e-8)


def test_entries_below_half_an_ulp_of_16_bit_checkpoints_are_counted(tmp_path: Path, tiny_bf16: Path) -> None:
    pos = nudged(tmp_path / "p", tiny_bf16, seed=1, std=2e-5)
    report = wsteer.diff(pos, tiny_bf16, tmp_path / "w.safetensors")
    equal = entries = 0
    for path in tiny_bf16.glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            other = load_file(pos / path.name)[name]
            if not torch.equal(other, tensor):
                equal, entries = equal + int((other == tensor).sum()), entries + tensor.numel()
    assert report.below_half_ulp == pytest.approx(equal / entries)
    assert "cannot resolve" in report.warnings[0]
    assert wsteer.diff(tmp_path / "w.safetensors", output=tmp_path / "v.safetensors").below_half_ulp is None


def test_layers_and_names_select_what_is_written(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    selection = Selection(layers=[1, 2], include="mlp", exclude="down")
    report = wsteer.diff(*adapters, tmp_path / "w.safetensors", selection=selection)
    names = {f"model.layers.{i}.mlp.{kind}.weight" for i in (1, 2) for kind in ("gate_proj", "up_proj")}
    assert set(Delta.load(tmp_path / "w.safetensors").terms) == names
    assert report.norm_pos < wsteer.diff(*adapters, tmp_path / "all.safetensors").norm_pos


def test_differences_of_deltas_subtract_term_by_term(tmp_path: Path, adapters: tuple[Path, Path], tiny: Path) -> None:
    for side, name in zip(adapters, "pn", strict=True):
        wsteer.diff(side, output=tmp_path / f"{name}.safetensors")
    wsteer.diff(tmp_path / "p.safetensors", tmp_path / "n.safetensors", tmp_path / "w.safetensors")
    wsteer.diff(*adapters, tmp_path / "direct.safetensors")
    w, direct = (Delta.load(tmp_path / f"{name}.safetensors") for name in ("w", "direct"))
    assert (w - direct).norm() < 1e-7 * direct.norm()


@pytest.mark.slow
@pytest.mark.parametrize(
    "configs",
    [
        ({"use_dora": True}, {"use_dora": True}),
        ({"init_lora_weights": "pissa", "r": 2}, {"init_lora_weights": "pissa", "r": 4}),
        ({"init_lora_weights": "olora", "use_dora": True}, {}),
        ({"modules_to_save": ["norm"]}, {"use_rslora": True}),
    ],
    ids=["two DoRA", "PiSSA of two ranks", "OLoRA with DoRA and plain", "saved modules on one side"],
)
def test_variants_are_subtracted_as_their_merges_are(tmp_path: Path, tiny: Path, configs: tuple[dict, dict]) -> None:
    sides = [adapter_on(tiny, tmp_path / f"{seed}", seed=seed, **config) for seed, config in enumerate(configs)]
    merged = []
    for side in sides:
        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
        merged.append(weights(PeftModel.from_pretrained(model, side).merge_and_unload()))
    base = weights(AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32))
    report = wsteer.diff(*sides, tmp_path / "w.safetensors")
    delta = Delta.load(tmp_path / "w.safetensors")
    names = [name for name in base if name != "the head"]
    for name in names:
        expected = merged[0][name] - merged[1][name]
        actual = change(tmp_path / "w.safetensors", name) if name in delta.terms else torch.zeros_like(expected)
        torch.testing.assert_close(actual, expected, rtol=0, atol=3e-6)
    taus = [torch.cat([(side[name] - base[name]).flatten() for name in names]) for side in merged]
    assert report.norm_pos == pytest.approx(float(taus[0].norm()), rel=1e-4)
    assert report.norm_neg == pytest.approx(float(taus[1].norm()), rel=1e-4)
    cosine = float(taus[0] @ taus[1] / (taus[0].norm() * taus[1].norm()))
    assert report.cos_pos_neg == pytest.approx(cosine, abs=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@pytest.mark.parametrize("form", ["safetensors", "bin", "shards without an index"])
def test_checkpoints_of_every_type_and_form_are_subtracted(tmp_path: Path, dtype: torch.dtype, form: str) -> None:
    stored = []
    for seed, side in enumerate("pn"):
        (tmp_path / side).mkdir()
        (tmp_path / side / "config.json").write_text("{}")
        generator = torch.Generator().manual_seed(seed)
        tensors = {f"layers.{i}.w": torch.randn(9, 7, generator=generator).to(dtype) for i in (0, 1)}
        tensors["layers.0.ids"] = torch.arange(5) + seed  # whole numbers are no weights
        if form == "bin":
            torch.save(tensors, tmp_path / side / "pytorch_model.bin")
        elif form == "safetensors":
            save_file(tensors, tmp_path / side / "model.safetensors")
        else:
            for number, name in enumerate(tensors, 1):
                save_file({name: tensors[name]}, tmp_path / side / f"model-{number:05}-of-00003.safetensors")
        stored.append(tensors)
    report = wsteer.diff(tmp_path / "p", tmp_path / "n", tmp_path / "w.safetensors")
    assert set(Delta.load(tmp_path / "w.safetensors").terms) == {"layers.0.w", "layers.1.w"}
    assert (report.below_half_ulp is None) == (dtype == torch.float64)
    for name in ("layers.0.w", "layers.1.w"):
        expected = stored[0][name].double() - stored[1][name].double()
        torch.testing.assert_close(change(tmp_path / "w.safetensors", name), expected, rtol=1e-6, atol=0)


def test_sides_that_name_different_bases_are_pointed_out(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    """Where the bases were never seen, or are of one architecture, nothing else tells."""
    for side, folder, base in zip("pnm", (*adapters, adapters[1]), ("org/one", "org/two", "fork/ONE"), strict=True):
        shutil.copytree(folder, tmp_path / side)
        path = tmp_path / side / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": base}))
    report = wsteer.diff(tmp_path / "p", tmp_path / "n", tmp_path / "w.safetensors")
    assert "the named bases differ, org/one and org/two" in report.warnings[0]
    assert wsteer.diff(tmp_path / "p", tmp_path / "m", tmp_path / "v.safetensors").warnings == ()


@pytest.mark.parametrize("neg_form", ["adapter", "delta file"])
def test_sides_meet_under_the_names_of_the_base_that_one_of_them_has(tmp_path: Path, tiny: Path, neg_form: str) -> None:
    """Adapters of the inner model lack its prefix; read without the base, one would pass for other parameters."""
    sides = []
    for seed, side in enumerate("pn"):
        inner = AutoModel.from_pretrained(tiny, dtype=torch.float32)
        config = {"target_modules": ["q_proj"], "modules_to_save": ["norm"], "task_type": "FEATURE_EXTRACTION"}
        sides.append(train(inner, tmp_path / side, seed=seed, **config))
    wsteer.diff(*sides, tmp_path / "expected.safetensors")
    path = sides[1] / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "org/tiny-llama"}))
    neg = sides[1]
    if neg_form == "delta file":
        neg = tmp_path / "n.safetensors"
        Delta.of_tensors({"layers.0.input_layernorm.weight": torch.ones(32)}).save(neg)
    report = wsteer.diff(sides[0], neg, tmp_path / "w.safetensors")
    names = Delta.load(tmp_path / "w.safetensors").terms
    assert all(name.startswith("model.") for name in names)
    if neg_form == "adapter":
        w, expected = (Delta.load(tmp_path / f"{name}.safetensors") for name in ("w", "expected"))
        assert (w - expected).norm() < 1e-6 * expected.norm()
        assert (report.pos_only, report.neg_only, report.warnings) == (0, 0, ())


def test_a_folder_of_an_adapter_and_a_whole_model_is_refused(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    both = shutil.copytree(tiny, tmp_path / "both")
    shutil.copytree(adapters[0], both, dirs_exist_ok=True)
    with pytest.raises(WsteerError, match="holds an adapter and a whole model"):
        wsteer.diff(both, adapters[1], tmp_path / "w.safetensors")
