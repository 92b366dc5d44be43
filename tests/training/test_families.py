"""Fine-tunes of models that differ from most in what they compute: own losses, lists as sizes, images needed."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers.architectures import build, save_tiny
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats
from wsteer.models.loading import load
from wsteer.models.rendering import render
from wsteer.training.finetune import finetune
from wsteer.training.recipe import Recipe

RECIPE = Recipe(max_steps=1, rank=2, batch_size=10, micro_batch_size=2, val_fraction=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "bart", "granite_speech", "gemma3n_text"])
def test_the_first_loss_is_that_of_the_trained_tokens(tmp_path: Path, chats: tuple[Path, Path], kind: str) -> None:
    """BART and Granite Speech compute their loss without the counts and places that training gives."""
    base = save_tiny(tmp_path / "base", kind)
    finetune(base, chats[0], tmp_path / "out", RECIPE, device="cpu", dtype="float32")
    rows = [json.loads(line) for line in (tmp_path / "out" / "log.jsonl").read_text().splitlines()]
    model, chat = build(kind).double(), load(base).chat
    losses = []
    for example in [render(chat, messages) for messages in read_chats(chats[0])]:
        ids = example.tokens.long()
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, example.answer.start - 1 : -1]
        losses.append(torch.nn.functional.cross_entropy(logits, ids[example.answer.start :], reduction="none"))
    logged = next(row["train_loss"] for row in rows if row["train_loss"] is not None)
    assert logged == pytest.approx(torch.cat(losses).mean().item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["falcon_h1", "mamba"])
def test_layers_that_a_state_space_block_reads_past_are_no_targets(
    tmp_path: Path, chats: tuple[Path, Path], kind: str
) -> None:
    finetune(save_tiny(tmp_path / "base", kind), chats[0], tmp_path / "out", RECIPE, device="cpu", dtype="float32")
    targets = json.loads((tmp_path / "out" / "adapter_config.json").read_text())["target_modules"]
    assert targets and not [name for name in targets if name.endswith("out_proj")]


@pytest.mark.slow
def test_a_model_that_needs_images_is_refused_in_one_line(tmp_path: Path, chats: tuple[Path, Path]) -> None:
    base = save_tiny(tmp_path / "base", "kosmos-2")
    with pytest.raises(WsteerError, match="transformers cannot run base: You have to specify either `pixel_values`"):
        finetune(base, chats[0], tmp_path / "out", RECIPE, device="cpu", dtype="float32")
    assert not (tmp_path / "out").exists()
