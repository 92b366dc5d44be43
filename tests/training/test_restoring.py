"""A base that several runs share is what it was loaded as, bit for bit, after each of them."""

import weakref
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.helpers.architectures import save_tiny
from wsteer.models.loading import LoadedModel, load
from wsteer.training import methods
from wsteer.training.memory import checkpoint_gradients
from wsteer.training.recipe import Recipe
from wsteer.training.restoring import SharedBase, restored

RECIPES = {
    "lora": Recipe(rank=2),
    "dora": Recipe(rank=2, dora=True),
    "whole": Recipe(rank=2, modules_to_save=("lm_head",)),
    "bias": Recipe(method="bias"),
}


def described(model: nn.Module) -> dict:
    """All that makes a model compute what it computes, by name; tensors by their bytes."""
    found: dict = {"classes": [(name, type(module).__name__) for name, module in model.named_modules()]}
    found["own"] = [sorted(vars(module)) for module in model.modules()]
    found["training"] = [module.training for module in model.modules()]
    found["hooks"] = [(len(module._forward_hooks), len(module._forward_pre_hooks)) for module in model.modules()]
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[name] = (tensor.dtype, tensor.requires_grad, tensor.grad, tensor.detach().float().numpy().tobytes())
    return {**found, "config": model.config.to_dict()}


def train(loaded: LoadedModel, base: Path, recipe: Recipe) -> None:
    """What a run does to the model: its method's modules, checkpointed gradients, a step."""
    model = methods.prepare(loaded, base, recipe)
    checkpoint_gradients(loaded.model)
    model.train()
    optimizer = torch.optim.AdamW(methods.trained_parameters(model).values(), lr=0.1)
    ids = torch.arange(6)[None]
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()


@pytest.mark.parametrize(
    ("kind", "recipe"),
    [
        ("llama", "lora"),
        ("llama_tied", "whole"),
        ("llama", "bias"),
        ("qwen2", "dora"),
        ("gpt2", "lora"),
        ("mamba", "lora"),
        ("qwen3_moe", "lora"),
        ("gemma3", "lora"),
    ],
)
def test_the_model_is_restored_to_its_bits_and_settings(tmp_path: Path, kind: str, recipe: str) -> None:
    base = save_tiny(tmp_path / "base", kind)
    loaded = load(base, "cpu", "float32")
    before = described(loaded.model)
    with restored(loaded.model):
        train(loaded, base, RECIPES[recipe])
        assert described(loaded.model) != before
    assert described(loaded.model) == before


@pytest.mark.slow
def test_a_base_is_loaded_once_unless_its_own_weights_were_trained(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "llama")
    before = described(load(base, "cpu", "float32").model)
    for recipe, spoilt in ((Recipe(rank=2), False), (Recipe(method="full"), True)):
        models = []
        shared = SharedBase(lambda: load(base, "cpu", "float32"), spoilt)
        for _ in range(3):
            with shared.lent() as loaded:
                assert described(loaded.model) == before
                train(loaded, base, recipe)
                models.append(weakref.ref(loaded.model))
            del loaded
        alive = [model() is not None for model in models]
        assert alive == [not spoilt] * 3  # a spoilt base does not stay in memory beside the next one
        assert len({id(model()) for model in models}) == 1


def test_a_failure_inside_leaves_the_base_restored(tmp_path: Path) -> None:
    base = save_tiny(tmp_path / "base", "llama")
    shared = SharedBase(lambda: load(base, "cpu", "float32"), spoilt=False)
    before = described(shared.loaded.model)
    with pytest.raises(KeyboardInterrupt), shared.lent() as loaded:
        train(loaded, base, RECIPES["bias"])
        raise KeyboardInterrupt
    assert described(shared.loaded.model) == before
