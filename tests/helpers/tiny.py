"""Tiny random models, their tokenizer, and adapters on them."""

from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}>{{ message['content'] | trim }}<end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
SPECIAL = ["<bos>", "<end>", "<pad>", "<system>", "<user>", "<assistant>"]
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256 + len(SPECIAL),
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
KINDS = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "gpt2": (GPT2Config, GPT2LMHeadModel),  # its config.json names the sizes otherwise: n_layer, n_embd
}


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of single bytes with six special tokens and a chat template."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*alphabet, *SPECIAL])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<bos>", eos_token="<end>", pad_token="<pad>", chat_template=TEMPLATE
    )
    fast.save_pretrained(folder)


def save_model(folder: Path, kind: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0, **changes) -> Path:
    """A tiny random checkpoint with its tokenizer; `shard` limits the shards' size, as "20KB"."""
    shard = changes.pop("shard", "1GB")
    torch.manual_seed(seed)
    config_class, model_class = KINDS[kind]
    model = model_class(config_class(**{**SIZES, "tie_word_embeddings": False, **changes})).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    save_tokenizer(folder)
    return folder


def save_adapter(folder: Path, base: Path, seed: int, std: float = 0.02, **config) -> Path:
    """A LoRA adapter on all linear layers with random A and B."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **config}
    adapted = get_peft_model(model, LoraConfig(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(std * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(folder)
    return folder
