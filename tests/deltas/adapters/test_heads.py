"""What an adapter does to a tied embedding and head is read from its tensors: the weights the unmerged adapter has."""

from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

import wsteer
from tests.helpers.tied import MODULES, TOKENS, embedding_name, ends_of, loaded, save_tied, store_head
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.adapters.adapter import read_adapter
from wsteer.deltas.inputs import adapter_delta
from wsteer.errors import WsteerError

# E and Q stand for the model's own embedding and attention
CASES = {
    "LoRA on E": {"target_modules": ["Q", "E"]},
    "LoRA on the head": {"target_modules": ["Q", "lm_head"]},
    "LoRA on both": {"target_modules": ["E", "lm_head"]},
    "LoRA on E, tied": {"target_modules": ["Q", "E"], "ensure_weight_tying": True},
    "LoRA on the head, tied": {"target_modules": ["lm_head"], "ensure_weight_tying": True},
    "LoRA on both, tied": {"target_modules": ["E", "lm_head"], "ensure_weight_tying": True},
    "DoRA on both": {"target_modules": ["E", "lm_head"], "use_dora": True},
    "E saved": {"modules_to_save": ["E"]},
    "head saved": {"modules_to_save": ["lm_head"]},
    "both saved": {"modules_to_save": ["E", "lm_head"]},
    "E saved, tied": {"modules_to_save": ["E"], "ensure_weight_tying": True},
    "head saved, tied": {"modules_to_save": ["lm_head"], "ensure_weight_tying": True},
    "both saved, tied": {"modules_to_save": ["E", "lm_head"], "ensure_weight_tying": True},
    "tokens": {"trainable_token_indices": [3, 7]},
    "tokens, tied": {"trainable_token_indices": [3, 7], "ensure_weight_tying": True},
    "tokens of the head": {"trainable_token_indices": {"lm_head": [3, 7]}},
    "equal tokens of both": {"trainable_token_indices": {"E": [3, 7], "lm_head": [3, 7]}},
    "other tokens of both": {"trainable_token_indices": {"E": [3, 7], "lm_head": [4, 9, 7]}},
    "tokens, LoRA on the head": {"target_modules": ["Q", "lm_head"], "trainable_token_indices": [3, 7]},
    "tokens of the head, LoRA on E": {"target_modules": ["E"], "trainable_token_indices": {"lm_head": [3, 7]}},
}
# where both change alike, and peft stores that they do
STAY_TIED = {
    "llama": ("LoRA on E, tied", "E saved, tied"),
    "all": (
        *("LoRA on the head, tied", "LoRA on both, tied", "head saved, tied", "both saved, tied"),
        *("tokens", "tokens, tied", "equal tokens of both"),
    ),
}


def own(value: object, model_type: str) -> object:
    """The settings with the model's own names for E and Q."""
    embedding, attention = MODULES[model_type]
    if isinstance(value, dict):
        return {own(key, model_type): own(item, model_type) for key, item in value.items()}
    if isinstance(value, list):
        return [own(item, model_type) for item in value]
    return {"E": embedding, "Q": attention}.get(value, value) if isinstance(value, str) else value


def adapted(base: Path, folder: Path, settings: dict, model_type: str) -> torch.nn.Module:
    """An adapter with moved values, saved; the unmerged model is returned."""
    torch.manual_seed(1)
    config = {"r": 2, "lora_alpha": 6, "target_modules": ["Q"], **settings}
    model = get_peft_model(loaded(base), LoraConfig(**own(config, model_type))).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return model


def moved(terms: dict, name: str, shape: torch.Size) -> torch.Tensor:
    """The change of a parameter, or zeros if it has none; float64."""
    return terms.change(name).rows(0, shape[0]).double() if name in terms.terms else torch.zeros(shape).double()


@pytest.mark.slow
@pytest.mark.parametrize("model_type", list(MODULES))
@pytest.mark.parametrize("case", list(CASES))
def test_the_ends_change_as_in_the_unmerged_adapter(tmp_path: Path, case: str, model_type: str) -> None:
    base = save_tied(tmp_path / "base", model_type)
    embedding = embedding_name(base)
    before = ends_of(loaded(base))
    after = ends_of(adapted(base, tmp_path / "adapter", CASES[case], model_type).get_base_model())
    checkpoint = open_checkpoint(base)
    delta = adapter_delta(read_adapter(tmp_path / "adapter", checkpoint)).bound(checkpoint)
    stays_tied = case in STAY_TIED["all"] or (case in STAY_TIED["llama"] and MODULES[model_type][0] == "embed_tokens")
    assert delta.untied is not stays_tied
    changes = [moved(delta, name, before[0].shape) for name in (embedding, "lm_head.weight")]
    if stays_tied:
        assert "lm_head.weight" not in delta.terms
        changes[1] = changes[0]
    scales = (4.0 if model_type == "gemma" else 1.0, 1.0)  # Gemma multiplies what its embedding gives by √hidden
    for old, new, change, scale in zip(before, after, changes, scales, strict=True):
        torch.testing.assert_close(old + scale * change, new, rtol=0, atol=2e-5)
    assert any((new - old).abs().max() > 1e-2 for old, new in zip(before, after, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["gpt2", "gemma"])
@pytest.mark.parametrize("stored", [False, True], ids=["no head stored", "head stored"])
@pytest.mark.parametrize("case", ["LoRA on E, tied", "other tokens of both", "tokens, LoRA on the head", "both saved"])
def test_the_steered_checkpoint_has_the_logits_of_the_adapter(
    tmp_path: Path, case: str, stored: bool, model_type: str
) -> None:
    base = save_tied(tmp_path / "base", model_type)
    if stored:
        store_head(base, forget=True)
    with torch.no_grad():
        expected = adapted(base, tmp_path / "adapter", CASES[case], model_type)(TOKENS).logits
    wsteer.diff(tmp_path / "adapter", output=tmp_path / "t.safetensors", base=base)
    wsteer.steer(base, tmp_path / "t.safetensors", k=1, output=tmp_path / "out")
    with torch.no_grad():
        torch.testing.assert_close(loaded(tmp_path / "out")(TOKENS).logits, expected, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
@pytest.mark.parametrize("case", ["tokens", "other tokens of both", "both saved", "LoRA on E"])
def test_a_head_of_its_own_that_the_config_ties_takes_the_tokens_as_in_peft(
    tmp_path: Path, case: str, model_type: str
) -> None:
    """transformers does not tie it, since its values differ from the embedding's; peft's trained tokens do."""
    base = store_head(save_tied(tmp_path / "base", model_type), torch.randn(30, 16), forget=model_type == "gpt2")
    before = ends_of(loaded(base))
    after = ends_of(adapted(base, tmp_path / "adapter", CASES[case], model_type).get_base_model())
    checkpoint = open_checkpoint(base)
    delta = adapter_delta(read_adapter(tmp_path / "adapter", checkpoint)).bound(checkpoint)
    for name, old, new in zip((embedding_name(base), "lm_head.weight"), before, after, strict=True):
        torch.testing.assert_close(old + moved(delta, name, old.shape), new, rtol=0, atol=2e-5)


@pytest.mark.parametrize("case", ["LoRA on the head, tied", "both saved, tied", "both saved"])
def test_equal_changes_of_both_are_one_without_the_base_too(tmp_path: Path, case: str) -> None:
    base = save_tied(tmp_path / "base", "llama")
    adapted(base, tmp_path / "adapter", CASES[case], "llama")
    base.rename(tmp_path / "elsewhere")
    adapter = read_adapter(tmp_path / "adapter", None)
    names = {name for name in adapter.terms if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    assert adapter.untied is (case == "both saved")
    assert len(names) == (2 if case == "both saved" else 1)


def test_trained_tokens_beside_a_head_need_the_base(tmp_path: Path) -> None:
    """Whether the head takes the tokens too, only the base can tell."""
    base = save_tied(tmp_path / "base", "llama")
    adapted(base, tmp_path / "adapter", CASES["tokens, LoRA on the head"], "llama")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(WsteerError, match="needs the base"):
        wsteer.diff(tmp_path / "adapter", output=tmp_path / "t.safetensors")
