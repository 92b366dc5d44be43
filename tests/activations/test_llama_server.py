"""Exported control vectors in llama.cpp's own server; skipped where none is installed."""

from pathlib import Path

import pytest
import torch

from tests.helpers.llama_cpp import llama_server, next_log_probs, save_gguf, serving
from wsteer.activations.convert import convert
from wsteer.activations.exports import Export
from wsteer.deltas.delta import Delta
from wsteer.steering.loading import load
from wsteer.steering.memory import applied

TOKENS = [256, 72, 101, 108, 108, 111, 32, 119]


@pytest.mark.slow
def test_the_server_adds_direction_n_at_block_n(tmp_path: Path, tiny: Path) -> None:
    llama_server()
    model = load(tiny, "cpu").model
    size = model.config.vocab_size
    generator = torch.Generator().manual_seed(0)
    delta = Delta.of_tensors({f"blocks.{b}": torch.randn(32, generator=generator) for b in range(3)}, "activation")
    delta.save(tmp_path / "a.safetensors")
    gguf = save_gguf(tiny, tmp_path / "tiny.gguf")

    def expected(change: Delta, k: float) -> torch.Tensor:
        with torch.no_grad(), applied(model, change, k):
            return model(torch.tensor([TOKENS])).logits[0, -1].log_softmax(-1)

    with serving(gguf) as address:
        base = next_log_probs(address, TOKENS, size)
    torch.testing.assert_close(base, expected(delta, 0), rtol=0, atol=2e-5)
    found = {}
    for blocks in ((1,), (2,), None):
        path = tmp_path / f"a{len(found)}.gguf"
        convert(tmp_path / "a.safetensors", export_to=Export.of(path, layers=blocks))
        with serving(gguf, "--control-vector-scaled", f"{path}:1.5") as address:
            found[blocks] = next_log_probs(address, TOKENS, size)
        steered = delta.select_layers(blocks or (1, 2))
        torch.testing.assert_close(found[blocks], expected(steered, 1.5), rtol=0, atol=2e-5)
        assert (found[blocks] - base).abs().max() > 0.01
    # block 2's vector at block 1 is something else
    assert (found[(2,)] - found[(1,)]).abs().max() > 0.01
