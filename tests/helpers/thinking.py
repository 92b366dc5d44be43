"""Models whose templates know thoughts, and what they say."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoTokenizer

from tests.helpers.tiny import save_model
from wsteer.models import generation

TAGS = (
    "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' and m.reasoning_content %}"
    "<think>{{ m.reasoning_content }}</think>{% endif %}{{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
CHANNELS = (
    "{% for m in messages %}<|start|>{{ m['role'] }}{% if m['role'] == 'assistant' %}<|channel|>final{% endif %}"
    "<|message|>{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
# each template with a thought, a text that ends inside it, and one that goes on to an answer
KINDS = {
    "tags": (TAGS, "<think>{}", "</think>\n{}"),
    "channels": (
        CHANNELS,
        "<|channel|>analysis<|message|>{}",
        "<|end|><|start|>assistant<|channel|>final<|message|>{}",
    ),
}


def save_thinking_model(folder: Path, kind: str) -> Path:
    """A tiny random model with a template of that kind; channels are marked by special tokens, tags are text."""
    save_model(folder, vocab_size=280)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.chat_template = KINDS[kind][0]
    special = ["<|start|>", "<|end|>", "<|channel|>", "<|message|>"]
    tokenizer.add_special_tokens({"additional_special_tokens": special})
    tokenizer.save_pretrained(folder)
    return folder


def say(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let every model answer `text` and its end, as far as the limit of tokens goes."""

    def run(loaded, asked, max_new_tokens, processors, **more) -> SimpleNamespace:
        said = [*loaded.tokenizer(text, add_special_tokens=False)["input_ids"], loaded.tokenizer.eos_token_id]
        row = [0] * max(map(len, asked)) + said[:max_new_tokens]
        return SimpleNamespace(sequences=torch.tensor([row] * len(asked)), logits=(torch.zeros(len(asked), 2),))

    monkeypatch.setattr(generation, "_run", run)
