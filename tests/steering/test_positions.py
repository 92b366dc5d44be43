"""Activation vectors by the role of each token: the same however the model reads the tokens, and never on padding."""

import contextlib
from collections.abc import Iterator, Sequence

import pytest
import torch
import transformers
from torch import Tensor
from transformers import PreTrainedModel

import wsteer
from tests.helpers.architectures import LINEAR_ATTENTION, TEXT
from wsteer.checkpoints.conversion import decoder_path
from wsteer.errors import WsteerError
from wsteer.steering.positions import POSITIONS

PROMPTS = [[5, 6, 7, 8], [9], [11, 12]]
NEW, K = 4, 0.7
FAST = ["llama", "gpt2"]
CHUNKED = ["llama", "qwen2"]
# states that read padding, and attention that in float64 is NaN where all is masked
ALONE = ["mamba", "lfm2", "qwen3_5_text", "gemma2", "mpt"]
OTHERS = ["qwen2", "gemma2", "gemma3_text", "gpt_neox", "opt", "mpt", "mamba", "lfm2", "qwen3_5_text"]


def model_of(name: str) -> PreTrainedModel:
    if name == "qwen3_5_text":
        settings = {**TEXT["llama"][1], **LINEAR_ATTENTION}
        config = transformers.Qwen3_5TextConfig(**settings, eos_token_id=None)
        kind = transformers.Qwen3_5ForCausalLM
    else:
        kind = getattr(transformers, TEXT[name][0])
        config = kind.config_class(**{"pad_token_id": 0, **TEXT[name][1], "eos_token_id": None, "bos_token_id": 1})
    torch.manual_seed(0)
    model = kind._from_config(config, dtype=torch.float64).eval()
    model.generation_config.eos_token_id = None
    return model


def vectors(model: PreTrainedModel) -> wsteer.Delta:
    generator = torch.Generator().manual_seed(1)
    size = model.config.get_text_config().hidden_size
    blocks = range(len(model.get_submodule(decoder_path(model))))
    tensors = {f"blocks.{block}": torch.randn(size, generator=generator).double() for block in blocks}
    return wsteer.Delta.of_tensors(tensors, kind="activation")


@contextlib.contextmanager
def by_hand(model: PreTrainedModel, delta: wsteer.Delta, k: float, places: list[int]) -> Iterator[None]:
    """Hooks that add the vectors at these places of one row without padding."""
    handles = []
    for number, block in enumerate(model.get_submodule(decoder_path(model))):
        vector = k * delta.change(f"blocks.{number}").rows(0, delta.shape(f"blocks.{number}")[0])

        def hook(_module: object, _inputs: object, output: object, vector: Tensor = vector) -> object:
            hidden = output if isinstance(output, Tensor) else output[0]  # type: ignore[index]
            moved = hidden.clone()
            moved[:, places] += vector
            return moved if isinstance(output, Tensor) else (moved, *output[1:])  # type: ignore[index]

        handles.append(block.register_forward_hook(hook))
    yield
    for handle in handles:
        handle.remove()


def places(positions: str, prompt: int, whole: int) -> list[int]:
    return {
        "response": list(range(prompt - 1, whole)),
        "prompt": list(range(prompt)),
        "prompt-last": list(range(prompt))[-1:],
        "all": list(range(whole)),
    }[positions]


def left(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[0] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids, mask


def one_by_one(model: PreTrainedModel, delta: wsteer.Delta, positions: str) -> list[tuple[list[int], Tensor]]:
    """Each prompt with NEW greedy tokens, one forward pass a token, no padding; the logits that chose the tokens."""
    found = []
    for row in PROMPTS:
        tokens = list(row)
        for _ in range(NEW):
            with by_hand(model, delta, K, places(positions, len(row), len(tokens))):
                logits = model(torch.tensor([tokens]), use_cache=False).logits[0]
            tokens.append(int(logits[-1].argmax()))
        found.append((tokens, logits[len(row) - 1 :]))
    return found


def same(found: Tensor, expected: Tensor) -> None:
    # transformers computes angles and some norms in float32; a token of another role moves 1e-3 and more
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)


@torch.no_grad()
def check(name: str, positions: str) -> None:
    model = model_of(name)
    delta = vectors(model)
    expected = one_by_one(model, delta, positions)
    plain = model(torch.tensor(PROMPTS[:1])).logits[0, -1]  # of the prompt's last token, which has every role
    assert (plain - expected[0][1][0]).abs().max() > 1e-4, "the vector is too small for a test"
    with wsteer.applied(model, delta, K, positions=positions):
        check_generation(name, model, expected)
        with wsteer.prompt_lengths(list(map(len, PROMPTS))):
            check_teacher_forcing(name, model, expected)


def check_generation(name: str, model: PreTrainedModel, expected: list[tuple[list[int], Tensor]]) -> None:
    seen: list[Tensor] = []  # the logits of the last column; those that generate gives are float32
    model.register_forward_hook(lambda _module, _inputs, output: seen.append(output.logits[:, -1]))
    batches = [[0], [1], [2], *([] if name in ALONE else [[0, 1, 2]])]
    ways: list[dict] = [{}, {"use_cache": False}, *([{"prefill_chunk_size": 2}] if name in CHUNKED else [])]
    for batch in batches:
        rows, mask = left([PROMPTS[index] for index in batch])
        for way in ways:
            made = model.generate(rows, attention_mask=mask, max_new_tokens=NEW, do_sample=False, **way)
            for line, index in enumerate(batch):
                assert made[line, -NEW:].tolist() == expected[index][0][-NEW:], way
                same(torch.stack(seen[-NEW:], 1)[line], expected[index][1])


def check_teacher_forcing(name: str, model: PreTrainedModel, expected: list[tuple[list[int], Tensor]]) -> None:
    read = [tokens[:-1] for tokens, _ in expected]
    ids, mask = left(read)
    width = ids.shape[1]
    if name not in ALONE:
        numbers = {"position_ids": (mask.cumsum(dim=1) - 1).clamp(min=0)} if name in ("gpt2", "opt") else {}
        logits = model(ids, attention_mask=mask, **numbers).logits
        for line, tokens in enumerate(read):
            same(logits[line, width - len(tokens) + len(PROMPTS[line]) - 1 :], expected[line][1])
    right = torch.tensor([row + [0] * (width - len(row)) for row in read])
    logits = model(right, attention_mask=mask.flip(1)).logits
    for line, tokens in enumerate(read):
        same(logits[line, len(PROMPTS[line]) - 1 : len(tokens)], expected[line][1])


@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", FAST)
def test_every_way_of_reading_gives_the_logits_of_tokens_steered_by_hand(name: str, positions: str) -> None:
    check(name, positions)


@pytest.mark.slow
@pytest.mark.parametrize("positions", POSITIONS)
@pytest.mark.parametrize("name", OTHERS)
def test_every_architecture_gives_the_logits_of_tokens_steered_by_hand(name: str, positions: str) -> None:
    check(name, positions)


def hidden_of(model: PreTrainedModel, **given: Tensor) -> Tensor:
    """What the last block gives."""
    seen: list[Tensor] = []
    handle = model.get_submodule(decoder_path(model))[-1].register_forward_hook(
        lambda _module, _inputs, output: seen.append(output)
    )
    with torch.no_grad():
        model(**given)
    handle.remove()
    return seen[0]


@pytest.mark.parametrize("positions", POSITIONS)
def test_padding_is_untouched_with_a_mask_and_with_lengths_alone(positions: str) -> None:
    model = model_of("llama")
    delta = vectors(model).select_layers([1])  # of the last block: nothing after it mixes tokens
    rows = [[5, 6, 7, 8, 9], [9, 10], [11]]
    right = torch.tensor([row + [0] * (5 - len(row)) for row in rows])
    ids, mask = left(rows)
    cases = [
        ({"input_ids": ids, "attention_mask": mask}, None, mask),
        ({"input_ids": right, "attention_mask": mask.flip(1)}, None, mask.flip(1)),
        ({"input_ids": right}, [5, 2, 1], mask.flip(1)),
    ]
    for given, lengths, real in cases:
        plain = hidden_of(model, **given)
        with wsteer.applied(model, delta, 2.0, positions=positions), wsteer.prompt_lengths([3, 1, 1], lengths):
            steered = hidden_of(model, **given)
        moved = (plain != steered).any(dim=-1)
        expected = torch.zeros_like(moved)
        for line, (prompt, row) in enumerate(zip([3, 1, 1], rows, strict=True)):
            expected[line, real[line].nonzero()[:, 0][places(positions, prompt, len(row))]] = True
        assert torch.equal(moved, expected)
        assert torch.equal(plain[~moved], steered[~moved])  # bits, of padding and of the other role


def test_a_text_without_prompt_is_all_response_and_k_0_changes_no_bit() -> None:
    model, ids = model_of("llama"), torch.tensor([[5, 6, 7]])
    delta = vectors(model).select_layers([1])
    plain = hidden_of(model, input_ids=ids)
    for positions, expected in (("response", True), ("prompt", False), ("prompt-last", False)):
        with wsteer.applied(model, delta, positions=positions), wsteer.prompt_lengths([0]):
            assert (hidden_of(model, input_ids=ids) != plain).any(dim=-1).tolist() == [[expected] * 3]
    with wsteer.applied(model, delta, 0.0, positions="response"):
        assert torch.equal(hidden_of(model, input_ids=ids), plain)
    with wsteer.applied(model, delta):  # all, where nothing needs to be known
        assert (hidden_of(model, input_ids=ids) != plain).any(dim=-1).all()
    assert torch.equal(hidden_of(model, input_ids=ids), plain)


def test_pieces_with_a_cache_and_the_model_without_its_head_have_the_roles_of_the_whole() -> None:
    model, ids = model_of("llama"), torch.tensor([[5, 6, 7, 8, 9, 10]])
    delta = vectors(model)
    for positions in POSITIONS:
        with torch.no_grad(), wsteer.applied(model, delta, positions=positions), wsteer.prompt_lengths([4]):
            whole = model(ids).logits
            cache, pieces = transformers.DynamicCache(), []
            for piece in ids.split([1, 2, 2, 1], dim=1):
                pieces.append(model(piece, past_key_values=cache).logits)
            torch.testing.assert_close(torch.cat(pieces, dim=1), whole, rtol=0, atol=1e-6)
            headless = model.lm_head(model.base_model(input_ids=ids).last_hidden_state)
            assert torch.equal(headless, whole)


@pytest.mark.parametrize("positions", POSITIONS)
def test_beams_returned_sequences_and_a_static_cache_are_steered_alike(positions: str) -> None:
    model = model_of("llama")
    delta, (ids, mask) = vectors(model), left(PROMPTS)
    settings = {"input_ids": ids, "attention_mask": mask, "max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    with torch.no_grad(), wsteer.applied(model, delta, positions=positions):
        greedy = model.generate(**settings)
        assert torch.equal(model.generate(**settings, cache_implementation="static"), greedy)
        inferred = model.generate(ids, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
        assert torch.equal(inferred, greedy)  # the mask is told by the padding
        beams = model.generate(**settings, num_beams=3, num_return_sequences=3)
        uncached = model.generate(**settings, num_beams=3, num_return_sequences=3, use_cache=False)
        assert torch.equal(beams, uncached)
        torch.manual_seed(0)
        sampled = model.generate(**{**settings, "do_sample": True}, num_return_sequences=2)
        torch.manual_seed(0)
        assert torch.equal(
            sampled, model.generate(**{**settings, "do_sample": True}, num_return_sequences=2, use_cache=False)
        )
    plain = model.generate(ids, attention_mask=mask, max_new_tokens=NEW, do_sample=False, pad_token_id=0)
    assert not torch.equal(plain, greedy)
    assert "generate" not in vars(model)


def test_what_is_not_known_is_refused_never_guessed() -> None:
    model, ids = model_of("llama"), torch.tensor([[5, 6, 7]])
    delta = vectors(model)
    cases = [
        ({"input_ids": ids}, None, "needs to know where each row's prompt ends.*wsteer.prompt_lengths"),
        ({"input_ids": ids[:, :1]}, None, "needs to know"),
        ({"input_ids": ids}, [1, 2], "has 2 rows, and the model is given 1"),
        (
            {"input_ids": ids, "attention_mask": torch.zeros(1, 1, 3, 3).double()},
            [1],
            r"attention mask \[rows, tokens\]",
        ),
    ]
    for given, lengths, reason in cases:
        known = contextlib.nullcontext() if lengths is None else wsteer.prompt_lengths(lengths)
        with wsteer.applied(model, delta, positions="response"), known, pytest.raises(WsteerError, match=reason):
            model(**given)
    with (
        wsteer.applied(model, delta, positions="response"),
        pytest.raises(WsteerError, match="padded on the left"),
    ):
        model.generate(torch.tensor([[5, 0], [6, 7]]), attention_mask=torch.tensor([[1, 0], [1, 1]]), max_new_tokens=1)
    with wsteer.applied(model, delta), pytest.raises(WsteerError, match="runs alone"):
        model.model.layers[0](torch.zeros(1, 1, 64).double(), position_embeddings=(torch.ones(1, 1, 16).double(),) * 2)
    with (
        pytest.raises(WsteerError, match="none of response, prompt, prompt-last, all"),
        wsteer.applied(model, delta, positions="x"),
    ):
        pass
    for wrong in (([-1],), ([1], [1, 2])):
        with pytest.raises(WsteerError, match="prompt_lengths takes"), wsteer.prompt_lengths(*wrong):
            pass
    with torch.no_grad(), wsteer.applied(model, delta):  # after all these errors
        model(ids)


def test_lengths_are_of_the_innermost_context_and_change_nothing_for_weights() -> None:
    model, ids = model_of("llama"), torch.tensor([[5, 6, 7]])
    delta = vectors(model).select_layers([1])
    plain = hidden_of(model, input_ids=ids)
    with wsteer.prompt_lengths([3]), wsteer.applied(model, delta, positions="prompt"):
        with wsteer.prompt_lengths([1]):
            assert (hidden_of(model, input_ids=ids) != plain).any(dim=-1).tolist() == [[True, False, False]]
        assert (hidden_of(model, input_ids=ids) != plain).any(dim=-1).all()
    weights = wsteer.Delta.of_tensors({"model.norm.weight": torch.ones(64)})
    with wsteer.applied(model, weights, positions="response"):
        without = model(ids).logits
        with wsteer.prompt_lengths([2]):
            assert torch.equal(model(ids).logits, without)
