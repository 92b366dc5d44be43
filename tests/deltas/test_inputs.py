"""Inputs that hold two things, or are stored in two ways: refused by name. Names whose base is not at hand."""

import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import load_file, save_file

import wsteer
from tests.helpers.architectures import build, save_tiny
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import seed_folders
from wsteer.errors import WsteerError


@pytest.mark.parametrize(
    ("kind", "says"), [(0, r"delta.safetensors\) and an adapter \(adapter_config"), (1, r"and a whole model \(config")]
)
def test_a_delta_left_beside_an_adapter_or_a_model_is_refused(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path], kind: int, says: str
) -> None:
    folder = Path(shutil.copytree((adapters[0], tiny)[kind], tmp_path / "pos"))
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(folder / "delta.safetensors")
    with pytest.raises(WsteerError, match=says):
        wsteer.diff(folder, output=tmp_path / "w.safetensors", base=tiny)


def test_a_delta_left_beside_seeds_is_refused(tmp_path: Path, adapters: tuple[Path, Path]) -> None:
    shutil.copytree(adapters[0], tmp_path / "run" / "seed-1")
    assert list(seed_folders(tmp_path / "run")) == [1]
    Delta.of_tensors({"model.norm.weight": torch.ones(32)}).save(tmp_path / "run" / "delta.safetensors")
    with pytest.raises(WsteerError, match=r"holds a delta .* and seeds \(seed-1\)"):
        seed_folders(tmp_path / "run")


@pytest.mark.parametrize("base", [True, False])
def test_a_tensor_stored_as_integers_on_one_side_is_refused(tmp_path: Path, tiny: Path, base: bool) -> None:
    folder = Path(shutil.copytree(tiny, tmp_path / "int"))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"].to(torch.int8)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    sides = {"pos": folder, "base": tiny} if base else {"pos": tiny, "neg": folder}
    with pytest.raises(WsteerError, match=r"model.norm.weight is .*I8.*; use unquantised models for both"):
        wsteer.diff(**sides, output=tmp_path / "w.safetensors")


@pytest.mark.parametrize("rank", [0, -1])
def test_a_rank_below_one_is_refused(tmp_path: Path, adapters: tuple[Path, Path], rank: int) -> None:
    with pytest.raises(WsteerError, match="--rank 1 or more"):
        wsteer.diff(*adapters, tmp_path / "w.safetensors", rank=rank)


def test_float64_weights_beyond_float32_are_refused(tmp_path: Path) -> None:
    for name, value in (("pos", 1e100), ("neg", 0.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
        tensors = {"w": torch.tensor([value, 1.0], dtype=torch.float64)}
        save_file(tensors, tmp_path / name / "model.safetensors")
    with pytest.raises(WsteerError, match="infinity"):
        wsteer.diff(tmp_path / "pos", tmp_path / "neg", tmp_path / "w.safetensors")


TWICE = {"norm.weight": torch.ones(32), "model.norm.weight": torch.ones(32)}


def test_two_names_of_one_parameter_are_refused(tmp_path: Path, tiny: Path) -> None:
    Delta.of_tensors(TWICE).save(tmp_path / "w.safetensors")
    with pytest.raises(WsteerError, match=r"two changes of model.norm.weight, as model.norm.weight and as norm.weight"):
        wsteer.steer(tiny, tmp_path / "w.safetensors", k=1, output=tmp_path / "out")


def test_two_modules_of_one_weight_are_refused(tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]) -> None:
    folder = Path(shutil.copytree(adapters[0], tmp_path / "adapter"))
    weights = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    path = "base_model.model.model.layers.0.self_attn.q_proj"
    tensors |= {
        name.replace(".model.model.", ".model."): value.clone() for name, value in tensors.items() if path in name
    }
    save_file(tensors, weights, metadata={"format": "pt"})
    with pytest.raises(WsteerError, match=r"has two changes of model.layers.0.self_attn.q_proj.weight"):
        wsteer.diff(folder, output=tmp_path / "w.safetensors", base=tiny)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["lara_mini", "hrm_text"])
def test_a_delta_made_without_the_base_finds_the_rows_of_split_tensors(tmp_path: Path, kind: str) -> None:
    """Their files hold in one tensor what are several layers in memory, by which the adapter names its changes."""
    base = save_tiny(tmp_path / "base", kind)
    model = type(build(kind)).from_pretrained(base, dtype=torch.float32)
    names = [name for name, each in model.named_modules() if isinstance(each, torch.nn.Linear) and "attn" in name]
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=names))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.2 * torch.randn(parameter.shape))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = {
        f"{name}.weight": module.get_base_layer().weight.double() + module.get_delta_weight("default").double()
        for name, module in adapted.get_base_model().named_modules()
        if isinstance(module, BaseTunerLayer)
    }
    base.rename(tmp_path / "elsewhere")
    wsteer.diff(tmp_path / "adapter", output=tmp_path / "w.safetensors")
    wsteer.steer(tmp_path / "elsewhere", tmp_path / "w.safetensors", k=1, output=tmp_path / "out")
    steered = type(model).from_pretrained(tmp_path / "out", dtype=torch.float32).state_dict()
    assert len(expected) == len(names)
    for name, value in expected.items():
        torch.testing.assert_close(steered[name].double(), value, rtol=0, atol=1e-6)
