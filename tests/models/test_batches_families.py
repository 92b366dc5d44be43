"""What models of many families have: positions, embeddings, and states that may read the padding of a batch."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers

from tests.helpers.tiny import save_tokenizer
from wsteer.activations.recording import Span, span_means
from wsteer.errors import WsteerError
from wsteer.models.generation import Answer, _first_logits, answer
from wsteer.models.loading import LoadedModel, load, max_positions
from wsteer.models.rendering import prompts
from wsteer.progress import silent

IDS = {"vocab_size": 262, "bos_token_id": 256, "eos_token_id": 257, "pad_token_id": 258}
SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, **IDS}
MAMBA = {"state_size": 8, "num_hidden_layers": 2, "hidden_size": 32, **IDS}
HYBRID = {
    "mamba_n_heads": 4,
    "mamba_d_head": 16,
    "mamba_d_state": 8,
    "mamba_n_groups": 1,
    "attn_layer_indices": [1],
    "num_key_value_heads": 2,
}
LINEAR = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    "num_key_value_heads": 2,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
}
EXPERTS = {
    "num_experts": 2,
    "num_experts_per_tok": 1,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
}
MINIMAX = {
    "layer_types": ["linear_attention", "full_attention"],
    "head_dim": 8,
    "num_key_value_heads": 2,
    "num_local_experts": 2,
}
# the angles of every row depend on the longest row of the batch
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}
KINDS: dict[str, tuple[str, dict]] = {
    "llama": ("Llama", SIZES),
    "gpt2": ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64, **IDS}),
    "opt": ("OPT", {**SIZES, "ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}),
    "bloom": ("Bloom", {"hidden_size": 32, "n_layer": 2, "n_head": 4, **IDS}),
    "falcon": ("Falcon", {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, **IDS}),
    "mpt": ("Mpt", {"d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, **IDS}),
    "mamba": ("Mamba", MAMBA),
    "lfm2": ("Lfm2", {**SIZES, "num_key_value_heads": 2, "layer_types": ["conv", "full_attention"]}),
    "bamba": ("Bamba", {**SIZES, **HYBRID}),
    "qwen3_next": ("Qwen3Next", {**SIZES, **LINEAR, **EXPERTS}),
    # these read the padding, whatever the mask says, or its length
    "rwkv": ("Rwkv", {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, **IDS}),
    "recurrent_gemma": ("RecurrentGemma", {**SIZES, "num_hidden_layers": 3, "lru_width": 32}),
    "minimax": ("MiniMax", {**SIZES, **MINIMAX}),
    "phi3": (
        "Phi3",
        {
            **SIZES,
            "max_position_embeddings": 128,
            "original_max_position_embeddings": 16,
            "rope_parameters": {**LONG, "original_max_position_embeddings": 16},
        },
    ),
}
READ_PADDING = ("rwkv", "recurrent_gemma", "minimax", "phi3")
CHATS = [[{"role": "user", "content": "x" * length}] for length in (3, 17, 1, 30)]


def made(folder: Path, kind: str, dtype: str = "float32") -> LoadedModel:
    """A tiny random model of a family, every parameter of it, so that no bias or state stays at zero."""
    name, sizes = KINDS[kind]
    config = getattr(transformers, f"{name}Config")(**sizes)
    model = transformers.AutoModelForCausalLM.from_config(config)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return load(folder, "cpu", dtype)


def row_counts(loaded: LoadedModel, run: Callable[[], object]) -> list[int]:
    """How many rows each forward pass of `run` had."""
    counts: list[int] = []

    hook = loaded.model.get_input_embeddings().register_forward_pre_hook(
        lambda _module, inputs: counts.append(len(inputs[0]))
    )
    run()
    hook.remove()
    return counts


@pytest.mark.parametrize("kind", KINDS)
def test_answers_do_not_depend_on_the_batch_in_any_family(tmp_path: Path, kind: str) -> None:
    loaded = made(tmp_path, kind)
    answers: list[Answer] = []
    counts = row_counts(loaded, lambda: answers.extend(answer(loaded, CHATS, 6, batch_size=4)))
    assert answers == [answer(loaded, [chat], 6)[0] for chat in CHATS]
    # two passes each of the shortest row alone and beside the longest, and then the answers themselves
    assert counts[:4] == [1, 1, 2, 2]
    assert max(counts[4:]) == (1 if kind in READ_PADDING else 4)


@pytest.mark.parametrize(
    ("kind", "rows"), [("llama", 4), ("mamba", 4), ("qwen3_next", 4), ("recurrent_gemma", 1), ("minimax", 1)]
)
def test_padding_is_found_to_be_read_in_16_bits_too(tmp_path: Path, kind: str, rows: int) -> None:
    loaded = made(tmp_path, kind, "bfloat16")
    counts = row_counts(loaded, lambda: answer(loaded, CHATS, 3, batch_size=4))
    assert counts[-1] == rows


@pytest.mark.parametrize("kind", READ_PADDING)
def test_the_families_that_run_alone_do_read_the_padding(tmp_path: Path, kind: str) -> None:
    loaded = made(tmp_path, kind)
    asked = prompts(loaded.tokenizer, CHATS)
    alone, beside = _first_logits(loaded, [asked[2]])[0], _first_logits(loaded, [asked[2], asked[3]])[0]
    assert (alone - beside).abs().max() > 1e-3 * alone.std()


@pytest.mark.parametrize("kind", KINDS)
def test_activations_do_not_depend_on_the_batch_in_any_family(tmp_path: Path, kind: str) -> None:
    loaded = made(tmp_path, kind)
    spans = [Span(torch.tensor(row), 1, len(row)) for row in prompts(loaded.tokenizer, CHATS)]
    both = [
        {
            i: mean
            for indices, means in span_means(loaded, spans, size, silent)
            for i, mean in zip(indices, means.unbind(1), strict=True)
        }
        for size in (1, 4)
    ]
    for i in range(len(spans)):
        torch.testing.assert_close(both[0][i], both[1][i], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("kind", "most"), [("mpt", 64), ("gpt2", 64), ("opt", 64), ("bloom", None), ("mamba", None)])
def test_rows_reach_the_models_last_position_and_not_beyond(tmp_path: Path, kind: str, most: int | None) -> None:
    loaded = made(tmp_path, kind)
    assert max_positions(loaded) == most
    prompt = len(prompts(loaded.tokenizer, CHATS[:1])[0])
    answer(loaded, CHATS[:1], 64 - prompt)
    if most is None:
        answer(loaded, CHATS[:1], 80 - prompt)
    else:
        with pytest.raises(WsteerError, match=f"a row of 65 tokens is longer than the {most} positions"):
            answer(loaded, CHATS[:1], 65 - prompt)
