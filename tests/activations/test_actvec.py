"""Activation vectors against hidden_states of single rows in float64."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.helpers.architectures import save_tiny
from tests.helpers.chain import logits
from wsteer.activations.actvec import actvec, mean_activations
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats
from wsteer.models.loading import decoder_blocks, load
from wsteer.models.rendering import render
from wsteer.steering.memory import applied


def reference_means(model_folder: Path, chats: list) -> torch.Tensor:
    """Row by row, float64, from hidden_states (whose last entry is replaced, as it is after the final norm)."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float64)
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    total = 0
    for chat in chats:
        example = render(tokenizer, chat)
        ids = example.tokens[None, : example.answer.stop].long()
        last = []
        hook = model.model.layers[-1].register_forward_hook(
            lambda _module, _inputs, output, kept=last: kept.append(output)
        )
        with torch.no_grad():
            states = model(ids, output_hidden_states=True).hidden_states[1:-1]
        hook.remove()
        states = torch.stack([*states, last[0] if torch.is_tensor(last[0]) else last[0][0]])
        total = total + states[:, 0, example.answer].mean(dim=1)
    return total / len(chats)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 16])
def test_vectors_are_mean_differences_over_answer_tokens(
    tmp_path: Path, tiny: Path, chats: tuple[Path, Path], batch_size: int
) -> None:
    report = actvec(tiny, *chats, tmp_path / "a.safetensors", batch_size=batch_size, device="cpu")
    delta = Delta.load(tmp_path / "a.safetensors")
    expected = reference_means(tiny, read_chats(chats[0])) - reference_means(tiny, read_chats(chats[1]))
    actual = torch.stack([delta.change(f"blocks.{block}").rows(0, 32) for block in range(3)])
    torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-6)
    assert (delta.kind, delta.positions, delta.layers) == ("activation", "answer", [0, 1, 2])
    assert (report.layers, report.hidden, report.rows_pos, report.rows_neg) == (3, 32, 10, 10)
    assert report.norms == pytest.approx(expected.norm(dim=1).tolist(), rel=1e-4)


def test_rows_weigh_the_same_whatever_their_length(tmp_path: Path, tiny: Path) -> None:
    rows = [("x", "short"), ("y", "a much longer answer than the other one")]
    chats = [[{"role": "user", "content": q}, {"role": "assistant", "content": a}] for q, a in rows]
    loaded = load(tiny, "cpu")
    both = mean_activations(loaded, chats)
    single = [mean_activations(loaded, [chat]) for chat in chats]
    torch.testing.assert_close(both, (single[0] + single[1]) / 2)


def test_same_input_gives_the_same_bytes(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    for name in ("x", "y"):
        actvec(tiny, *chats, tmp_path / name, device="cpu")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_swapped_sides_give_the_opposite_vector(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    actvec(tiny, *chats, tmp_path / "x", device="cpu")
    actvec(tiny, *reversed(chats), tmp_path / "y", device="cpu")
    assert Delta.load(tmp_path / "x").cosine(Delta.load(tmp_path / "y")) == pytest.approx(-1)


def test_sources_carry_the_datas_digest(tmp_path: Path, tiny: Path, chats: tuple[Path, Path]) -> None:
    import hashlib

    actvec(tiny, *chats, tmp_path / "x", device="cpu")
    sources = Delta.load(tmp_path / "x").sources
    expected = [hashlib.sha256(path.read_bytes()).hexdigest() for path in chats]
    assert [source["sha256"] for source in sources] == expected
    assert json.dumps(sources).find(str(tmp_path)) == -1


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"device": "gpu"}, {"dtype": "half"}])
def test_wrong_arguments_are_one_line(tmp_path: Path, options: dict) -> None:
    with pytest.raises(WsteerError, match=f"{next(iter(options))} is .*; it must be"):
        actvec(tmp_path / "gone", tmp_path / "x", tmp_path / "y", tmp_path / "a.safetensors", **options)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "reason"),
    [("mllama", "block 0 of base does not run once on text alone"), ("gemma3n_text", "gives 4 dimensions")],
)
def test_blocks_without_activations_of_their_own_are_refused(
    tmp_path: Path, chats: tuple[Path, Path], kind: str, reason: str
) -> None:
    """Llama 3.2 Vision runs its cross-attention with images alone: the blocks after it must not take its number."""
    base = save_tiny(tmp_path / "base", kind)
    with pytest.raises(WsteerError, match=reason):
        actvec(base, *chats, tmp_path / "a.safetensors", device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["openai-gpt", "modernbert-decoder"])
def test_blocks_that_give_lists_and_models_whose_head_is_called_decoder(
    tmp_path: Path, chats: tuple[Path, Path], kind: str
) -> None:
    base = save_tiny(tmp_path / "base", kind)
    report = actvec(base, *chats, tmp_path / "a.safetensors", device="cpu")
    assert (report.layers, report.hidden) == (2, 64)
    loaded, delta = load(base, "cpu"), Delta.load(tmp_path / "a.safetensors")
    before, after = [], []
    for found, change in ((before, 0.0), (after, 2.0)):
        with applied(loaded.model, delta.select_layers([1]), change):
            block = decoder_blocks(loaded.model)[1]
            handle = block.register_forward_hook(lambda module, inputs, output, found=found: found.append(output[0]))
            logits(loaded.model)
            handle.remove()
    added = 2 * delta.change("blocks.1").rows(0, 64)
    torch.testing.assert_close(after[0] - before[0], added.expand(after[0].shape), rtol=0, atol=1e-5)
