"""Every kind of LoRA adapter gives the weights that peft's own merge gives; what cannot be exact is refused by name."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import transformers
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

import wsteer
from tests.conftest import SIZES, save_adapter, save_model
from wsteer import Delta
from wsteer.adapter import read_adapter
from wsteer.errors import WsteerError

MOE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "shared_expert_intermediate_size": 40,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 8},
    "gpt_oss": {"num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8},
}
EXPERTS = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]


def save_architecture(folder: Path, model_type: str, **changes: object) -> Path:
    """A tiny random checkpoint of any architecture that transformers knows."""
    torch.manual_seed(0)
    sizes = {**SIZES, "tie_word_embeddings": False, **MOE.get(model_type, {}), **changes}
    if model_type == "gpt2":
        sizes = {
            "n_embd": 32,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 64,
            "vocab_size": SIZES["vocab_size"],
            **changes,
        }
    config = transformers.AutoConfig.for_model(model_type, **sizes)
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape))  # so that biases and norms are not all alike
    model.save_pretrained(folder)
    return folder


def train(model: nn.Module, folder: Path, seed: int = 0, **config: object) -> Path:
    """An adapter whose trainable values are moved at random, saved by peft."""
    torch.manual_seed(seed)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(model, LoraConfig(**settings))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if parameter.requires_grad or "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    adapted.save_pretrained(folder)
    return folder


def adapter_on(base: Path, folder: Path, **config: object) -> Path:
    """A moved adapter on the checkpoint `base`."""
    return train(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), folder, **config)


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    """The weights that a model runs with, float64: parameters, and the head where it is another tensor."""
    found = {name: parameter.detach().double() for name, parameter in model.named_parameters()}
    return {**found, "the head": model.get_output_embeddings().weight.detach().double()}


def steered_weights(base: Path, adapter: Path, folder: Path) -> dict[str, Tensor]:
    """The weights of the float32 checkpoint that diff and steer make of an adapter, as transformers loads it."""
    wsteer.diff(adapter, output=folder / "t.safetensors", force=True)
    wsteer.steer(base, folder / "t.safetensors", k=1, output=folder / "steered", force=True)
    model, info = AutoModelForCausalLM.from_pretrained(
        folder / "steered", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"] and not info["unexpected_keys"], info
    return weights(model)


def check_equals_peft(base: Path, adapter: Path, folder: Path) -> None:
    """The steered checkpoint has the weights of peft's merge, and differs from the base."""
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = weights(original)
    merged = weights(PeftModel.from_pretrained(original, adapter).merge_and_unload())
    after = steered_weights(base, adapter, folder)
    assert after.keys() == merged.keys()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    for name, expected in merged.items():
        torch.testing.assert_close(
            after[name], expected, rtol=0, atol=2e-6, msg=lambda text, name=name: f"{name}: {text}"
        )


BIASED = {"attention_bias": True, "mlp_bias": True}


@pytest.mark.parametrize(
    ("model", "config"),
    [
        pytest.param({}, {}, id="LoRA on linear layers"),
        pytest.param({}, {"use_rslora": True}, id="rsLoRA"),
        pytest.param(
            {},
            {"rank_pattern": {"q_proj": 2, "model.layers.1.mlp.up_proj": 8}, "alpha_pattern": {"q_proj": 3}},
            id="rank_pattern and alpha_pattern",
        ),
        pytest.param({}, {"target_modules": ["down_proj"], "lora_alpha": 5}, id="one module"),
        pytest.param({}, {"use_dora": True}, id="DoRA on linear layers"),
        pytest.param({}, {"use_dora": True, "use_rslora": True, "bias": "none"}, id="DoRA with rsLoRA"),
        pytest.param({}, {"target_modules": ["embed_tokens"]}, id="LoRA on an embedding"),
        pytest.param({}, {"target_modules": ["embed_tokens"], "use_dora": True}, id="DoRA on an embedding"),
        pytest.param({}, {"target_modules": ["lm_head", "embed_tokens", "q_proj"]}, id="LoRA on head and embedding"),
        pytest.param(BIASED, {"lora_bias": True}, id="lora_bias"),
        pytest.param(BIASED, {"bias": "all", "target_modules": ["q_proj"]}, id="bias=all"),
        pytest.param(BIASED, {"bias": "lora_only", "target_modules": ["q_proj"]}, id="bias=lora_only"),
        pytest.param({}, {"modules_to_save": ["norm"]}, id="modules_to_save that match more than they name"),
        pytest.param({}, {"modules_to_save": ["embed_tokens", "lm_head"]}, id="modules_to_save of the paper"),
        pytest.param({}, {"modules_to_save": ["mlp"], "target_modules": ["q_proj"]}, id="modules_to_save of a block"),
        pytest.param({}, {"trainable_token_indices": [3, 7, 100]}, id="trainable_token_indices"),
        pytest.param({}, {"trainable_token_indices": {"embed_tokens": [5]}}, id="trainable_token_indices by name"),
        pytest.param({}, {"init_lora_weights": "pissa"}, id="PiSSA"),
        pytest.param({}, {"init_lora_weights": "olora"}, id="OLoRA"),
        pytest.param({}, {"init_lora_weights": "gaussian"}, id="gaussian init"),
        pytest.param({}, {"init_lora_weights": "orthogonal"}, id="orthogonal init"),
        pytest.param({}, {"init_lora_weights": "mica"}, id="MiCA"),
    ],
)
def test_steered_weights_equal_pefts_merge(tmp_path: Path, model: dict, config: dict) -> None:
    base = save_architecture(tmp_path / "base", "llama", **model)
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


def test_kasa_takes_the_smallest_singular_components_out_of_the_base(tmp_path: Path, tiny: Path) -> None:
    from peft.tuners.lora.config import KasaConfig

    check_equals_peft(tiny, adapter_on(tiny, tmp_path / "adapter", kasa_config=KasaConfig()), tmp_path)


def test_block_diagonal_factors_are_unfolded(tmp_path: Path, tiny: Path) -> None:
    from peft.tuners.lora.config import BdLoraConfig

    blocks = BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2, match_strict=False)
    config = {"use_bdlora": blocks, "target_modules": ["q_proj", "o_proj", "up_proj"]}
    check_equals_peft(tiny, adapter_on(tiny, tmp_path / "adapter", **config), tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": False},
        {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True},
    ],
    ids=["LoRA", "whatever fan_in_fan_out says", "DoRA"],
)
@pytest.mark.parametrize("prefix", [True, False], ids=["named as in memory", "files without transformer."])
def test_conv1d_of_gpt2(tmp_path: Path, config: dict, prefix: bool) -> None:
    base = save_architecture(tmp_path / "base", "gpt2")
    if not prefix:
        stored = load_file(base / "model.safetensors")
        renamed = {name.removeprefix("transformer."): tensor for name, tensor in stored.items()}
        save_file(renamed, base / "model.safetensors", metadata={"format": "pt"})
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


def test_conv1d_and_the_head_together(tmp_path: Path) -> None:
    """peft flips fan_in_fan_out of the shared config for the linear head: the layer's kind decides, not the config."""
    base = save_architecture(tmp_path / "base", "gpt2", tie_word_embeddings=False)
    config = {"target_modules": ["c_attn", "lm_head"], "fan_in_fan_out": True}
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


@pytest.mark.parametrize("model_type", list(MOE))
def test_fused_experts_adapted_by_target_parameters(tmp_path: Path, model_type: str) -> None:
    base = save_architecture(tmp_path / "base", model_type)
    config = {"target_modules": ["q_proj"], "target_parameters": EXPERTS, "rank_pattern": {"experts.down_proj": 2}}
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)
    names = Delta.load(tmp_path / "t.safetensors").terms
    assert all(name in stored_names(base) for name in names)
    assert any("experts" in name for name in names)


def stored_names(folder: Path) -> set[str]:
    return {name for path in folder.glob("*.safetensors") for name in load_file(path)}


def test_a_plain_matrix_adapted_by_target_parameters(tmp_path: Path) -> None:
    base = save_architecture(tmp_path / "base", "mixtral")
    config = {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"]}
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


def test_experts_named_one_by_one_keep_the_names_of_the_files(tmp_path: Path) -> None:
    """Adapters made by transformers 4, whose modules were the experts of the files."""
    base = save_architecture(tmp_path / "base", "mixtral")
    module = "model.layers.1.block_sparse_moe.experts.2.w1"
    shape = load_file(base / "model.safetensors")[f"{module}.weight"].shape
    torch.manual_seed(0)
    lora_A, lora_B = torch.randn(4, shape[1]), torch.randn(shape[0], 4)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(
        {
            f"base_model.model.{module}.lora_A.weight": lora_A,
            f"base_model.model.{module}.lora_B.weight": lora_B,
        },
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "base_model_name_or_path": str(base)}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    delta = Delta.load(tmp_path / "t.safetensors")
    assert list(delta.terms) == [f"{module}.weight"]
    change = delta.change(f"{module}.weight").rows(0, shape[0])
    torch.testing.assert_close(change.double(), 2 * lora_B.double() @ lora_A.double(), rtol=1e-5, atol=1e-5)


def test_adapters_of_the_inner_model_lack_its_prefix(tmp_path: Path, tiny: Path) -> None:
    inner = AutoModel.from_pretrained(tiny, dtype=torch.float32)
    folder = train(inner, tmp_path / "adapter", task_type="FEATURE_EXTRACTION")
    assert any(name.startswith("base_model.model.layers.") for name in load_file(folder / "adapter_model.safetensors"))
    merged = PeftModel.from_pretrained(AutoModel.from_pretrained(tiny, dtype=torch.float32), folder).merge_and_unload()
    after = steered_weights(tiny, folder, tmp_path)
    for name, expected in merged.named_parameters():
        torch.testing.assert_close(after[f"model.{name}"], expected.detach().double(), rtol=0, atol=2e-6)


def test_a_named_adapter_is_found_in_its_subfolder(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj"]), adapter_name="kind")
    adapted.base_model.model.model.layers[0].self_attn.q_proj.lora_B["kind"].weight.data.fill_(1.0)
    adapted.save_pretrained(tmp_path / "out")
    assert not (tmp_path / "out" / "adapter_config.json").exists()
    report = wsteer.diff(tmp_path / "out", output=tmp_path / "t.safetensors")
    assert report.parameters == 3
    shutil.copytree(tmp_path / "out" / "kind", tmp_path / "out" / "other")
    with pytest.raises(WsteerError, match="several adapters"):
        wsteer.diff(tmp_path / "out", output=tmp_path / "u.safetensors")


TIED = {
    "LoRA on the head": {"target_modules": ["lm_head", "q_proj"]},
    "LoRA on the embedding": {"target_modules": ["embed_tokens"]},
    "LoRA on both": {"target_modules": ["embed_tokens", "lm_head"]},
    "LoRA kept tied": {"target_modules": ["embed_tokens"], "ensure_weight_tying": True},
    "embedding saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "head saved": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "both saved": {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    "saved and kept tied": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens"],
        "ensure_weight_tying": True,
    },
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
}
STAY_TIED = ("LoRA kept tied", "saved and kept tied", "trained tokens")


@pytest.mark.parametrize("shards", ["1GB", "20KB"], ids=["one file", "sharded"])
@pytest.mark.parametrize("case", list(TIED))
def test_tied_embeddings_give_the_logits_of_the_adapter(tmp_path: Path, case: str, shards: str) -> None:
    """peft's merge of a tied head or embedding is wrong, so the unmerged adapter's logits are what must come out."""
    base = save_model(tmp_path / "base", tie_word_embeddings=True, shard=shards)
    folder = adapter_on(base, tmp_path / "adapter", **TIED[case])
    tokens = torch.arange(40)[None] * 6
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with torch.no_grad():
        adapted = PeftModel.from_pretrained(model, folder).eval()(tokens).logits
    report = wsteer.diff(folder, output=tmp_path / "t.safetensors")
    wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out")
    steered, info = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", dtype=torch.float32, output_loading_info=True
    )
    assert not info["missing_keys"]
    with torch.no_grad():
        torch.testing.assert_close(steered(tokens).logits, adapted, rtol=0, atol=2e-5)
        fresh = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        assert not torch.allclose(fresh(tokens).logits, adapted, atol=1e-3)
        with wsteer.applied(fresh, Delta.load(tmp_path / "t.safetensors")):
            torch.testing.assert_close(fresh(tokens).logits, adapted, rtol=0, atol=2e-5)
        assert fresh.get_output_embeddings().weight is fresh.get_input_embeddings().weight
    tied = json.loads((tmp_path / "out" / "config.json").read_text())["tie_word_embeddings"]
    assert tied is (case in STAY_TIED)
    assert report.untied is not tied


def test_a_tied_tensor_counts_once_in_norms(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base", tie_word_embeddings=True)
    folder = adapter_on(base, tmp_path / "adapter", **TIED["saved and kept tied"])
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    delta = Delta.load(tmp_path / "t.safetensors")
    assert "lm_head.weight" not in delta.terms
    stored = load_file(folder / "adapter_model.safetensors")["base_model.model.model.embed_tokens.weight"].double()
    moved = stored - load_file(base / "model.safetensors")["model.embed_tokens.weight"].double()
    assert delta.select_names(include="embed").norm() == pytest.approx(float(moved.norm()), rel=1e-6)


def test_what_both_sides_share_cancels_without_the_base(tmp_path: Path, tiny: Path) -> None:
    """modules_to_save, biases and PiSSA's product are told by the base, which their difference does not need."""
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    for config in ({"modules_to_save": ["norm"]}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}):
        sides = [adapter_on(base, tmp_path / side, seed=i, **config) for i, side in enumerate(("pos", "neg"))]
        merged = []
        for side in sides:
            model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
            merged.append(weights(PeftModel.from_pretrained(model, side).merge_and_unload()))
        moved = base.rename(tmp_path / "elsewhere")
        report = wsteer.diff(*sides, tmp_path / "w.safetensors", force=True)
        moved.rename(base)
        assert report.cos_pos_neg is None
        delta = Delta.load(tmp_path / "w.safetensors")
        for name in delta.terms:
            expected = merged[0][name] - merged[1][name]
            rows = delta.change(name).rows(0, delta.shape(name)[0]).double()
            torch.testing.assert_close(rows, expected, rtol=0, atol=2e-6)
        for side in sides:
            shutil.rmtree(side)


def test_the_base_is_asked_for_where_it_decides(tmp_path: Path, tiny: Path) -> None:
    base = Path(shutil.copytree(tiny, tmp_path / "base"))
    saved = adapter_on(base, tmp_path / "saved", modules_to_save=["norm"])
    dora = adapter_on(base, tmp_path / "dora", use_dora=True)
    shutil.rmtree(base)
    for folder in (saved, dora):
        with pytest.raises(WsteerError, match="base"):
            wsteer.diff(folder, output=tmp_path / "t.safetensors")
        assert wsteer.diff(folder, output=tmp_path / "t.safetensors", base=tiny, force=True).parameters > 20


def test_convolutions_are_read_like_pefts_layers(tmp_path: Path) -> None:
    """Vision encoders have them; the delta is that of peft's own layer, 1x1 and larger kernels."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point, self.wide = nn.Conv2d(6, 5, 1, bias=False), nn.Conv2d(5, 7, 3, bias=False)
            self.line = nn.Conv1d(4, 6, 5, bias=False)

    torch.manual_seed(0)
    net = Net()
    base = tmp_path / "base"
    base.mkdir()
    save_file(net.state_dict(), base / "model.safetensors")
    (base / "config.json").write_text("{}")
    config = {"target_modules": ["point", "wide", "line"], "task_type": None}
    folder = train(net, tmp_path / "adapter", **config)
    wsteer.diff(folder, output=tmp_path / "t.safetensors", base=base)
    delta = Delta.load(tmp_path / "t.safetensors")
    assert set(delta.terms) == {"point.weight", "wide.weight", "line.weight"}
    for name, layer in (("point", net.point), ("wide", net.wide), ("line", net.line)):
        expected = layer.get_delta_weight("default")
        actual = delta.change(f"{name}.weight").rows(0, expected.shape[0])
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-6)


def test_16_bit_factors_are_multiplied_in_float32(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    halves = {name: tensor.bfloat16() for name, tensor in load_file(path).items()}
    save_file(halves, path)
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    expected = 2 * halves[f"{name}.lora_B.weight"].double() @ halves[f"{name}.lora_A.weight"].double()
    change = Delta.load(tmp_path / "t.safetensors").change("model.layers.0.self_attn.q_proj.weight").rows(0, 32)
    torch.testing.assert_close(change.double(), expected, rtol=0, atol=1e-9)


def test_adapters_in_pytorchs_format_are_read_without_running_code(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1)
    wsteer.diff(folder, output=tmp_path / "a.safetensors")
    path = folder / "adapter_model.safetensors"
    torch.save(load_file(path), folder / "adapter_model.bin")
    path.unlink()
    wsteer.diff(folder, output=tmp_path / "b.safetensors")
    a, b = (Delta.load(tmp_path / f"{name}.safetensors") for name in "ab")
    assert (a - b).norm() < 1e-12 * a.norm()


def test_an_adapter_of_another_model_lists_what_does_not_match(tmp_path: Path, tiny: Path, adapters) -> None:
    gpt2 = save_architecture(tmp_path / "gpt2", "gpt2")
    with pytest.raises(WsteerError, match=r"model\.layers\.0.* and 18 more, which gpt2 lacks"):
        wsteer.diff(adapters[0], output=tmp_path / "t.safetensors", base=gpt2)


def test_a_resized_vocabulary_is_refused_with_the_reason(tmp_path: Path, tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    model.resize_token_embeddings(270)
    folder = train(model, tmp_path / "adapter", target_modules=["q_proj"], modules_to_save=["embed_tokens"])
    with pytest.raises(WsteerError, match="the vocabulary was resized"):
        wsteer.diff(folder, output=tmp_path / "t.safetensors")


def test_base_is_recorded_by_name_and_fingerprint(adapters: tuple[Path, Path]) -> None:
    base = read_adapter(adapters[0]).base
    assert base["name"] == "tiny-llama"
    assert len(base["fingerprint"]) == 64


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"peft_type": "XLORA"}, "XLORA"),
        ({"peft_type": "PREFIX_TUNING"}, "PREFIX_TUNING"),
        ({"alora_invocation_tokens": [1]}, "aLoRA"),
        ({"arrow_config": {"top_k": 1}}, "Arrow"),
        ({"use_qalora": True}, "QALoRA"),
        ({"init_lora_weights": "loftq"}, "initialised by loftq"),
        ({"init_lora_weights": "corda"}, "initialised by corda"),
        ({"init_lora_weights": "lora_ga"}, "initialised by lora_ga"),
        ({"init_lora_weights": "pissa_niter_4"}, "initialised by pissa_niter_4"),
        ({"layer_replication": [[0, 2]]}, "layer_replication"),
        ({"rank_pattern": {"(": 4}}, "no regex"),
        ({"r": 5}, "has rank 4"),
        ({"r": None}, "lacks the numbers"),
        ({"lora_alpha": "16"}, "lacks the numbers"),
        ({"rank_pattern": [1]}, "must be a dict"),
    ],
)
def test_what_cannot_be_exact_is_refused_by_name(tmp_path: Path, tiny: Path, change: dict, named: str) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(WsteerError, match=named):
        read_adapter(folder)


def test_gpt2s_names_need_the_base_since_their_orientation_is_its_architectures(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    renamed = {
        name.replace("model.layers.0.self_attn.q_proj", "transformer.h.0.attn.c_proj"): tensor
        for name, tensor in load_file(path).items()
        if "layers.0" in name
    }
    save_file(renamed, path)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "org/gone"}))
    with pytest.raises(WsteerError, match=r"may store its weight transposed.*--base"):
        read_adapter(folder)


@pytest.mark.parametrize("record", ['{"inputs": 5}', '{"inputs": ["a"]}', "{}"])
def test_a_strange_record_beside_the_adapter_does_no_harm(tmp_path: Path, tiny: Path, record: str) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (folder / "wsteer.json").write_text(record)
    assert read_adapter(folder).base["name"] == "tiny-llama"


def test_a_base_without_safetensors_is_known_by_name_alone(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    (tmp_path / "binbase").mkdir()
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "binbase")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    assert read_adapter(folder).base == {"name": "binbase", "revision": None, "fingerprint": None}


def test_broken_factors_are_refused(tmp_path: Path, tiny: Path) -> None:
    folder = save_adapter(tmp_path / "adapter", tiny, seed=1, target_modules=["q_proj"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_B" in name)
    save_file({**tensors, name: torch.empty(0)}, path)
    with pytest.raises(WsteerError, match="have shapes"):
        read_adapter(folder)
    save_file({**tensors, name: torch.full_like(tensors[name], float("nan"))}, path)
    with pytest.raises(WsteerError, match=r"lora_B.weight' holds NaN"):
        wsteer.diff(folder, output=folder / "t.safetensors")
    save_file({**tensors, "base_model.model.lm_head.weight": torch.zeros(2)}, path)
    with pytest.raises(WsteerError, match=r"lm_head.weight is \(2,\) but \(262, 32\)"):
        read_adapter(folder)
    save_file({**tensors, "base_model.model.lm_head.lora_new": torch.zeros(2)}, path)
    with pytest.raises(WsteerError, match="a variant that wsteer does not know"):
        read_adapter(folder)
    for dropped, missing in ((name, "no lora_B"), (name.replace("lora_B", "lora_A"), "no lora_A")):
        save_file({key: value for key, value in tensors.items() if key != dropped}, path)
        with pytest.raises(WsteerError, match=missing):
            read_adapter(folder)
