"""Adapters of mixtures of experts, whose files name one by one what the model in memory stacks."""

import copy
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import wsteer
from tests.helpers.merging import EXPERTS, MOE, adapter_on, check_equals_peft, save_architecture
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.adapters.adapter import read_adapter
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError


@pytest.mark.slow
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


@pytest.mark.slow
@pytest.mark.parametrize("model_type", list(MOE))
@pytest.mark.parametrize(
    "config",
    [
        # peft names Mixtral's and Qwen3-MoE's parameters as shortly as `down_proj`, which other modules end in as well
        {"target_modules": "all-linear"},
        # what converting an adapter of unfused experts leaves: both doubled, so that the scale stays
        {
            "target_modules": ["q_proj"],
            "target_parameters": EXPERTS,
            "rank_pattern": {r".*\.gate_up_proj": 8},
            "alpha_pattern": {r".*\.gate_up_proj": 16},
        },
        {"target_modules": ["q_proj"], "target_parameters": EXPERTS, "use_rslora": True},
        {"target_modules": ["q_proj"], "modules_to_save": ["mlp"]},
    ],
    ids=["all-linear", "doubled rank and alpha", "rsLoRA", "saved whole"],
)
def test_experts_equal_pefts_merge(tmp_path: Path, model_type: str, config: dict) -> None:
    base = save_architecture(tmp_path / "base", model_type)
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)
    assert Delta.load(tmp_path / "t.safetensors").terms.keys() <= stored_names(base)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", list(MOE))
def test_experts_of_equal_sides_are_told_by_the_architecture(tmp_path: Path, model_type: str) -> None:
    """A square matrix does not show whether it is stored transposed."""
    base = save_architecture(tmp_path / "base", model_type, intermediate_size=32, moe_intermediate_size=32)
    config = {"target_modules": ["q_proj"], "target_parameters": ["mlp.experts.down_proj"]}
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


@pytest.mark.parametrize("init", ["pissa", "olora"])
def test_a_plain_matrix_adapted_by_name_is_initialised_like_a_layer(tmp_path: Path, init: str) -> None:
    base = save_architecture(tmp_path / "base", "qwen2_moe")
    config = {"target_modules": ["q_proj"], "target_parameters": ["mlp.gate.weight"], "init_lora_weights": init}
    check_equals_peft(base, adapter_on(base, tmp_path / "adapter", **config), tmp_path)


def test_factors_that_fit_two_parameters_of_a_module_are_refused(tmp_path: Path) -> None:
    """Which of the nested wrappers belongs to which parameter is told by shapes alone."""
    base = tmp_path / "base"
    base.mkdir()
    stored = {f"mlp.experts.{name}": torch.randn(2, 6, 4) for name in ("up", "gate")}
    save_file(stored, base / "model.safetensors")
    (base / "config.json").write_text("{}")
    folder = tmp_path / "adapter"
    folder.mkdir()
    factors = {"lora_A.weight": torch.randn(6, 4), "lora_B.weight": torch.randn(6, 6)}
    save_file(
        {f"base_model.model.mlp.experts.{key}": value for key, value in factors.items()},
        folder / "adapter_model.safetensors",
    )
    config = {"peft_type": "LORA", "r": 3, "lora_alpha": 3, "target_parameters": ["experts.up", "experts.gate"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(WsteerError, match=r"fits more than one of mlp\.experts\.up, mlp\.experts\.gate"):
        wsteer.diff(folder, output=tmp_path / "t.safetensors", base=base)
    (folder / "adapter_config.json").write_text(json.dumps({**config, "target_parameters": ["experts.gate"]}))
    wsteer.diff(folder, output=tmp_path / "t.safetensors", base=base)
    change = Delta.load(tmp_path / "t.safetensors").change("mlp.experts.gate").rows(0, 2).double()
    a, b = (factors[name].double() for name in ("lora_A.weight", "lora_B.weight"))
    for expert in range(2):
        expected = b[:, [expert, expert + 2, expert + 4]] @ a[3 * expert : 3 * expert + 3]
        torch.testing.assert_close(change[expert], expected, rtol=1e-5, atol=1e-6)


def test_a_delta_of_experts_can_be_copied_and_gives_the_same_changes(tmp_path: Path) -> None:
    base = save_architecture(tmp_path / "base", "mixtral")
    adapter = adapter_on(base, tmp_path / "adapter", target_modules=["q_proj"], target_parameters=EXPERTS)
    delta = Delta("task_vector", read_adapter(adapter, open_checkpoint(base)).terms)
    copied = copy.deepcopy(delta)
    for name in delta.terms:
        (b, a), (copied_b, copied_a) = delta.factors(name), copied.factors(name)
        assert torch.equal(b, copied_b) and torch.equal(a, copied_a)
