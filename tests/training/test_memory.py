"""Memory: checkpointed gradients, quantised bases, 16-bit products."""

import gc
import json
import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.helpers.command import Cli
from wsteer.errors import WsteerError
from wsteer.training import finetune as finetuning
from wsteer.training import memory
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe

RECIPE = Recipe(lr=1e-2, max_steps=4, batch_size=4, rank=4, eval_every=2)


def of_method(method: str) -> Recipe:
    """The recipe with this method; the rank is of LoRA alone."""
    return RECIPE if method == "lora" else replace(RECIPE, method=method, rank=None)


def saved_bytes(model: torch.nn.Module, tokens: int) -> int:
    """The bytes of the distinct tensors that autograd's graph holds after a forward pass, weights left out."""
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    ids = torch.zeros(1, tokens, dtype=torch.int64)
    loss = model(input_ids=ids, labels=ids).loss
    seen, held, nodes = set(), {}, [loss.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        for name in dir(node):
            if name.startswith("_saved_") and isinstance(tensor := getattr(node, name), torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.data_ptr() not in weights:
                    held[storage.data_ptr()] = storage.nbytes()
        nodes += [following for following, _ in node.next_functions]
    return sum(held.values())


def test_estimate_of_activations_is_what_autograd_holds(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    expected = saved_bytes(model, 256) / 256  # another length than the estimate is measured at
    assert memory.activation_bytes(model) == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bias", "full"])
def test_checkpointed_gradients_give_the_same_result(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str
) -> None:
    for name, checkpointing in (("plain", False), ("less", True)):
        recipe = Recipe(**{**vars(of_method(method)), "gradient_checkpointing": checkpointing})
        finetune(tiny, chats[0], tmp_path / name, recipe, device="cpu")
    files = [next((tmp_path / name).glob("*.safetensors")) for name in ("plain", "less")]
    plain, less = (load_file(file) for file in files)
    assert all(torch.allclose(tensor, less[name], atol=1e-6) for name, tensor in plain.items())


@pytest.mark.slow
def test_gradients_are_checkpointed_where_memory_is_short_and_only_there(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    tokens = 4096
    states = 12 * sum(parameter.numel() for parameter in model.parameters())  # gradients, AdamW's moments
    needed = tokens * memory.activation_bytes(model) + states
    for free, expected in ((needed, True), (2 * needed, False)):
        monkeypatch.setattr(memory.psutil, "virtual_memory", lambda free=free: type("Free", (), {"available": free}))
        assert memory.needs_checkpointing(model, tokens) is expected
    monkeypatch.setattr(memory.psutil, "virtual_memory", lambda: type("Free", (), {"available": 200_000}))
    checkpointed = []
    monkeypatch.setattr(finetuning, "checkpoint_gradients", checkpointed.append)
    finetune(tiny, chats[0], tmp_path / "out", RECIPE, device="cpu")
    assert len(checkpointed) == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "bias", "full"])
def test_bfloat16_trains_under_autocast_near_float32(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], method: str
) -> None:
    recipe = Recipe(**{**vars(of_method(method)), "max_steps": 8})
    losses = {
        dtype: finetune(tiny, chats[0], tmp_path / dtype, recipe, device="cpu", dtype=dtype).val_loss
        for dtype in ("float32", "bfloat16")
    }
    assert losses["bfloat16"] == pytest.approx(losses["float32"], abs=0.03)
    if method != "full":
        (file,) = (tmp_path / "bfloat16").glob("*.safetensors")
        assert {tensor.dtype for tensor in load_file(file).values()} == {torch.float32}


def test_float16_is_refused_on_a_cpu(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    with pytest.raises(WsteerError, match="--dtype float16"):
        finetune(tiny, chats[0], tmp_path / "out", RECIPE, device="cpu", dtype="float16")
    assert not (tmp_path / "out").exists()


def test_quantised_base_needs_bitsandbytes_a_gpu_and_lora(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["finetune", tiny, chats[0], "-o", tmp_path / "out", "--load-in", "4bit", "--device", "cpu"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert "pip install 'wsteer[quant]'" in cli(*arguments).error
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    assert "needs a CUDA device" in cli(*arguments).error
    monkeypatch.undo()
    assert "--method full" in cli(*arguments, "--method", "full").error
    assert "--init pissa" in cli(*arguments, "--init", "pissa").error
    assert cli(*arguments[:-3], "3bit").code == 2


@pytest.mark.slow
def test_what_was_resolved_is_recorded(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    finetune(tiny, chats[0], tmp_path / "out", RECIPE, device="cpu", dtype="bfloat16")
    options = json.loads((tmp_path / "out" / "wsteer.json").read_text())["options"]
    assert (options["method"], options["dtype"], options["load_in"]) == ("lora", "bfloat16", None)


def test_the_measurement_of_activations_keeps_no_model(tiny: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny)
    assert memory.activation_bytes(model) > 0
    kept = [weakref.ref(parameter) for parameter in model.parameters()]
    del model
    gc.collect()
    assert not any(each() is not None for each in kept)
