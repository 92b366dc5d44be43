"""Whether a head is the embedding: what files store and what the config's class assumes, as transformers loads it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

import wsteer
from tests.helpers.merging import train
from tests.helpers.tied import SIZES, embedding_name, loaded, save_tied, store_head
from wsteer.checkpoints import checkpoint
from wsteer.checkpoints.checkpoint import base_entry, open_checkpoint
from wsteer.checkpoints.ties import ties
from wsteer.deltas.delta import Delta

TYPES = ("llama", "gemma", "cohere", "gpt2", "falcon", "bloom", "mpt", "gpt_neox", "qwen2", "opt")


@pytest.mark.parametrize("model_type", TYPES)
def test_a_config_without_the_key_means_what_its_class_assumes(model_type: str) -> None:
    assert ties({"model_type": model_type}) is AutoConfig.for_model(model_type).tie_word_embeddings
    assert ties({"model_type": model_type, "tie_word_embeddings": False}) is False


def test_models_with_towers_take_the_text_part_where_their_class_does() -> None:
    llava = {"model_type": "llava", "text_config": {"model_type": "llama", "tie_word_embeddings": True}}
    assert ties(llava) is True
    assert ties({"model_type": "gemma3", "text_config": {}}) is True
    assert ties({"model_type": "gemma3", "text_config": {}, "tie_word_embeddings": False}) is False


@pytest.mark.parametrize("config", [{}, {"model_type": "of mine"}, {"model_type": "llama", "hidden_size": "wide"}])
def test_a_config_that_transformers_does_not_know_means_what_it_says(config: dict) -> None:
    assert ties(config) is False
    assert ties({**config, "text_config": {"tie_word_embeddings": True}}) is True


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "gemma", "gpt2", "falcon", "cohere"])
@pytest.mark.parametrize("forget", [False, True], ids=["said", "not said"])
def test_a_stored_head_is_tied_exactly_where_loading_ties_it(tmp_path: Path, model_type: str, forget: bool) -> None:
    base = save_tied(tmp_path / "base", model_type)
    other = torch.randn(SIZES[model_type]["vocab_size"], 16)
    for name, head in (("copy", None), ("own", other)):
        folder = store_head(save_tied(tmp_path / name, model_type), head, forget)
        model, opened = loaded(folder), open_checkpoint(folder)
        is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
        assert (opened.tied is not None) is is_tied
        assert ("lm_head.weight" in opened.parameters()) is not is_tied
        assert base_entry("lm_head.weight", opened) == opened.tensors["lm_head.weight"]
    assert open_checkpoint(base).tied is not None  # a head that is not stored is the embedding


def test_a_copy_of_another_dtype_is_a_copy(tmp_path: Path) -> None:
    folder = save_tied(tmp_path / "base", "llama", dtype=torch.bfloat16)
    weight = load_file(folder / "model.safetensors")[embedding_name(folder)]
    assert open_checkpoint(store_head(folder, weight.float())).tied is not None
    assert open_checkpoint(store_head(folder, weight.float() + 1e-6)).tied is None


def test_the_class_is_not_asked_where_the_answer_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(config: dict) -> bool:
        raise AssertionError("asked")

    monkeypatch.setattr(checkpoint, "ties", refused)
    base = store_head(save_tied(tmp_path / "base", "llama"), forget=True)
    Delta.of_tensors({"model.norm.weight": torch.ones(16)}).save(tmp_path / "d.safetensors")
    wsteer.steer(base, tmp_path / "d.safetensors", k=1, output=tmp_path / "out")
    untied = store_head(save_tied(tmp_path / "untied", "llama"), torch.randn(30, 16), forget=True)
    assert open_checkpoint(untied).tied is None


CODE = """
import sys
import wsteer
wsteer.diff("ad", output="d.safetensors", base="base")
wsteer.steer("base", "d.safetensors", k=1, output="out")
print("MODULES", *sys.modules)
"""


@pytest.mark.slow
def test_an_adapter_of_other_layers_imports_no_transformers(tmp_path: Path) -> None:
    """The base stores a copy of its head and its config does not say that it is one: the case that needs the class."""
    base = store_head(save_tied(tmp_path / "base", "gemma"), forget=True)
    train(loaded(base), tmp_path / "ad", target_modules=["q_proj"])
    done = subprocess.run([sys.executable, "-c", CODE], cwd=tmp_path, capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in done.stdout.split()}
    assert "torch" in modules and not modules & {"transformers", "peft"}
