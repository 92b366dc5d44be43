"""Models that tie the head to the embedding, and what of them their files may store or leave to the config's class."""

import json
import shutil
from pathlib import Path

import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

SMALL = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 30,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
SIZES = {
    "llama": SMALL,
    "gemma": {**SMALL, "head_dim": 8},
    "cohere": SMALL,
    "gpt2": {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "n_positions": 32},
    "falcon": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 30},
    "bloom": {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30},
    "mpt": {"d_model": 16, "n_heads": 2, "n_layers": 1, "vocab_size": 30, "max_seq_len": 32},
}
# the name of the embedding's module, and of a layer of attention
MODULES = {
    "llama": ("embed_tokens", "q_proj"),
    "gemma": ("embed_tokens", "q_proj"),
    "gpt2": ("wte", "c_attn"),
    "falcon": ("word_embeddings", "query_key_value"),
    "bloom": ("word_embeddings", "query_key_value"),
    "mpt": ("wte", "Wqkv"),
}
TOKENS = torch.arange(3, 27)[None]


def save_tied(folder: Path, model_type: str, **changes: object) -> Path:
    """A tiny checkpoint whose head is its embedding; `shard` limits the shards' size."""
    shard = changes.pop("shard", "1GB")
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SIZES[model_type], tie_word_embeddings=True)
    model = AutoModelForCausalLM.from_config(config, **changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder, max_shard_size=shard)
    return folder


def embedding_name(folder: Path) -> str:
    """The embedding's name in the files of a folder with one weight file."""
    modules = {module for module, _ in MODULES.values()}
    return next(name for name in load_file(folder / "model.safetensors") if name.split(".")[-2] in modules)


def store_head(folder: Path, head: Tensor | None = None, forget: bool = False) -> Path:
    """Store the head as well, a copy of the embedding or `head`; `forget`: the config does not say if it is tied."""
    tensors = load_file(folder / "model.safetensors")
    copied = tensors[embedding_name(folder)].clone() if head is None else head
    save_file({**tensors, "lm_head.weight": copied}, folder / "model.safetensors", metadata={"format": "pt"})
    if forget:
        config = json.loads((folder / "config.json").read_text())
        del config["tie_word_embeddings"]
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def in_shards(folder: Path, names: list[str]) -> Path:
    """The same tensors in two shards with an index; `names` are those of the first."""
    tensors = load_file(folder / "model.safetensors")
    parts = [names, [name for name in tensors if name not in names]]
    files = [f"model-{number:05d}-of-00002.safetensors" for number in (1, 2)]
    weight_map = {}
    for part, file in zip(parts, files, strict=True):
        save_file({name: tensors[name] for name in part}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    return folder


def pickled(folder: Path) -> Path:
    """The same tensors in PyTorch's format; a copy of the embedding is the same storage, as in models of that time."""
    tensors = load_file(folder / "model.safetensors")
    if "lm_head.weight" in tensors:
        tensors["lm_head.weight"] = tensors[embedding_name(folder)]
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    return folder


def loaded(folder: Path) -> PreTrainedModel:
    """The model as transformers loads it, float32."""
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def ends_of(model: torch.nn.Module) -> tuple[Tensor, Tensor]:
    """The weights [tokens, hidden] that the embedding and the head act with, adapters included; float64."""
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    tokens = torch.arange(SMALL["vocab_size"])[None]
    with torch.no_grad():
        return embedding(tokens)[0].double(), head(torch.eye(SMALL["hidden_size"])[None])[0].T.double()


def copied(folder: Path, to: Path) -> Path:
    """A copy of a checkpoint's folder."""
    return Path(shutil.copytree(folder, to))
