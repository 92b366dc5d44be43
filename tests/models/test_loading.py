"""Models are loaded whole, without code or settings of the checkpoint, or refused."""

from pathlib import Path

import pytest
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests.helpers.tiny import save_model, save_tokenizer
from wsteer.errors import WsteerError
from wsteer.models.generation import answer
from wsteer.models.loading import check_rows, decoder_blocks, load


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_decoder_blocks_are_found(tmp_path: Path, kind: str) -> None:
    model = load(save_model(tmp_path / kind, kind), "cpu").model
    assert decoder_blocks(model) is model.model.layers


def test_a_checkpoints_sampling_settings_do_not_leak(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    settings = '{"eos_token_id": [257, 256], "repetition_penalty": 1.9, "do_sample": true, "temperature": 0.1}'
    (folder / "generation_config.json").write_text(settings)
    config = load(folder, "cpu").model.generation_config
    assert config.eos_token_id == [257, 256]
    assert config.repetition_penalty in (None, 1.0)
    assert not config.do_sample


def test_a_checkpoint_with_missing_tensors_is_refused(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if "layers.1.mlp" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(WsteerError, match=r"lacks 'model\.layers\.1\.mlp"):
        load(folder, "cpu")


@pytest.mark.parametrize("config", ["[]", '{"model_type": "llama", "num_hidden_layers": "three"}', "{"])
def test_strange_configs_are_one_error(tmp_path: Path, config: str) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text(config)
    with pytest.raises(WsteerError):
        load(folder, "cpu")


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model")
    (folder / "config.json").write_text('{"model_type": "evil", "auto_map": {"AutoConfig": "evil.Config"}}')
    (folder / "evil.py").write_text("raise SystemExit('code of the checkpoint ran')")
    with pytest.raises(WsteerError, match="model contains custom code"):
        load(folder, "cpu")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_token_without_embedding_is_refused_by_name_where_a_row_has_it(tmp_path: Path, kind: str) -> None:
    folder = save_model(tmp_path / "model", kind)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<late>"]})  # 262: the model has 0 to 261
    tokenizer.save_pretrained(folder)
    loaded = load(folder, "cpu")
    assert len(answer(loaded, [[{"role": "user", "content": "early"}]], 2)) == 1
    with pytest.raises(WsteerError, match=r"the token '<late>' \(262\), and the model has embeddings of 262"):
        answer(loaded, [[{"role": "user", "content": "a <late> one"}]], 2)
    with pytest.raises(WsteerError, match="<late>"):
        check_rows(loaded, [[5, 261], [7, 262]])


IDS = {"vocab_size": 262, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
BERT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4, **IDS}
XLNET = {
    "d_model": 32,
    "n_layer": 1,
    "n_head": 4,
    "d_inner": 48,
    **IDS,
}  # its max_position_embeddings are -1: any number


@pytest.mark.parametrize(("kind", "head", "sizes"), [("XLNet", "LMHeadModel", XLNET), ("Bert", "LMHeadModel", BERT)])
def test_a_model_that_reads_what_follows_is_refused(tmp_path: Path, kind: str, head: str, sizes: dict) -> None:
    config = getattr(transformers, f"{kind}Config")(**sizes)
    getattr(transformers, kind + head)(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(WsteerError, match=rf"\({kind.lower()}\) reads the tokens that follow.* from left to right$"):
        load(tmp_path, "cpu")


@pytest.mark.parametrize(
    ("kind", "sizes"), [("BertLMHeadModel", {**BERT, "is_decoder": True}), ("BloomForCausalLM", {})]
)
def test_a_model_that_reads_from_left_to_right_is_loaded(tmp_path: Path, kind: str, sizes: dict) -> None:
    made = getattr(transformers, kind)
    made(made.config_class(**(sizes or {"hidden_size": 32, "n_layer": 1, "n_head": 4, **IDS}))).save_pretrained(
        tmp_path
    )
    save_tokenizer(tmp_path)
    assert load(tmp_path, "cpu").model.config.vocab_size == 262
