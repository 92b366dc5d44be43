"""Keys of adapters that hold the adapter's name, as in a state dict: read as without it, unless there are several."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from tests.helpers.merging import adapter_on
from tests.helpers.tied import TOKENS, loaded, save_tied
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.adapters.adapter import read_adapter
from wsteer.deltas.delta import Delta
from wsteer.deltas.inputs import adapter_delta
from wsteer.errors import WsteerError

CASES = {
    "LoRA": {"target_modules": ["q_proj", "down_proj"]},
    "DoRA": {"target_modules": ["q_proj"], "use_dora": True},
    "LoRA on the ends": {"target_modules": ["embed_tokens", "lm_head"]},
    "saved modules": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "trained tokens": {"target_modules": ["q_proj"], "trainable_token_indices": [3, 7]},
}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tied(tmp_path_factory.mktemp("keys") / "base", "llama")


def rekeyed(folder: Path, rename: Callable[[str], str]) -> None:
    """Give the adapter's tensors other keys."""
    path = folder / "adapter_model.safetensors"
    save_file({rename(key): value for key, value in load_file(path).items()}, path, metadata={"format": "pt"})


def named(key: str, name: str) -> str:
    """The key as the model's state dict has it."""
    if "lora_" in key or "token_adapter" in key:
        if key.endswith(".weight"):
            return f"{key.removesuffix('.weight')}.{name}.weight"
        return f"{key}.{name}.weight" if key.endswith("magnitude_vector") else f"{key}.{name}"
    return key if "base_layer" in key else f"{key.removesuffix('.weight')}.modules_to_save.{name}.weight"


def changes(folder: Path, base: Path) -> dict[str, Tensor]:
    """The adapter's changes, float64."""
    checkpoint = open_checkpoint(base)
    delta: Delta = adapter_delta(read_adapter(folder, checkpoint)).bound(checkpoint)
    return {name: delta.change(name).rows(0, delta.shape(name)[0]).double() for name in delta.terms}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["default", "polite"])
@pytest.mark.parametrize("case", list(CASES))
def test_an_adapters_name_in_its_keys_changes_nothing(tmp_path: Path, base: Path, case: str, name: str) -> None:
    folder = adapter_on(base, tmp_path / "adapter", **CASES[case])
    expected = changes(folder, base)
    rekeyed(folder, lambda key: named(key, name))
    assert any(f".{name}" in key for key in load_file(folder / "adapter_model.safetensors"))
    found = changes(folder, base)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[each], expected[each]) for each in expected)


def test_peft_reads_the_keys_of_its_state_dict_in_the_same_way(tmp_path: Path, base: Path) -> None:
    folder = adapter_on(base, tmp_path / "adapter", **CASES["LoRA"])
    rekeyed(folder, lambda key: named(key, "default"))
    model = PeftModel.from_pretrained(loaded(base), folder).eval()
    steered = loaded(base)
    found = changes(folder, base)
    with torch.no_grad():
        for name, change in found.items():
            steered.get_parameter(name).add_(change.float())
        torch.testing.assert_close(steered(TOKENS).logits, model(TOKENS).logits, rtol=0, atol=2e-5)


def test_several_names_are_refused(tmp_path: Path, base: Path) -> None:
    folder = adapter_on(base, tmp_path / "adapter", **CASES["LoRA"])
    rekeyed(folder, lambda key: named(key, "one" if "q_proj" in key else "two"))
    with pytest.raises(WsteerError, match="holds several adapters in one file, 'one', 'two'; save one of them alone"):
        read_adapter(folder, open_checkpoint(base))


def test_one_tensor_with_and_without_the_name_is_refused(tmp_path: Path, base: Path) -> None:
    folder = adapter_on(base, tmp_path / "adapter", **CASES["LoRA"])
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, **{named(key, "default"): value.clone() for key, value in tensors.items()}}, path)
    with pytest.raises(WsteerError, match="are one tensor; save the adapter again"):
        read_adapter(folder, open_checkpoint(base))
