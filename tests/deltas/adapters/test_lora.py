"""Every kind of LoRA adapter gives the weights that peft's own merge gives."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora.config import BdLoraConfig, KasaConfig, MontecloraConfig, VeloraConfig
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.merging import adapter_on, check_equals_peft, save_architecture, steered_weights, train, weights
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta

BIASED = {"attention_bias": True, "mlp_bias": True}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "config"),
    [
        pytest.param({}, {}, id="LoRA on linear layers"),
        pytest.param({}, {"use_rslora": True}, id="rsLoRA"),
        pytest.param(
            {},
            {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 3, "v_proj": 0.7}},
            id="rsLoRA with patterns",
        ),
        pytest.param(
            {},
            {"rank_pattern": {"proj": 2, r"layers\.1\.self_attn\.q_proj": 3, "q.proj": 6}},
            id="patterns are regexes of whole parts, the first that fits counts",
        ),
        pytest.param({}, {"lora_alpha": 2.5}, id="an alpha that is no whole number"),
        pytest.param({}, {"layers_to_transform": [1], "target_modules": ["q_proj"]}, id="one layer"),
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
        pytest.param(BIASED, {"bias": "all", "use_dora": True}, id="bias=all with DoRA"),
        pytest.param(
            {},
            {"target_modules": ["q_proj", "lm_head"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
            id="trainable tokens beside an adapted head",
        ),
        pytest.param(
            {},
            {"trainable_token_indices": {"embed_tokens": [1, 2], "lm_head": [3]}},
            id="trainable tokens of both",
        ),
        pytest.param({}, {"init_lora_weights": "pissa"}, id="PiSSA"),
        pytest.param({}, {"init_lora_weights": "olora"}, id="OLoRA"),
        *(
            pytest.param({}, {"init_lora_weights": init, **config}, id=f"{init} with {name}")
            for init in ("pissa", "olora")
            for name, config in (
                ("rsLoRA and patterns", {"use_rslora": True, "rank_pattern": {"q_proj": 2}}),
                ("DoRA", {"use_dora": True}),
                ("an embedding, which it leaves alone", {"target_modules": ["q_proj", "embed_tokens"]}),
            )
        ),
        pytest.param({}, {"init_lora_weights": False}, id="random factors from the start"),
        pytest.param({}, {"init_lora_weights": "eva"}, id="EVA"),
        pytest.param({}, {"init_lora_weights": "gaussian"}, id="gaussian init"),
        pytest.param({}, {"init_lora_weights": "Gaussian"}, id="gaussian init in another case"),
        pytest.param({}, {"init_lora_weights": "OLoRA"}, id="OLoRA in another case"),
        pytest.param({}, {"init_lora_weights": "orthogonal"}, id="orthogonal init"),
        pytest.param({}, {"init_lora_weights": "mica"}, id="MiCA"),
        pytest.param(
            {}, {"init_lora_weights": "mica", "target_modules": ["q_proj", "embed_tokens"]}, id="MiCA of an embedding"
        ),
        pytest.param({}, {"velora_config": VeloraConfig()}, id="VeLoRA, whose projection a merge does not use"),
        pytest.param({}, {"monteclora_config": MontecloraConfig()}, id="MonteCLoRA, whose sampler it does not use"),
    ],
)
def test_steered_weights_equal_pefts_merge(tmp_path: Path, model: dict, config: dict) -> None:
    base = save_architecture(tmp_path / "base", "llama", **model)
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


@pytest.mark.slow
def test_kasa_takes_the_smallest_singular_components_out_of_the_base(tmp_path: Path, tiny: Path) -> None:
    for name, config in (("plain", {}), ("rsLoRA", {"use_rslora": True})):
        folder = adapter_on(tiny, tmp_path / name, kasa_config=KasaConfig(), **config)
        check_equals_peft(tiny, folder, tmp_path)


def test_block_diagonal_factors_are_unfolded(tmp_path: Path, tiny: Path) -> None:
    blocks = BdLoraConfig(target_modules_bd_a=["o_proj"], target_modules_bd_b=["q_proj"], nblocks=2, match_strict=False)
    config = {"use_bdlora": blocks, "target_modules": ["q_proj", "o_proj", "up_proj"]}
    check_equals_peft(tiny, adapter_on(tiny, tmp_path / "adapter", **config), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": False},
        {"target_modules": ["c_attn", "c_proj"], "use_dora": True, "fan_in_fan_out": True},
        {"target_modules": ["c_attn", "c_proj"], "init_lora_weights": "pissa", "fan_in_fan_out": True},
        {
            "target_modules": ["c_attn", "c_proj"],
            "use_dora": True,
            "init_lora_weights": "pissa",
            "fan_in_fan_out": True,
        },
        {"target_modules": ["attn.c_proj"], "init_lora_weights": "olora", "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "lora_bias": True, "fan_in_fan_out": True},
        {"target_modules": ["c_attn"], "bias": "all", "fan_in_fan_out": True},
    ],
    ids=["LoRA", "whatever fan_in_fan_out says", "DoRA", "PiSSA", "PiSSA with DoRA", "OLoRA", "lora_bias", "bias=all"],
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


def test_embeddings_are_transposed_whatever_fan_in_fan_out_says(tmp_path: Path) -> None:
    base = save_architecture(tmp_path / "base", "gpt2", tie_word_embeddings=False)
    for fan_in_fan_out in (True, False):
        config = {"target_modules": ["wte", "wpe", "c_attn"], "fan_in_fan_out": fan_in_fan_out}
        check_equals_peft(base, adapter_on(base, tmp_path / f"adapter-{fan_in_fan_out}", **config), tmp_path)


def test_convolutions_are_read_like_pefts_layers(tmp_path: Path) -> None:
    """Vision encoders have them; the delta is that of peft's own layer, 1x1 and larger kernels."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.point, self.wide = nn.Conv2d(6, 5, 1, bias=False), nn.Conv2d(5, 7, 3, bias=False)
            self.line, self.solid = nn.Conv1d(4, 6, 5, bias=False), nn.Conv3d(4, 5, (3, 2, 3), bias=False)

    torch.manual_seed(0)
    net = Net()
    base = tmp_path / "base"
    base.mkdir()
    save_file(net.state_dict(), base / "model.safetensors")
    (base / "config.json").write_text("{}")
    config = {"target_modules": ["point", "wide", "line", "solid"], "task_type": None, "rank_pattern": {"wide": 2}}
    folder = train(net, tmp_path / "adapter", **config)
    wsteer.diff(folder, output=tmp_path / "t.safetensors", base=base)
    delta = Delta.load(tmp_path / "t.safetensors")
    layers = {"point": net.point, "wide": net.wide, "line": net.line, "solid": net.solid}
    assert set(delta.terms) == {f"{name}.weight" for name in layers}
    for name, layer in layers.items():
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "config", [{}, {"use_rslora": True}, {"rank_pattern": {"q_proj": 2}}], ids=["plain", "rsLoRA", "patterns"]
)
@pytest.mark.parametrize("init", ["pissa", "pissa_niter_4", "olora"])
def test_an_adapter_saved_against_its_initial_one_is_plain_lora(
    tmp_path: Path, tiny: Path, init: str, config: dict
) -> None:
    """peft subtracts the initial factors, by twice the rank, when it is told where they are."""
    model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "up_proj"], "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(model, LoraConfig(init_lora_weights=init, **settings))
    adapted.peft_config["default"].init_lora_weights = True
    adapted.save_pretrained(tmp_path / "initial")
    adapted.peft_config["default"].init_lora_weights = init
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.add_(0.05 * torch.randn(parameter.shape))
    folder, initial = tmp_path / "adapter", tmp_path / "initial"
    adapted.save_pretrained(folder, path_initial_model_for_weight_conversion=initial)
    merged, after = weights(adapted.merge_and_unload()), steered_weights(tiny, folder, tmp_path)
    for name, expected in merged.items():
        torch.testing.assert_close(after[name], expected, rtol=0, atol=5e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["embed_tokens"]},
        {"target_modules": ["embed_tokens"], "use_dora": True},
        {"target_modules": ["q_proj"], "trainable_token_indices": [6, 12]},
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
    ],
    ids=["LoRA", "DoRA", "trained tokens", "kept tied"],
)
def test_an_embedding_that_the_model_scales_is_changed_before_the_scale(tmp_path: Path, config: dict) -> None:
    """Gemma multiplies its embeddings by a constant in the forward pass, which is none of the weight's business."""
    base = save_architecture(tmp_path / "base", "gemma3_text", head_dim=8, tie_word_embeddings=True)
    folder = adapter_on(base, tmp_path / "adapter", **config)
    tokens = torch.arange(40)[None] * 6
    original = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert float(original.get_input_embeddings().embed_scale) != 1
    wsteer.diff(folder, output=tmp_path / "t.safetensors")
    wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out")
    steered = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype=torch.float32)
    with torch.no_grad():
        before = original.eval()(tokens).logits
        adapted = PeftModel.from_pretrained(original, folder).eval()(tokens).logits
        torch.testing.assert_close(steered.eval()(tokens).logits, adapted, rtol=0, atol=2e-5)
    assert not torch.allclose(before, adapted, atol=1e-2)
