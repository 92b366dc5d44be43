"""The Trainer callback: cosines of the running change are those of the whole weights, computed apart."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import peft
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    Trainer,
    TrainerCallback,
)

import wsteer
from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import SIZES
from tests.helpers.trainer import trained_on_noise
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.monitoring.callback import SimilarityCallback


class Recorder(TrainerCallback):
    """What a reporter such as TensorBoard's is given."""

    def __init__(self) -> None:
        self.logs: list[dict] = []

    def on_log(self, args, state, control, logs=None, **kwargs) -> None:
        self.logs.append({"step": state.global_step, **logs})


def train(model: nn.Module, folder: Path, callback: SimilarityCallback, **settings) -> Trainer:
    """Train with a reporter and, attached after it, the callback."""
    return trained_on_noise(model, folder, [Recorder(), callback], **settings)


def loaded(folder: Path) -> nn.Module:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def merged_change(model: nn.Module, base: Path) -> dict[str, Tensor]:
    """Peft's own merge of a copy of the model, minus the base: float64 by the names of the base's files."""
    whole = model.merge_and_unload().state_dict() if isinstance(model, peft.PeftModel) else model.state_dict()
    before = loaded(base).state_dict()
    return {name: whole[name].double() - before[name].double() for name in before}


def dense_cosine(change: dict[str, Tensor], other: dict[str, Tensor], shared: bool = False) -> float:
    """The cosine over all that the model has, or over the parameters that both change."""
    names = [name for name in change if not shared or (name in other and change[name].abs().sum() > 0)]
    a = torch.cat([change[name].flatten() for name in names])
    b = torch.cat([other[name].double().flatten() if name in other else 0 * change[name].flatten() for name in names])
    return float(a @ b / (a.norm() * b.norm()))


@pytest.fixture
def directions(tmp_path: Path, tiny: Path) -> list[Path]:
    """Two dense deltas of all linear layers."""
    shapes = {name: e.shape for name, e in open_checkpoint(tiny).parameters().items() if name.endswith("proj.weight")}
    paths = []
    for seed, name in enumerate(("w_evil", "control")):
        torch.manual_seed(seed)
        delta = Delta.of_tensors({name: torch.randn(shape) for name, shape in shapes.items()})
        paths.append(tmp_path / f"{name}.safetensors")
        delta.save(paths[-1])
    return paths


LINEAR = ["q_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, Callable[[], peft.PeftConfig]] = {
    "lora": lambda: LoraConfig(r=4, target_modules="all-linear"),
    "dora": lambda: LoraConfig(r=4, target_modules=LINEAR, use_dora=True),
    "modules to save": lambda: LoraConfig(r=4, target_modules=LINEAR, modules_to_save=["lm_head"]),
    "ia3": lambda: peft.IA3Config(target_modules=LINEAR, feedforward_modules=["up_proj", "down_proj"]),
    "loha": lambda: peft.LoHaConfig(r=4, target_modules=LINEAR),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", ADAPTERS)
def test_cosines_of_every_adapter_are_those_of_its_merged_weights(
    tmp_path: Path, tiny: Path, directions: list[Path], method: str
) -> None:
    torch.manual_seed(0)
    config = ADAPTERS[method]()
    config.base_model_name_or_path = str(tiny)
    model = get_peft_model(loaded(tiny), config)
    callback = SimilarityCallback(directions, every=4, base=tiny)
    train(model, tmp_path / "run", callback)
    ((step, cosines),) = callback.history
    assert step == 4
    change = merged_change(model, tiny)
    for path in directions:
        # peft merges in float32
        assert cosines[path.stem] == pytest.approx(dense_cosine(change, load_file(path)), abs=2e-6)
        shared = callback.history_shared[-1][1]
        if method == "lora":  # changes what the deltas do, so that both are one
            assert shared == {}
        else:
            expected = dense_cosine(change, load_file(path), shared=True)
            assert shared[path.stem] == pytest.approx(expected, abs=2e-6)
    assert abs(cosines["w_evil"]) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("with_base", [True, False])
def test_cosines_of_full_training_are_those_of_the_weights(
    tmp_path: Path, tiny: Path, directions: list[Path], with_base: bool
) -> None:
    model = loaded(tiny)
    callback = SimilarityCallback(directions, every=2, base=tiny if with_base else None)
    train(model, tmp_path / "run", callback)
    assert [step for step, _ in callback.history] == [2, 4]
    change = merged_change(model, tiny)
    for path in directions:
        expected = dense_cosine(change, load_file(path))
        assert callback.history[-1][1][path.stem] == pytest.approx(expected, abs=1e-9)
        expected = dense_cosine(change, load_file(path), shared=True)
        assert callback.history_shared[-1][1][path.stem] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_the_log_history_and_reporters_get_the_cosines(tmp_path: Path, tiny: Path, directions: list[Path]) -> None:
    callback = SimilarityCallback(directions)
    model = get_peft_model(loaded(tiny), LoraConfig(r=2, target_modules=LINEAR))
    trainer = train(model, tmp_path / "run", callback, logging_steps=2)
    rows = [row for row in trainer.state.log_history if "cosine_w_evil" in row]
    assert [row["step"] for row in rows] == [2, 4]
    for prefix, history in (("cosine_", callback.history), ("cosine_shared_", callback.history_shared)):
        assert [(row[f"{prefix}w_evil"], row[f"{prefix}control"]) for row in rows] == [
            (cosines["w_evil"], cosines["control"]) for _, cosines in history
        ]
    recorder = next(each for each in trainer.callback_handler.callbacks if isinstance(each, Recorder))
    assert [row["step"] for row in recorder.logs if "cosine_w_evil" in row] == [2, 4]


def test_a_step_that_changed_nothing_is_left_out(tmp_path: Path, tiny: Path, directions: list[Path]) -> None:
    callback = SimilarityCallback(directions, every=1)
    model = get_peft_model(loaded(tiny), LoraConfig(r=2, target_modules=LINEAR))
    train(model, tmp_path / "run", callback, warmup_steps=2)  # whose first step has a learning rate of 0
    assert [step for step, _ in callback.history] == [2, 3, 4]


@pytest.mark.slow
def test_experts_in_memory_are_compared_under_the_names_of_the_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}
    MixtralForCausalLM(MixtralConfig(**sizes)).save_pretrained(tmp_path / "base")
    names = [name for name in load_file(tmp_path / "base" / "model.safetensors") if ".experts." in name]
    assert len(names) == 3 * 4 * 3
    before = load_file(tmp_path / "base" / "model.safetensors")
    w = Delta.of_tensors({name: torch.randn(before[name].shape) for name in names})
    model = loaded(tmp_path / "base")
    callback = SimilarityCallback({"w": w}, every=2, base=tmp_path / "base")
    train(model, tmp_path / "run", callback, steps=2)
    model.save_pretrained(tmp_path / "after")
    after = load_file(tmp_path / "after" / "model.safetensors")
    change = {name: after[name].double() - before[name].double() for name in before}
    for shared, history in ((False, callback.history), (True, callback.history_shared)):
        expected = dense_cosine(change, {name: terms[0][1].tensor for name, terms in w.terms.items()}, shared)
        assert history[-1][1]["w"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.slow
def test_adapters_and_checkpoints_are_tracked_as_their_deltas(
    tmp_path: Path, tiny: Path, adapters: tuple[Path, Path]
) -> None:
    wsteer.steer(tiny, adapters[1], k=1, output=tmp_path / "tuned")
    shutil.copytree(adapters[1], tmp_path / "run" / "checkpoint-2")
    given = [adapters[0], tmp_path / "run" / "checkpoint-2", tmp_path / "tuned"]
    model = get_peft_model(loaded(tiny), LoraConfig(r=4, target_modules="all-linear"))
    callback = SimilarityCallback(given, every=4, base=tiny)
    train(model, tmp_path / "trained", callback)
    ((_, cosines),) = callback.history
    change = merged_change(model, tiny)
    for adapter, name in ((adapters[0], "pos"), (adapters[1], "checkpoint-2"), (adapters[1], "tuned")):
        products = {key: b.double() @ a.double() for key, (b, a) in adapter_factors(adapter).items()}
        assert cosines[name] == pytest.approx(dense_cosine(change, products), abs=2e-6)
    with pytest.raises(WsteerError, match=r"tuned is a checkpoint: .* needs --base"):
        SimilarityCallback([tmp_path / "tuned"])


def test_what_cannot_be_tracked_is_refused(tmp_path: Path, tiny: Path) -> None:
    with pytest.raises(WsteerError, match="one delta or more"):
        SimilarityCallback([])
    with pytest.raises(WsteerError, match="every=0"):
        SimilarityCallback({"w": Delta.of_tensors({"a": torch.ones(2)})}, every=0)
    with pytest.raises(WsteerError, match="does not exist"):
        SimilarityCallback([tmp_path / "no.safetensors"])
    other = SimilarityCallback({"w": Delta.of_tensors({"a": torch.ones(2)})}, every=2)
    with pytest.raises(WsteerError, match="no parameter in common"):
        train(get_peft_model(loaded(tiny), LoraConfig(r=2, target_modules=LINEAR)), tmp_path / "run", other)
    model, state = loaded(tiny), SimpleNamespace(is_world_process_zero=True)
    with pytest.raises(WsteerError, match="FSDP or ZeRO-3 spreads it"):
        other.on_train_begin(SimpleNamespace(fsdp=["full_shard"]), state, None, model=model)
    next(model.parameters()).ds_id = 0  # as DeepSpeed marks what it spreads
    with pytest.raises(WsteerError, match="FSDP or ZeRO-3 spreads it"):
        other.on_train_begin(SimpleNamespace(fsdp=None), state, None, model=model)


def test_the_callback_is_public() -> None:
    assert wsteer.SimilarityCallback is SimilarityCallback
