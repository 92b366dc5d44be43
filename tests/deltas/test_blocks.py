"""Activation vectors by block: their names elsewhere, and the variant of all layers."""

from pathlib import Path

import pytest
import torch

from wsteer.deltas.blocks import all_layers, block_text
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError


def stack(count: int) -> tuple[torch.Tensor, Delta]:
    raw = torch.randn(count, 8, generator=torch.Generator().manual_seed(0))
    return raw, Delta.of_tensors({f"blocks.{block}": row for block, row in enumerate(raw)}, kind="activation")


def test_each_block_adds_what_the_blocks_before_it_do_not_and_the_last_nothing(tmp_path: Path) -> None:
    raw, delta = stack(12)
    delta.save(tmp_path / "a.safetensors")
    for given in (delta, Delta.load(tmp_path / "a.safetensors")):
        found = all_layers(given, 12)
        assert list(found.terms) == [f"blocks.{block}" for block in range(11)]
        added = torch.stack([found.change(name).rows(0, 8) for name in found.terms])
        torch.testing.assert_close(added[0], raw[0], rtol=0, atol=0)
        torch.testing.assert_close(added[1:], raw[1:11] - raw[:10], rtol=0, atol=1e-6)
        torch.testing.assert_close(added.cumsum(dim=0), raw[:11], rtol=0, atol=1e-5)  # together they are the raw ones


def test_the_last_blocks_vector_is_not_needed_and_all_others_are() -> None:
    _, delta = stack(4)
    assert list(all_layers(delta, 5).terms) == [f"blocks.{block}" for block in range(4)]
    for given, count, reason in (
        (delta, 6, "blocks 0 to 4, and the delta lacks that of block 4"),
        (delta.select_layers([0, 2, 3]), 4, "lacks that of block 1"),
        (delta, 3, "of block 3, and the model has 3 blocks"),
        (delta, 1, "two blocks or more"),
        (Delta.of_tensors({"model.norm.weight": torch.ones(8)}), 4, "is of activation vectors"),
    ):
        with pytest.raises(WsteerError, match=reason):
            all_layers(given, count)


def test_a_block_that_adds_nothing_gets_no_vector() -> None:
    row = torch.ones(8)
    delta = Delta.of_tensors({f"blocks.{block}": row for block in range(3)}, kind="activation")
    assert list(all_layers(delta, 3).terms) == ["blocks.0"]


def test_the_output_of_a_block_is_the_hidden_state_that_its_text_names(tiny: Path) -> None:
    from wsteer.models.loading import decoder_blocks, load

    model = load(tiny, "cpu").model
    blocks = decoder_blocks(model)
    seen: list[torch.Tensor] = []
    for block in blocks:
        block.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    states = model(torch.tensor([[1, 2, 3]]), output_hidden_states=True).hidden_states
    for number, output in enumerate(seen):
        named = f"hidden_states[{number + 1}]" in block_text(number, len(blocks))
        assert named == torch.equal(output, states[number + 1])
