"""Sizes of models and fine-tunes, against the files that peft and wsteer write."""

import math
from pathlib import Path

import pytest
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.tiny import save_adapter, save_model
from wsteer.demo.estimates import activation_bytes
from wsteer.demo.sizes import Size, kept, of_rank, size_of, trained
from wsteer.files.tensors import read_header
from wsteer.training import memory
from wsteer.training.recipe import Recipe

SMOL = {
    **{"parameters": 134_515_008, "blocks": 30, "hidden": 576, "intermediate": 1536, "vocabulary": 49152},
    "key_values": 192,
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("sizes") / "base")


def size(model: Path) -> Size:
    found = size_of(str(model), {})
    assert found is not None
    return found


def tensor_bytes(path: Path) -> int:
    return sum(math.prod(entry.shape) * 4 for entry in read_header(path)[0].values())


def test_a_model_that_is_here_is_read(model: Path) -> None:
    found = size(model)
    assert (found.blocks, found.hidden, found.intermediate, found.key_values) == (3, 32, 48, 16)
    assert 4 * found.parameters == tensor_bytes(model / "model.safetensors")
    assert found.bytes_a_number == 4 and len(found.linear) == 3 * 7


def test_one_that_is_not_here_is_as_stated() -> None:
    found = size_of("org/none", SMOL)
    assert found is not None
    assert trained(found, Recipe()).factors == 9_768_960  # 9.77 M, as wsteer finetune says of SmolLM2
    assert kept(found, Recipe()).bytes == pytest.approx(39_131_224, rel=0.01)  # its adapter_model.safetensors
    assert size_of("org/none", {"blocks": 3}) is None


def test_stated_and_read_sizes_agree(model: Path) -> None:
    found = size(model)
    stated = {name: getattr(found, name) for name in SMOL}
    assert sorted(size_of("org/none", stated).linear.values()) == sorted(found.linear.values())


@pytest.mark.slow
def test_an_adapters_files_have_these_bytes(model: Path, tmp_path: Path) -> None:
    for side, seed in (("pos", 1), ("neg", 2)):
        save_adapter(tmp_path / side, model, seed)
    change = kept(size(model), Recipe(rank=4))
    assert change.bytes == tensor_bytes(tmp_path / "pos" / "adapter_model.safetensors")
    wsteer.diff(tmp_path / "pos", tmp_path / "neg", tmp_path / "w.safetensors")
    assert 2 * change.bytes == tensor_bytes(tmp_path / "w.safetensors")
    wsteer.diff(tmp_path / "pos", tmp_path / "neg", tmp_path / "low.safetensors", rank=2)
    assert of_rank(size(model), 2).bytes == tensor_bytes(tmp_path / "low.safetensors")


@pytest.mark.parametrize(
    ("recipe", "numbers"),
    [
        (Recipe(method="bias"), 3 * 32),
        (Recipe(method="bias", layer_slice=(0.5, 1)), 1 * 32),
        (Recipe(rank=2, targets=("q_proj", "mlp.down_proj")), 3 * 2 * (64 + 80)),
        (Recipe(rank=2, targets=("q_proj",), dora=True), 3 * (2 * 64 + 32)),
        (Recipe(rank=2, targets=("q_proj",), modules_to_save=("embed_tokens", "lm_head")), 3 * 2 * 64 + 2 * 262 * 32),
        (Recipe(method="loha", rank=2, targets=("q_proj",)), 3 * 4 * 64),
    ],
)
def test_what_is_trained(model: Path, recipe: Recipe, numbers: int) -> None:
    change = trained(size(model), recipe)
    assert change.factors + change.dense == numbers


def test_full_fine_tunes_keep_all_weights_and_pissa_twice_the_rank(model: Path) -> None:
    found = size(model)
    assert kept(found, Recipe(method="full")).bytes == tensor_bytes(model / "model.safetensors")
    assert kept(found, Recipe(init="pissa")).factors == 2 * kept(found, Recipe()).factors


def test_activations_are_what_the_backward_pass_keeps(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "PROBE", 512)  # so that what does not grow with the tokens is small
    base = AutoModelForCausalLM.from_pretrained(model)
    tuned = get_peft_model(base, LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    found = size(model)
    measured = memory.activation_bytes(tuned) - 4 * found.vocabulary  # logits are counted by themselves
    assert activation_bytes(found, 4, 4) == pytest.approx(measured, rel=0.06)
