"""Embeddings and heads under names of their own, as `backbone.embeddings` and `output_projection`: known from files
and transformers."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

import wsteer
from tests.helpers.tied import TOKENS
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError

PLAIN = {"vocab_size": 30, "hidden_size": 16, "num_hidden_layers": 2}
ATTENTION = {**PLAIN, "intermediate_size": 24, "num_attention_heads": 2}
# by type: its config, and the names of embedding and head in the files
KINDS: dict[str, tuple[dict[str, Any], str, str]] = {
    "llama": (ATTENTION, "model.embed_tokens", "lm_head"),
    "mamba": ({**PLAIN, "state_size": 4}, "backbone.embeddings", "lm_head"),
    "ctrl": (
        {"vocab_size": 30, "n_embd": 16, "dff": 24, "n_layer": 1, "n_head": 2, "n_positions": 32},
        "transformer.w",
        "lm_head",
    ),
    "openai-gpt": (
        {"vocab_size": 30, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
        "transformer.tokens_embed",
        "lm_head",
    ),
    "rwkv": ({**PLAIN, "attention_hidden_size": 16}, "rwkv.embeddings", "head"),
    "biogpt": (ATTENTION, "biogpt.embed_tokens", "output_projection"),
}


def save(folder: Path, kind: str, tied: bool = True) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **KINDS[kind][0], tie_word_embeddings=tied))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> PreTrainedModel:
    """The model, none of whose tensors are missing, or stored for nothing."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    return model.eval()


@torch.no_grad()
def logits(model: torch.nn.Module) -> Tensor:
    return model(TOKENS[:, :8]).logits


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_tied_pair_is_known_by_its_own_names(tmp_path: Path, kind: str) -> None:
    names = tuple(f"{name}.weight" for name in KINDS[kind][1:])
    assert open_checkpoint(save(tmp_path / "tied", kind)).tied == names
    untied = open_checkpoint(save(tmp_path / "untied", kind, tied=False))
    assert untied.tied is None and untied.ends == names and untied.stored_head == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("ends", [[1], [2], [1, 2]], ids=["embedding", "head", "both"])
def test_an_adapter_of_either_end_is_steered_as_peft_runs_it(tmp_path: Path, kind: str, ends: list[int]) -> None:
    base = save(tmp_path / "base", kind)
    torch.manual_seed(1)
    adapted = get_peft_model(loaded(base), LoraConfig(r=2, target_modules=[str(KINDS[kind][end]) for end in ends]))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    adapted.save_pretrained(tmp_path / "adapter")
    expected = logits(adapted.eval())
    wsteer.diff(tmp_path / "adapter", output=tmp_path / "w.safetensors", base=base)
    wsteer.steer(base, tmp_path / "w.safetensors", k=1, output=tmp_path / "out")
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), expected, rtol=0, atol=2e-5)
    model = loaded(base)
    with wsteer.applied(model, Delta.load(tmp_path / "w.safetensors"), 1.0, open_checkpoint(base)):
        torch.testing.assert_close(logits(model), expected, rtol=0, atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "mamba"])
@pytest.mark.parametrize("end", [1, 2], ids=["embedding", "head"])
def test_a_checkpoint_may_store_the_head_alone(tmp_path: Path, kind: str, end: int) -> None:
    """transformers takes the embedding from it; a change of one of them is not one of the other."""
    base = save(tmp_path / "base", kind)
    embedding, head = (f"{name}.weight" for name in KINDS[kind][1:])
    tensors = load_file(base / "model.safetensors")
    tensors[head] = tensors.pop(embedding)
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    assert open_checkpoint(base).tied == (head, embedding)
    adapted = get_peft_model(loaded(base), LoraConfig(r=2, target_modules=[str(KINDS[kind][end])])).eval()
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3 * torch.randn(parameter.shape))
    adapted.save_pretrained(tmp_path / "adapter")
    wsteer.steer(base, tmp_path / "adapter", k=1, output=tmp_path / "out")
    torch.testing.assert_close(logits(loaded(tmp_path / "out")), logits(adapted), rtol=0, atol=2e-5)
    own = torch.randn(tensors[head].shape)
    Delta.of_tensors({head: own}).save(tmp_path / "w.safetensors")  # of the one tied tensor
    wsteer.steer(base, tmp_path / "w.safetensors", k=1, output=tmp_path / "both")
    model = loaded(tmp_path / "both")
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    torch.testing.assert_close(model.get_output_embeddings().weight.detach(), tensors[head] + own, rtol=0, atol=1e-6)
    Delta.of_tensors({embedding: own}).save(tmp_path / "other.safetensors")
    with pytest.raises(WsteerError, match="is tied to the head"):
        wsteer.steer(base, tmp_path / "other.safetensors", k=1, output=tmp_path / "never")
    usual = save(tmp_path / "usual", kind)
    wsteer.diff(tmp_path / "both", output=tmp_path / "t.safetensors", base=usual)  # the pair under its other name
    assert set(Delta.load(tmp_path / "t.safetensors").terms) == {embedding}
    wsteer.steer(usual, tmp_path / "t.safetensors", k=1, output=tmp_path / "again")
    torch.testing.assert_close(logits(loaded(tmp_path / "again")), logits(model.eval()), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["mamba", "rwkv"])
def test_an_embedding_may_be_tied_where_the_base_is_not_at_hand(tmp_path: Path, kind: str) -> None:
    base = save(tmp_path / "base", kind)
    adapted = get_peft_model(loaded(base), LoraConfig(r=2, target_modules=[KINDS[kind][1]]))
    adapted.save_pretrained(tmp_path / "adapter")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(WsteerError, match="may be tied to the head, which needs the base"):
        wsteer.diff(tmp_path / "adapter", output=tmp_path / "w.safetensors")
