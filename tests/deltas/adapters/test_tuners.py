"""Adapters of other methods than LoRA change what peft's own merge of the whole model changes; the rest is refused."""

import gc
import json
import sys
import weakref
from collections.abc import Mapping
from pathlib import Path

import peft
import pytest
import torch
from peft import PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from tests.helpers.tiny import save_model
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.adapters.tuners import EXACT, REFUSED, LayerChange, Replacement, tuner_changes
from wsteer.errors import WsteerError

pytestmark = pytest.mark.filterwarnings(
    "ignore::UserWarning:peft", "ignore:Sparse invariant checks", "ignore:The following rank_pattern"
)

LINEAR = ["q_proj", "o_proj", "up_proj", "down_proj"]
# settings that make an adapter of a tiny model; "target_modules" are LINEAR unless said
METHODS = {
    "ADALORA": [{"init_r": 4, "target_r": 2, "total_step": 10}],
    "BEFT": [{}],
    "BOFT": [{"boft_block_size": 4}],
    "C3A": [{"block_size": 16}],
    "DEFT": [{"r": 4}, {"r": 4, "para": True}, {"r": 4, "decomposition_method": "qr"}],
    "DELORA": [{"r": 4}],
    "FOURIERFT": [{"n_frequency": 20}],
    "GLORA": [{}, {"config_A_B": "vector", "config_C": "vector", "config_D_E": "vector"}, {"config_A_B": "constant"}],
    "GRALORA": [{"r": 4, "gralora_k": 2}],
    "HIRA": [{"r": 4}],
    "HRA": [{"r": 4}, {"r": 4, "apply_GS": True}],
    "IA3": [{"feedforward_modules": ["down_proj"]}],
    "LN_TUNING": [{"target_modules": ["input_layernorm", "norm"]}],
    "LOHA": [{"r": 4}],
    "LOKR": [{"r": 4}, {"r": 2, "decompose_both": True}],
    "MISS": [{"r": 4}, {"r": 4, "init_weights": "bat"}, {"r": 4, "init_weights": "mini", "mini_r": 4}],
    "OFT": [{"r": 4, "oft_block_size": 0}, {"r": 4, "oft_block_size": 0, "use_cayley_neumann": False, "coft": True}],
    "PEANUT": [{}],
    "PVERA": [{"r": 4}],
    "RANDLORA": [{"r": 4}, {"r": 4, "sparse": True, "save_projection": False}],
    "ROAD": [{"group_size": 8}, {"group_size": 8, "variant": "road_4"}],
    "SHIRA": [{"r": 2}],
    "SUPERTUNING": [{"sparsity": 0.9}, {"sparsity": 0.9, "r": 4}],
    "TINYLORA": [{"u": 4}, {"u": 4, "weight_tying": 0.5, "save_projection": False}],
    "TRAINABLE_TOKENS": [{"target_modules": ["embed_tokens"], "token_indices": [1, 5]}],
    "UNILORA": [{"r": 4, "theta_d_length": 64}, {"r": 4, "theta_d_length": 64, "save_indices": True}],
    "VBLORA": [{"r": 2, "num_vectors": 8, "vector_length": 16}],
    "VERA": [{"r": 4}, {"r": 4, "save_projection": False}],
    "WAVEFT": [{"n_frequency": 20}],
}
CASES = [pytest.param(method, case, id=f"{method}-{n}") for method in METHODS for n, case in enumerate(METHODS[method])]


@pytest.fixture(scope="module")
def biased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Llama whose linear layers have biases, none of them zero."""
    folder = save_model(tmp_path_factory.mktemp("biased") / "biased", attention_bias=True, mlp_bias=True)
    generator = torch.Generator().manual_seed(1)
    tensors = load_file(folder / "model.safetensors")
    for name in sorted(tensors):
        if name.endswith(".bias"):
            tensors[name] = 0.1 * torch.randn(tensors[name].shape, generator=generator)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(autouse=True)
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it finds a CUDA compiler, peft compiles a kernel for BOFT when the tests make an adapter."""
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", False)


def save_tuner(folder: Path, base: Path, method: str, rank_pattern: dict | None = None, **settings) -> Path:
    """An adapter whose trained parameters all moved at random."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(2)
    config = peft.PEFT_TYPE_TO_CONFIG_MAPPING[method](**{"target_modules": LINEAR, **settings})
    adapted = get_peft_model(model, config)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn(parameter.shape))
    if rank_pattern:
        adapted.peft_config["default"].rank_pattern = rank_pattern
    adapted.save_pretrained(folder)
    return folder


def merged_by_peft(folder: Path, base: Path) -> dict[str, Tensor]:
    """What merging the adapter into the whole model in float64 changes, by parameter."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    merged = PeftModel.from_pretrained(model, folder, autocast_adapter_dtype=False).double().merge_and_unload()
    changes = {name: parameter.detach() - before[name] for name, parameter in merged.named_parameters()}
    return {name: change for name, change in changes.items() if change.any()}


def assert_equal(changes: Mapping[str, LayerChange | Replacement], expected: Mapping[str, Tensor]) -> None:
    assert changes.keys() == expected.keys()
    for name, change in changes.items():
        rows = change.rows(0, change.shape[0])
        assert rows.dtype == torch.float32
        assert rows.shape == change.shape == expected[name].shape
        scale = expected[name].abs().max().item()
        torch.testing.assert_close(rows.double(), expected[name], rtol=0, atol=1e-6 * scale)


def edit_config(folder: Path, **changes) -> None:
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, **changes}))


@pytest.mark.slow
@pytest.mark.parametrize(("method", "settings"), CASES)
def test_change_equals_peft_merge_of_the_whole_model(tmp_path: Path, biased: Path, method: str, settings: dict) -> None:
    folder = save_tuner(tmp_path / "adapter", biased, method, **settings)
    assert_equal(tuner_changes(folder, open_checkpoint(biased)), merged_by_peft(folder, biased))


def test_every_method_that_is_called_exact_is_compared() -> None:
    assert METHODS.keys() == set(EXACT.split())


def test_adalora_with_ranks_taken_away_equals_peft_merge(tmp_path: Path, tiny: Path) -> None:
    kept = {f"model.layers.{block}.mlp.up_proj.lora_E": [True, False, True, block == 0] for block in range(3)}
    settings = {"target_modules": ["up_proj"], "init_r": 4, "target_r": 2, "total_step": 10}
    folder = save_tuner(tmp_path / "adapter", tiny, "ADALORA", rank_pattern=kept, **settings)
    assert_equal(tuner_changes(folder, open_checkpoint(tiny)), merged_by_peft(folder, tiny))


def test_change_against_a_sharded_bfloat16_base_is_taken_from_its_own_values(tmp_path: Path, tiny_bf16: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny_bf16, "IA3", feedforward_modules=["down_proj"])
    assert_equal(tuner_changes(folder, open_checkpoint(tiny_bf16)), merged_by_peft(folder, tiny_bf16))


def test_adapter_stored_in_bfloat16_is_merged_in_full_precision(tmp_path: Path, tiny: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "LOHA", r=4)
    halved = {name: tensor.bfloat16() for name, tensor in load_file(folder / "adapter_model.safetensors").items()}
    save_file(halved, folder / "adapter_model.safetensors")
    assert_equal(tuner_changes(folder, open_checkpoint(tiny)), merged_by_peft(folder, tiny))


def test_layers_that_store_their_weight_transposed_equal_peft_merge(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=64, bos_token_id=0, eos_token_id=0))
    for block in model.transformer.h:
        torch.nn.init.normal_(block.attn.c_attn.bias)
    model.save_pretrained(tmp_path / "gpt2")
    settings = {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": ["mlp.c_proj"]}
    folder = save_tuner(tmp_path / "adapter", tmp_path / "gpt2", "IA3", fan_in_fan_out=True, **settings)
    assert_equal(tuner_changes(folder, open_checkpoint(tmp_path / "gpt2")), merged_by_peft(folder, tmp_path / "gpt2"))


def test_trained_biases_and_saved_modules_are_replacements_of_the_base(tmp_path: Path, biased: Path) -> None:
    settings = {"bias": "all", "modules_to_save": ["lm_head", "norm"]}
    folder = save_tuner(tmp_path / "adapter", biased, "HRA", r=4, **settings)
    changes = tuner_changes(folder, open_checkpoint(biased))
    for name in ("lm_head.weight", "model.norm.weight", "model.layers.0.self_attn.k_proj.bias"):
        assert isinstance(changes[name], Replacement)
    assert_equal(changes, merged_by_peft(folder, biased))


def test_a_trained_bias_that_a_merge_scales_as_well_is_scaled(tmp_path: Path, biased: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", biased, "ROAD", group_size=8)
    tensors = load_file(folder / "adapter_model.safetensors")
    bias = load_file(biased / "model.safetensors")["model.layers.0.self_attn.q_proj.bias"]
    key = "base_model.model.model.layers.0.self_attn.q_proj.base_layer.bias"
    save_file({**tensors, key: bias + 1}, folder / "adapter_model.safetensors")
    assert_equal(tuner_changes(folder, open_checkpoint(biased)), merged_by_peft(folder, biased))


def test_trainable_tokens_change_a_tied_embedding_once(tmp_path: Path, tiny_bf16: Path) -> None:
    settings = {"target_modules": ["embed_tokens"], "token_indices": [3, 7]}
    folder = save_tuner(tmp_path / "adapter", tiny_bf16, "TRAINABLE_TOKENS", **settings)
    changes = tuner_changes(folder, open_checkpoint(tiny_bf16))
    assert_equal(changes, merged_by_peft(folder, tiny_bf16))
    change = changes["model.embed_tokens.weight"]
    assert change.rows(0, change.shape[0]).any(dim=1).nonzero().flatten().tolist() == [3, 7]


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_one_side_of_a_tied_weight_is_refused(tmp_path: Path, tiny_bf16: Path, module: str) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny_bf16, "LOHA", r=4, modules_to_save=[module])
    with pytest.raises(WsteerError, match=f"{module}.weight, which is tied"):
        tuner_changes(folder, open_checkpoint(tiny_bf16))


def test_blocks_of_rows_are_new_memory_and_equal_the_whole(tmp_path: Path, tiny: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "LOKR", r=4, modules_to_save=["lm_head"])
    for change in tuner_changes(folder, open_checkpoint(tiny)).values():
        whole = change.rows(0, change.shape[0])
        blocks = [change.rows(start, min(start + 7, change.shape[0])) for start in range(0, change.shape[0], 7)]
        assert torch.equal(torch.cat(blocks), whole)
        blocks[0].fill_(9)
        assert torch.equal(change.rows(0, change.shape[0]), whole)


@pytest.mark.slow
def test_one_layer_is_in_memory_at_a_time(tmp_path: Path, biased: Path) -> None:
    changes = tuner_changes(save_tuner(tmp_path / "adapter", biased, "ROAD", group_size=8), open_checkpoint(biased))
    first, bias, second = (
        changes[f"model.layers.{name}"]
        for name in ("0.mlp.up_proj.weight", "0.mlp.up_proj.bias", "1.mlp.up_proj.weight")
    )
    assert not first.merger.changes
    first.rows(0, 1)
    computed = weakref.ref(first.merger.changes[first.parameter.name])
    bias.rows(0, 1)  # of the same layer: nothing is computed anew
    assert computed() is first.merger.changes[first.parameter.name]
    second.rows(0, 1)
    gc.collect()
    assert computed() is None
    assert first.merger.layer is second.layer
    # nor do the layers keep the base's weights: each is one zero seen in the weight's shape
    for change in changes.values():
        weight = change.layer.tuner.get_base_layer().weight
        assert weight.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("method", [method for methods in REFUSED for method in methods.split()])
def test_methods_that_are_no_change_of_weights_are_refused_by_name(tmp_path: Path, tiny: Path, method: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": method}))
    with pytest.raises(WsteerError, match=f"is a {method} adapter, which wsteer cannot diff: "):
        tuner_changes(tmp_path, open_checkpoint(tiny))


@pytest.mark.parametrize(
    ("method", "reason"),
    [("BONE", f"peft {peft.__version__} does not know"), ("ADAMSS", "not tested"), (None, "is a None adapter")],
)
def test_unknown_methods_are_refused_by_name(tmp_path: Path, tiny: Path, method: str | None, reason: str) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": method}))
    with pytest.raises(WsteerError, match=reason):
        tuner_changes(tmp_path, open_checkpoint(tiny))


@pytest.mark.parametrize(
    ("method", "settings", "change", "named"),
    [
        ("SUPERTUNING", {"sparsity": 0.9}, {"save_precomputed_indices": False}, "save_precomputed_indices=False"),
        ("PVERA", {"r": 4}, {"sample_at_inference": True}, "sample_at_inference=True"),
        ("LOHA", {"r": 4}, {"use_wonder": True}, "sets use_wonder"),
        ("LOHA", {"r": 4}, {"r": "4"}, "cannot attach"),
        ("LOHA", {"r": 4}, {"task_type": "GUESS"}, "is not what peft"),
        ("LOHA", {"r": 4}, {"r": 5}, "size mismatch|cannot attach"),
        ("LOHA", {"r": 4}, {"target_modules": ["q_proj"]}, "should not hold"),
        ("LOHA", {"r": 4}, {"target_modules": [*LINEAR, "k_proj"]}, "lacks"),
    ],
)
def test_configs_that_do_not_tell_the_change_are_refused(
    tmp_path: Path, tiny: Path, method: str, settings: dict, change: dict, named: str
) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, method, **settings)
    edit_config(folder, **change)
    with pytest.raises(WsteerError, match=named):
        tuner_changes(folder, open_checkpoint(tiny))


def test_a_merge_into_a_bias_that_the_base_lacks_is_refused(tmp_path: Path, tiny: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "BEFT")
    with pytest.raises(WsteerError, match=r"bias of model.layers.0.*which has none"):
        tuner_changes(folder, open_checkpoint(tiny))


def test_a_file_with_nan_is_refused(tmp_path: Path, tiny: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "HRA", r=4)
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = torch.nan
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(WsteerError, match="holds NaN or infinity"):
        tuner_changes(folder, open_checkpoint(tiny))


def test_a_saved_module_with_infinity_is_refused_when_it_is_read(tmp_path: Path, tiny: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "HRA", r=4, modules_to_save=["lm_head"])
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.lm_head.weight"][5] = torch.inf
    save_file(tensors, folder / "adapter_model.safetensors")
    change = tuner_changes(folder, open_checkpoint(tiny))["lm_head.weight"]
    assert torch.isfinite(change.rows(0, 5)).all()
    with pytest.raises(WsteerError, match=r"lm_head\.weight becomes NaN or infinite"):
        change.rows(5, 6)


def test_a_layer_that_peft_cannot_merge_is_refused_when_it_is_read(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = next(iter(tuner_changes(save_tuner(tmp_path / "a", tiny, "HRA", r=4), open_checkpoint(tiny)).values()))
    monkeypatch.delattr(type(change.layer.tuner), "merge")
    with pytest.raises(WsteerError, match=f"cannot merge {change.parameter.name}: NotImplementedError"):
        change.rows(0, 1)


def test_a_merge_that_changes_more_than_was_known_is_refused(
    tmp_path: Path, biased: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsteer.deltas.adapters.tuners.MERGED_BIAS", ())
    changes = tuner_changes(save_tuner(tmp_path / "adapter", biased, "ROAD", group_size=8), open_checkpoint(biased))
    with pytest.raises(WsteerError, match=r"it changes model\.layers\.0\.mlp\.up_proj\.bias too"):
        changes["model.layers.0.mlp.up_proj.weight"].rows(0, 1)


def test_pickled_adapters_are_refused(tmp_path: Path, tiny: Path) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "LOHA", r=4)
    torch.save(load_file(folder / "adapter_model.safetensors"), folder / "adapter_model.bin")
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(WsteerError, match=r"has no adapter_model\.safetensors"):
        tuner_changes(folder, open_checkpoint(tiny))


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ({"hidden_size": 64}, "cannot attach"),
        ({"num_hidden_layers": 2}, "should not hold"),
        ({"num_hidden_layers": 4}, "lacks"),
    ],
)
def test_an_adapter_of_another_base_is_refused(tmp_path: Path, tiny: Path, base: dict, named: str) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "LOHA", r=4)
    other = open_checkpoint(save_model(tmp_path / "other", **base))
    with pytest.raises(WsteerError, match=named):
        tuner_changes(folder, other)


def test_a_base_whose_files_contradict_its_config_is_refused(tmp_path: Path) -> None:
    base = save_model(tmp_path / "base")
    folder = save_tuner(tmp_path / "adapter", base, "IA3", feedforward_modules=["down_proj"])
    tensors = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    for broken in (tensors[name][:3].clone(), tensors[name].to(torch.int8)):
        save_file({**tensors, name: broken}, base / "model.safetensors")
        with pytest.raises(WsteerError, match=f"{name} is .* not floating-point"):
            tuner_changes(folder, open_checkpoint(base))
    del tensors["lm_head.weight"]
    save_file(tensors, base / "model.safetensors")
    head = save_tuner(tmp_path / "head", save_model(tmp_path / "whole"), "HRA", r=4, modules_to_save=["lm_head"])
    with pytest.raises(WsteerError, match=r"lacks lm_head\.weight"):
        tuner_changes(head, open_checkpoint(base))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "never-heard-of"}))
    with pytest.raises(WsteerError, match="transformers cannot load"):
        tuner_changes(folder, open_checkpoint(base))


def test_no_kernel_is_compiled_for_boft(tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_tuner(tmp_path / "adapter", tiny, "BOFT", boft_block_size=4)
    compiled = []
    monkeypatch.setattr("torch.utils.cpp_extension.load", lambda **options: compiled.append(options))
    monkeypatch.setattr("peft.tuners.boft.layer._FBD_CUDA", None)
    next(iter(tuner_changes(folder, open_checkpoint(tiny)).values())).rows(0, 1)
    assert not compiled
    assert sys.modules["peft.tuners.boft.layer"]._FBD_CUDA is None


def test_a_missing_peft_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "wsteer.deltas.adapters.tuners")
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(WsteerError, match="peft, which is not installed; pip install peft"):
        __import__("wsteer.deltas.adapters.tuners")
