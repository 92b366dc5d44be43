"""Conditions told from the names of models in logs."""

import pytest

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.naming import base_among, conditions_of, named

NAMES = {
    "a server's adapter": ("vllm/org/model:sweep/k1", {}, "sweep k=1"),
    "a negative k": ("vllm/org/model:sweep/k-1.5", {}, "sweep k=-1.5"),
    "a served name of its own": ("vllm/model:polite-k0.5", {}, "polite k=0.5"),
    "a server's adapter without k": ("vllm/model:adapters/polite", {}, "polite k=1"),
    "our provider": ("wsteer/models/m", {"delta": "runs/w.safetensors", "k": "-2"}, "w k=-2"),
    "our provider, as its logs name it": ("wsteer/m~w_k_1-0123456789ab", {"delta": "w.safetensors", "k": 1}, "w k=1"),
    "our provider at a path with its mark": (
        "wsteer//home/a~b/m~w_k_1-0123456789ab",
        {"delta": "w.safetensors", "k": 1},
        "w k=1",
    ),
    "a condition of wsteer eval": ("wsteer/w_k_-0.5-0123456789ab", {}, "w k=-0.5"),
    "a checkpoint of wsteer eval": ("wsteer/ft_step_24-0123456789ab", {}, "ft step 24"),
    "lm-eval's adapter": ("m", {"pretrained": "m", "peft": "/data/sweep/k2/"}, "sweep k=2"),
    "lm-eval's checkpoint": ("/data/sweep/k2", {"pretrained": "/data/sweep/k2"}, "sweep k=2"),
    "a training step": ("hf/local", {"model_path": "run/checkpoint-24"}, "run step 24"),
}
PLAIN = {
    "lm-eval's model": ("org/model", {"pretrained": "org/model", "dtype": "float32"}, "model"),
    "inspect's model": ("hf/local", {"model_path": "/data/model"}, "model"),
    "a server's model": ("vllm/org/model", {}, "model"),
    "our provider's model, in the user's folder": ("wsteer/~/models/m", {}, "m"),
    "our provider's model at a path with its mark": ("wsteer//home/a~b/m~base-0123456789ab", {}, "m"),
    "a tag": ("ollama/llama3:8b", {}, "llama3:8b"),
    "our base": ("wsteer/base-0123456789ab", {}, "base"),
    "a name that ends in a k": ("openai/talk1", {}, "talk1"),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_name_or_the_arguments_tell_what_is_added(name: str) -> None:
    model, arguments, label = NAMES[name]
    found = named(model, arguments)
    assert found.method is not None
    assert found.condition().label == found.shown == label


@pytest.mark.parametrize("name", PLAIN)
def test_other_models_have_nothing_added(name: str) -> None:
    model, arguments, plain = PLAIN[name]
    found = named(model, arguments)
    assert (found.method, found.plain) == (None, plain)


def test_the_base_is_the_one_without_a_change_whoever_served_it() -> None:
    models = [named("vllm/m:s/k1", {}), named("vllm/org/m", {}), named("x", {"pretrained": "/data/m"})]
    base = base_among(models, None)
    assert base is not None and base.plain == "m"
    found = conditions_of(models, base, None)
    assert [each.label for each in found.values()] == ["s k=1", "base", "base"]
    own = Condition(BASE, model="sha")
    assert conditions_of(models, base, own)[models[1]] == own


def test_without_a_plain_model_the_base_is_k_0() -> None:
    models = [named(f"vllm/m:s/k{k}", {}) for k in (1, 0)]
    assert base_among(models, None) == models[1]
    assert base_among([], None) is None


def test_the_base_is_named_where_several_could_be_it() -> None:
    models = [named("openai/one", {}), named("openai/two", {})]
    with pytest.raises(WsteerError, match="name one with --base: one, two"):
        base_among(models, None)
    base = base_among(models, "two")
    assert base == models[1]
    assert [each.label for each in conditions_of(models, base, None).values()] == ["one", "base"]
    with pytest.raises(WsteerError, match="--base three is no model of these logs; they are one, two"):
        base_among(models, "three")


def test_changes_alone_have_no_base() -> None:
    models = [named(f"vllm/m:s/k{k}", {}) for k in (1, 2)]
    with pytest.raises(WsteerError, match="without a change"):
        base_among(models, None)
    assert base_among(models, "s k=2") == models[1]
