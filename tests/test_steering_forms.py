"""What steer writes besides one checkpoint in the base's dtype: sweeps, adapters, deltas, other dtypes, biases."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import wsteer
from tests.conftest import SIZES, Cli, save_adapter, save_model
from tests.folding import adapter_factors, stored_tensors
from tests.merging import EXPERTS, adapter_on, save_architecture, train
from wsteer.deltas.delta import Delta
from wsteer.deltas.selection import Selection
from wsteer.deltas.terms import Change
from wsteer.errors import WsteerError
from wsteer.steering.export import export
from wsteer.steering.folding import fold
from wsteer.steering.rounding import Rounding, rounded_stochastically

TOKENS = torch.arange(40)[None] * 6


def logits(folder: Path, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    """The logits of a checkpoint that loads without a missing or an unexpected tensor."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    with torch.no_grad():
        return model.eval()(TOKENS).logits


@pytest.fixture(scope="module")
def small(tiny_bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A bfloat16 base and a delta that is small beside its ulps."""
    folder = tmp_path_factory.mktemp("small")
    pos, neg = (save_adapter(folder / side, tiny_bf16, seed, std=2e-3) for seed, side in enumerate(("pos", "neg")))
    wsteer.diff(pos, neg, folder / "w.safetensors")
    return tiny_bf16, folder / "w.safetensors"


def same_weights(one: Path, other: Path) -> bool:
    names = sorted(path.name for path in one.glob("*.safetensors"))
    assert names == sorted(path.name for path in other.glob("*.safetensors"))
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


@pytest.mark.parametrize("rounding", ["nearest", "stochastic", "auto"])
def test_a_sweep_gives_the_bytes_of_single_runs(tmp_path: Path, small: tuple[Path, Path], rounding: str) -> None:
    base, w = small
    report = wsteer.steer(base, w, sweep=[-2, 0, 1.5], output=tmp_path / "sweep", rounding=rounding)
    assert [Path(path).name for path in report.outputs] == ["k-2", "k0", "k1.5"]
    for k in (-2, 0, 1.5):
        wsteer.steer(base, w, k=k, output=tmp_path / "one", rounding=rounding, force=True)
        assert same_weights(tmp_path / "one", tmp_path / "sweep" / f"k{k}")
    assert same_weights(base, tmp_path / "sweep" / "k0")
    assert (tmp_path / "sweep" / "k-2" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_auto_rounds_stochastically_where_nearest_would_undo_the_change(tmp_path: Path, small: tuple) -> None:
    base, w = small
    nearest = wsteer.steer(base, w, k=1, output=tmp_path / "nearest", rounding="nearest")
    auto = wsteer.steer(base, w, k=1, output=tmp_path / "auto")
    assert nearest.gain < 0.9
    assert (auto.rounding, auto.gain) == ("stochastic", pytest.approx(1, abs=0.2))
    assert "keeps" in auto.steered[0].reason
    assert wsteer.steer(base, w, k=500, output=tmp_path / "large").rounding == "nearest"
    assert auto.steered[0].gains.keys() == Delta.load(w).terms.keys()


def test_stochastic_rounding_keeps_the_mean_and_depends_on_the_seed_alone(tmp_path: Path, small: tuple) -> None:
    base, w = small
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        wsteer.steer(base, w, k=1, output=tmp_path / name, rounding="stochastic", seed=seed)
    assert same_weights(tmp_path / "a", tmp_path / "b")
    assert not same_weights(tmp_path / "a", tmp_path / "c")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    with wsteer.applied(
        model, Delta.load(w), 1.0, wsteer.checkpoints.checkpoint.open_checkpoint(base), "stochastic", 1
    ):
        after = stored_tensors(tmp_path / "c")
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, after[name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_unbiased_and_leaves_what_the_dtype_holds(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    held = torch.cat([torch.randn(1000), torch.randn(1000) * 1e-6, torch.zeros(2)]).to(dtype)
    kept = rounded_stochastically(held.float().clone(), dtype, 0, "name", 5)
    assert torch.equal(kept.to(dtype), held)
    for value in (0.0123456, -3.3e-6, 1e-3):
        many = torch.full((1 << 18,), value)
        rounded = rounded_stochastically(many.clone(), dtype, 7, "name", 0)
        assert torch.equal(rounded, rounded.to(dtype).float())
        assert 1 <= len(rounded.unique()) <= 2
        spread = float(rounded.unique().max() - rounded.unique().min())
        assert float(rounded.double().mean()) == pytest.approx(float(many[0]), abs=max(spread, 1e-12) * 5 / 2**9)


def test_noise_of_an_element_is_a_function_of_its_index(tmp_path: Path) -> None:
    torch.manual_seed(0)
    base, factors = torch.randn(37, 11).bfloat16(), (torch.randn(37, 2) * 1e-3, torch.randn(2, 11))
    change, rounding = Change((37, 11), factors, ()), Rounding("stochastic", 3)
    whole = fold("p", base, change, 0, 1.0, rounding).clone()
    for start, stop in ((0, 5), (5, 6), (7, 37)):
        assert torch.equal(fold("p", base[start:stop], change, start, 1.0, rounding), whole[start:stop])


def test_float32_output_of_a_bf16_base_is_the_exact_fold(tmp_path: Path, small: tuple[Path, Path]) -> None:
    base, w = small
    report = wsteer.steer(base, w, k=-2, output=tmp_path / "out", dtype="float32")
    before, after, delta = stored_tensors(base), stored_tensors(tmp_path / "out"), Delta.load(w)
    assert (report.rounding, report.gain) == ("nearest", pytest.approx(1, abs=1e-4))
    for name, tensor in after.items():
        assert tensor.dtype == torch.float32
        expected = before[name].double()
        if name in delta.terms:
            expected = expected - 2 * delta.change(name).rows(0, tensor.shape[0]).double()
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-6, atol=1e-9)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["dtype"] == "float32"
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(4 * tensor.numel() for tensor in after.values())
    assert logits(tmp_path / "out").shape == (1, 40, SIZES["vocab_size"])


def test_16_bit_output_of_a_float32_base(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    wsteer.diff(*adapters, tmp_path / "w.safetensors")
    wsteer.steer(tiny, tmp_path / "w.safetensors", k=1, output=tmp_path / "out", dtype="float16")
    wsteer.steer(tiny, tmp_path / "w.safetensors", k=1, output=tmp_path / "exact")
    for name, tensor in stored_tensors(tmp_path / "exact").items():
        assert torch.equal(stored_tensors(tmp_path / "out")[name], tensor.half())


def test_a_base_in_pytorchs_format_becomes_safetensors(tmp_path: Path, small: tuple[Path, Path]) -> None:
    base, w = small
    wsteer.steer(base, w, k=1, output=tmp_path / "expected")
    pickled = tmp_path / "pickled"
    shutil.copytree(base, pickled)
    shards = sorted(pickled.glob("*.safetensors"))
    for path in shards:
        torch.save(
            load_file(path), pickled / path.name.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        )
        path.unlink()
    index = json.loads((pickled / "model.safetensors.index.json").read_text())
    (pickled / "model.safetensors.index.json").unlink()
    weight_map = {
        name: file.replace("model-", "pytorch_model-").replace("safetensors", "bin")
        for name, file in index["weight_map"].items()
    }
    (pickled / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    wsteer.steer(pickled, w, k=1, output=tmp_path / "out")
    expected, actual = stored_tensors(tmp_path / "expected"), stored_tensors(tmp_path / "out")
    assert actual.keys() == expected.keys()
    assert all(torch.equal(actual[name], expected[name]) for name in expected)
    assert not list((tmp_path / "out").glob("*.bin*"))
    logits(tmp_path / "out")


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_float_types_are_folded_and_integers_pass_through(tmp_path: Path, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    base = tmp_path / "base"
    base.mkdir()
    stored = {
        "layers.0.w": torch.randn(20, 30).to(dtype),
        "layers.0.ids": torch.arange(7),
        "layers.0.scale": torch.randn(6).to(torch.float8_e4m3fn),
    }
    save_file(stored, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    factors = (torch.randn(20, 3), torch.randn(3, 30))
    Delta.of_factors({"layers.0.w": factors}).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=0.5, output=tmp_path / "out")
    after = stored_tensors(tmp_path / "out")
    expected = stored["layers.0.w"].double() + 0.5 * factors[0].double() @ factors[1].double()
    bound = {"rtol": 1e-3, "atol": 1e-6} if dtype == torch.float16 else {"rtol": 1e-6, "atol": 1e-6}
    torch.testing.assert_close(after["layers.0.w"].double(), expected, **bound)
    assert torch.equal(after["layers.0.ids"], stored["layers.0.ids"])
    assert torch.equal(after["layers.0.scale"].view(torch.uint8), stored["layers.0.scale"].view(torch.uint8))
    for name in ("layers.0.ids", "layers.0.scale"):
        Delta.of_tensors({name: torch.ones(stored[name].shape)}).save(tmp_path / "e.safetensors", force=True)
        with pytest.raises(WsteerError, match="use an unquantised checkpoint"):
            wsteer.steer(base, tmp_path / "e.safetensors", k=1, output=tmp_path / "x")


def test_zero_in_a_sweep_that_unties_is_the_base_itself(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    rows = stored_tensors(base)["model.embed_tokens.weight"].shape
    factors = {"lm_head.weight": (torch.randn(rows[0], 1), torch.randn(1, rows[1]))}
    replace(Delta.of_factors(factors), untied=True).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", sweep=[0, 1], output=tmp_path / "out")
    assert same_weights(base, tmp_path / "out" / "k0")
    assert (tmp_path / "out" / "k0" / "config.json").read_bytes() == (base / "config.json").read_bytes()
    assert "lm_head.weight" in stored_tensors(tmp_path / "out" / "k1")


@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_gives_the_logits_of_the_folded_model(tmp_path: Path, tied: bool) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=tied)
    targets = {"target_modules": ["q_proj", "down_proj", "embed_tokens"]}
    pos, neg = (
        save_adapter(tmp_path / side, base, seed, std=0.1, use_rslora=seed == 1, **targets)
        for seed, side in enumerate(("pos", "neg"))
    )
    wsteer.diff(pos, neg, tmp_path / "w.safetensors")
    report = export(base, tmp_path / "w.safetensors", k=-1.5, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(base, tmp_path / "w.safetensors", k=-1.5, output=tmp_path / "folded")
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["use_rslora"], report.rank) == (8, 8, False, 8)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        adapted = model.eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=2e-5)
    assert wsteer.diff(tmp_path / "adapter", output=tmp_path / "back.safetensors").low_rank == report.parameters
    back, w = Delta.load(tmp_path / "back.safetensors"), Delta.load(tmp_path / "w.safetensors")
    assert (back - -1.5 * w).norm() < 1e-6 * w.norm()


@pytest.mark.parametrize("targets", [["embed_tokens", "q_proj"], ["embed_tokens", "lm_head"], ["lm_head"]])
@pytest.mark.parametrize("kept", [True, False], ids=["kept tied", "untied"])
def test_an_adapter_of_a_tied_base_gives_the_logits_of_the_folded_model(
    tmp_path: Path, targets: list[str], kept: bool
) -> None:
    """An adapter's modules change one by one: a change of the one tied tensor takes factors of both."""
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    folder = adapter_on(base, tmp_path / "pos", target_modules=targets, ensure_weight_tying=kept)
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    assert Delta.load(tmp_path / "t.safetensors").untied is not kept
    export(base, tmp_path / "t.safetensors", k=-1.5, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(base, tmp_path / "t.safetensors", k=-1.5, output=tmp_path / "folded")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        adapted = model.eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=5e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_an_adapter_for_files_of_the_inner_model_names_the_whole_ones_modules(tmp_path: Path, model_type: str) -> None:
    """peft loads an adapter of other names without an error, and leaves the model as it was."""
    whole = save_architecture(tmp_path / "whole", model_type, tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
    model.base_model.save_pretrained(tmp_path / "inner")
    folder = train(model, tmp_path / "pos", target_modules=["q_proj", "c_attn"])
    wsteer.diff(folder, output=tmp_path / "t.safetensors", base=tmp_path / "inner")
    names = Delta.load(tmp_path / "t.safetensors").terms
    assert all(name.startswith(("layers.", "h.")) for name in names)
    export(tmp_path / "inner", tmp_path / "t.safetensors", k=1, output=tmp_path / "adapter", form="adapter")
    both = []
    for adapter in (folder, tmp_path / "adapter"):
        fresh = AutoModelForCausalLM.from_pretrained(whole, dtype=torch.float32)
        with torch.no_grad():
            both.append(PeftModel.from_pretrained(fresh, adapter).eval()(TOKENS).logits)
    torch.testing.assert_close(both[1], both[0], rtol=0, atol=2e-5)
    assert not torch.allclose(both[0], logits(whole, torch.float32), atol=1e-4)


@pytest.mark.parametrize("model_type", ["mixtral", "qwen3_moe"])
def test_an_adapter_of_a_router_is_loaded_by_peft(tmp_path: Path, model_type: str) -> None:
    base = save_architecture(tmp_path / "base", model_type)
    config = {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}
    folder = adapter_on(base, tmp_path / "pos", **config)
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    export(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "folded")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / "adapter")
    with torch.no_grad():
        adapted = model.eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=5e-5)
    fused = adapter_on(base, tmp_path / "experts", target_modules=["q_proj"], target_parameters=EXPERTS)
    wsteer.diff(fused, output=tmp_path / "u.safetensors")
    with pytest.raises(WsteerError, match="PEFT cannot adapt the experts one by one"):
        export(base, tmp_path / "u.safetensors", k=1, output=tmp_path / "x", form="adapter")


def test_an_adapter_of_gpt2_has_its_orientation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=SIZES["vocab_size"])
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "base")
    pos = save_adapter(tmp_path / "pos", tmp_path / "base", 0, std=0.1, target_modules=["c_attn", "c_proj", "c_fc"])
    wsteer.diff(pos, output=tmp_path / "t.safetensors")
    export(tmp_path / "base", tmp_path / "t.safetensors", k=2, output=tmp_path / "adapter", form="adapter")
    wsteer.steer(tmp_path / "base", tmp_path / "t.safetensors", k=2, output=tmp_path / "folded")
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()(TOKENS).logits
    torch.testing.assert_close(adapted, logits(tmp_path / "folded", torch.float32), rtol=0, atol=2e-5)


def test_the_rank_is_padded_to_one_that_vllm_accepts(tmp_path: Path, tiny: Path) -> None:
    pos = save_adapter(tmp_path / "pos", tiny, 0, r=10, target_modules=["q_proj", "v_proj"], rank_pattern={"v_proj": 3})
    wsteer.diff(pos, output=tmp_path / "t.safetensors")
    export(tiny, tmp_path / "t.safetensors", sweep=[-1, 1], output=tmp_path / "out", form="adapter")
    for name in ("k-1", "k1"):
        tensors = load_file(tmp_path / "out" / name / "adapter_model.safetensors")
        assert {tensor.shape[0] for key, tensor in tensors.items() if "lora_A" in key} == {16}
    with pytest.raises(WsteerError, match="changes as a whole"):
        Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "dense.safetensors")
        export(tiny, tmp_path / "dense.safetensors", k=1, output=tmp_path / "x", form="adapter")


def test_sums_and_multiples_of_deltas_as_a_delta(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    for side, name in zip(adapters, "pn", strict=True):
        wsteer.diff(side, output=tmp_path / f"{name}.safetensors")
    paths = [tmp_path / "p.safetensors", tmp_path / "n.safetensors"]
    report = export(tiny, paths, k=[2, -0.5], output=tmp_path / "sum.safetensors", form="delta")
    written = Delta.load(report.output)
    pos, neg = (adapter_factors(side) for side in adapters)
    for name in pos:
        (b_pos, a_pos), (b_neg, a_neg) = ([factor.double() for factor in side[name]] for side in (pos, neg))
        expected = 2 * b_pos @ a_pos - 0.5 * b_neg @ a_neg
        change = written.change(name).rows(0, expected.shape[0]).double()
        torch.testing.assert_close(change, expected, rtol=0, atol=1e-7)
    assert (written.kind, written.options["k"]) == ("combination", [2.0, -0.5])


def test_layers_names_and_layer_scale_select_what_is_steered(tmp_path: Path, tiny: Path) -> None:
    names = [f"model.layers.{i}.{kind}.weight" for i in range(3) for kind in ("input_layernorm", "mlp.up_proj")]
    stored = stored_tensors(tiny)
    Delta.of_tensors({name: torch.ones(stored[name].shape) for name in [*names, "model.norm.weight"]}).save(
        tmp_path / "d.safetensors"
    )
    cases = [
        (Selection(layers=[1]), {names[2]: 1, names[3]: 1}),
        (Selection(include="up_proj", exclude=r"layers\.2"), {names[1]: 1, names[3]: 1}),
        (Selection(include="layernorm", layer_scale=(0, 1)), {names[2]: 0.5, names[4]: 1}),
        (
            Selection(include="layernorm|model.norm", layer_scale=(0.5, 1.5)),
            {names[0]: 0.5, names[2]: 1, names[4]: 1.5, "model.norm.weight": 0.5},
        ),
    ]
    for selection, expected in cases:
        wsteer.steer(tiny, tmp_path / "d.safetensors", k=2, output=tmp_path / "out", selection=selection, force=True)
        after = stored_tensors(tmp_path / "out")
        for name, tensor in after.items():
            torch.testing.assert_close(tensor, stored[name] + 2 * expected.get(name, 0))
    for selection, reason in [
        (Selection(layers=[7]), "has nothing in"),
        (Selection(include="nowhere"), "leave nothing"),
        (Selection(exclude="("), "no regular expression"),
        (Selection(layers=[0], layer_scale=(0, 1)), "--layer-scale 0:1 leaves nothing"),
    ]:
        with pytest.raises(WsteerError, match=reason):
            wsteer.steer(tiny, tmp_path / "d.safetensors", k=1, output=tmp_path / "x", selection=selection)


def test_a_dry_run_says_what_would_be_written(tmp_path: Path, small: tuple[Path, Path], cli: Cli) -> None:
    base, w = small
    ran = cli("steer", base, w, "--sweep=-1,1", "-o", tmp_path / "out", "--dry-run", "--json")
    assert not (tmp_path / "out").exists()
    assert ran.json["dry_run"] and ran.json["parameters_changed"] == 21
    wsteer.steer(base, w, sweep=[-1, 1], output=tmp_path / "out")
    written = {path.name: path.stat().st_size for path in (tmp_path / "out" / "k1").glob("*.safetensors")}
    assert {file["name"]: file["bytes"] for file in ran.json["files"]} == written
    assert ran.json["bytes"] == 2 * sum(written.values())
    text = cli("steer", base, w, "--k", 1, "-o", tmp_path / "other", "--dry-run")
    assert "nothing written" in text.out and "tensors touched" in text.out


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("tied", [False, True])
def test_baked_vectors_equal_hooks(tmp_path: Path, kind: str, tied: bool) -> None:
    base = save_model(tmp_path / "base", kind=kind, tie_word_embeddings=tied, shard="20KB")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.copy_(torch.randn(parameter.shape) * 0.1)
    model.float().save_pretrained(base)
    vectors = {f"blocks.{block}": torch.randn(32) for block in (0, 2)}
    Delta.of_tensors(vectors, kind="activation").save(tmp_path / "a.safetensors")
    biases = {f"model.layers.{i}.mlp.down_proj.bias": vectors[f"blocks.{i}"] for i in (0, 2)}
    Delta.of_tensors(biases).save(tmp_path / "b.safetensors")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    with torch.no_grad(), wsteer.applied(model, Delta.load(tmp_path / "a.safetensors"), 1.5):
        hooked = model(TOKENS).logits
    with torch.no_grad(), wsteer.applied(model, Delta.load(tmp_path / "b.safetensors"), 1.5):
        torch.testing.assert_close(model(TOKENS).logits, hooked, rtol=0, atol=1e-12)
    for delta in ("a", "b"):
        wsteer.steer(base, tmp_path / f"{delta}.safetensors", k=1.5, output=tmp_path / delta)
        torch.testing.assert_close(logits(tmp_path / delta), hooked, rtol=0, atol=1e-6)
        config = json.loads((tmp_path / delta / "config.json").read_text())
        assert (config["model_type"], config["mlp_bias"], config["architectures"]) == (
            "llama",
            True,
            ["LlamaForCausalLM"],
        )
        assert config["tie_word_embeddings"] is tied


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma2", "qwen3"])
def test_vectors_are_not_baked_where_that_is_not_the_same_model(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(kind, **SIZES, head_dim=8)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "base")
    Delta.of_tensors({"blocks.0": torch.ones(32)}, kind="activation").save(tmp_path / "a.safetensors")
    with pytest.raises(WsteerError, match="eval --delta"):
        wsteer.steer(tmp_path / "base", tmp_path / "a.safetensors", k=1, output=tmp_path / "out")
    assert not (tmp_path / "out").exists()
