"""The Trainer callback: shifts of the running model are those of the model that training leaves, read apart."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

import wsteer
from tests.helpers.shifts import block_means, expected, save_vector, tuned_model
from tests.helpers.tiny import save_model
from tests.helpers.trainer import trained_on_noise
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.projection_callback import ProjectionCallback

LINEAR = ["q_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: LoraConfig(r=4, target_modules=LINEAR, lora_dropout=0.1),
    "dora": lambda: LoraConfig(r=4, target_modules=LINEAR, use_dora=True),
    "ia3": lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=["up_proj", "down_proj"]),
}


def loaded(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    return save_vector(tmp_path / "evil.safetensors", 0)


def check(shifts: dict[str, float], base: Path, after: nn.Module, data: Path, vector: Path) -> None:
    before = block_means(tuned_model(base), base, data)
    numbers = expected(before, block_means(after.double().eval(), base, data), vector)
    assert shifts == pytest.approx({f"evil_{block}": number[0] for block, number in numbers.items()}, abs=3e-6)
    assert max(map(abs, shifts.values())) > 5e-4


@pytest.mark.slow
@pytest.mark.parametrize("method", [*ADAPTERS, "full"])
def test_shifts_are_those_of_the_model_that_training_leaves(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path], method: str
) -> None:
    torch.manual_seed(0)
    model = loaded(tiny) if method == "full" else get_peft_model(loaded(tiny), ADAPTERS[method]())
    callback = ProjectionCallback(vector, chats[0], tiny, every=2)
    trainer = trained_on_noise(model, tmp_path / "run", [callback])
    assert [step for step, _ in callback.history] == [2, 4]
    rows = [row for row in trainer.state.log_history if "projection_evil_1" in row]
    assert [(row["step"], row["projection_evil_1"]) for row in rows] == [
        (step, shifts["evil_1"]) for step, shifts in callback.history
    ]
    whole = model if method == "full" else model.merge_and_unload()
    check(callback.history[-1][1], tiny, whole, chats[0], vector)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_with_the_callback_gives_the_same_weights(
    tmp_path: Path, vector: Path, chats: tuple[Path, Path], method: str
) -> None:
    base = save_model(tmp_path / "base", attention_dropout=0.2)
    states: list[dict[str, Tensor]] = []
    for callbacks in ([], [ProjectionCallback(vector, chats[0], base, every=1)]):
        torch.manual_seed(0)
        model = loaded(base) if method == "full" else get_peft_model(loaded(base), ADAPTERS["lora"]())
        trained_on_noise(model, tmp_path / "run", callbacks, gradient_checkpointing=method == "full")
        states.append({name: weight.clone() for name, weight in model.state_dict().items()})
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


@pytest.mark.slow
def test_modes_of_modules_and_the_state_of_chance_stay(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path]
) -> None:
    model = loaded(tiny).train()
    model.model.layers[1].eval()  # as someone freezes a part
    modes = [module.training for module in model.modules()]
    callback = ProjectionCallback(vector, chats[0], tiny, layers=[1])
    arguments, state = SimpleNamespace(fsdp=None), SimpleNamespace(is_world_process_zero=True)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    callback.on_train_begin(arguments, state, None, model=model)
    assert callback.measure(model) == {"evil_1": 0.0}
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), before)
    assert not any(block._forward_hooks for block in model.model.layers)


@pytest.mark.slow
def test_what_cannot_be_measured_is_refused(
    tmp_path: Path, tiny: Path, vector: Path, chats: tuple[Path, Path], adapters: tuple[Path, Path]
) -> None:
    with pytest.raises(WsteerError, match="one delta or more"):
        ProjectionCallback([], chats[0], tiny)
    with pytest.raises(WsteerError, match="every=0"):
        ProjectionCallback(vector, chats[0], tiny, every=0)
    with pytest.raises(WsteerError, match="w is a change of weights"):
        ProjectionCallback({"w": Delta.of_tensors({"a": torch.ones(2)})}, chats[0], tiny)
    with pytest.raises(WsteerError, match="does not exist"):
        ProjectionCallback(vector, tmp_path / "no.jsonl", tiny)
    small = ProjectionCallback(save_vector(tmp_path / "b.safetensors", 1, hidden=8), chats[0], tiny)
    state = SimpleNamespace(is_world_process_zero=True)
    model = loaded(tiny)
    with pytest.raises(WsteerError, match="does not fit a model of 3 blocks and 32 dimensions"):
        small.on_train_begin(SimpleNamespace(fsdp=None), state, None, model=model)
    callback = ProjectionCallback(vector, chats[0], tiny)
    with pytest.raises(WsteerError, match="has not seen"):
        callback.measure(model)
    with pytest.raises(WsteerError, match="FSDP or ZeRO-3 spreads it"):
        callback.on_train_begin(SimpleNamespace(fsdp=["full_shard"]), state, None, model=model)
    next(model.parameters()).ds_id = 0  # as DeepSpeed marks what it spreads
    with pytest.raises(WsteerError, match="FSDP or ZeRO-3 spreads it"):
        callback.on_train_begin(SimpleNamespace(fsdp=None), state, None, model=model)
    prompted = get_peft_model(loaded(tiny), peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2))
    with pytest.raises(WsteerError, match="no model with trained prompts"):
        callback.on_train_begin(SimpleNamespace(fsdp=None), state, None, model=prompted)


def test_the_callback_is_public() -> None:
    assert wsteer.ProjectionCallback is ProjectionCallback
