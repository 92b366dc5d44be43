"""What a user can get wrong: one line that names it, exit code 1, nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.helpers.command import Cli, Inputs, leftovers
from tests.helpers.tiny import save_adapter, save_model


def wide_adapter(inputs: Inputs) -> Path:
    """An adapter of a model of other shapes."""
    return save_adapter(inputs.folder / "other", save_model(inputs.folder / "wide", intermediate_size=64), 1)


def endless(inputs: Inputs) -> Path:
    """Chat rows of which the second is longer than the model's positions."""
    rows = [{"prompt": "x", "completion": text} for text in ("x", "x" * 5000)]
    return inputs.text("endless.jsonl", "\n".join(map(json.dumps, rows)))


def cut_delta(inputs: Inputs) -> Path:
    """A delta file that is cut off."""
    path = inputs.delta("cut")
    path.write_bytes(path.read_bytes()[:-5])
    return path


def cut_model(inputs: Inputs) -> Path:
    """A model whose weights are cut off."""
    folder = save_model(inputs.folder / "cut")
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-5])
    return folder


def delta_folder(inputs: Inputs) -> Path:
    """What a run of --method bias leaves."""
    (inputs.folder / "biases").mkdir()
    return Path(shutil.move(inputs.delta(), inputs.folder / "biases" / "delta.safetensors")).parent


# arguments without -o, and what the one line must name
BAD_INPUTS: dict[str, tuple[Callable[[Inputs], list], str]] = {
    "missing model": (lambda i: ["finetune", i.folder / "no", i.chats[0]], "no does not exist"),
    "missing data": (lambda i: ["finetune", i.tiny, i.folder / "no.jsonl"], "no.jsonl does not exist"),
    "line that does not parse": (
        lambda i: ["finetune", i.tiny, i.text("broken.jsonl", i.chats[0].read_text() + "{oops\n")],
        "broken.jsonl:11 is not JSON",
    ),
    "row longer than the model": (
        lambda i: ["finetune", i.tiny, endless(i)],
        "endless.jsonl:2: 5006 tokens are more than the model's 2048 positions",
    ),
    "empty data": (lambda i: ["finetune", i.tiny, i.text("empty.jsonl", "")], "holds no rows"),
    "empty data in actvec": (lambda i: ["actvec", i.tiny, i.chats[0], i.text("empty.jsonl", "")], "holds no rows"),
    "missing trait": (lambda i: ["generate", i.tiny, i.folder / "no.json"], "no.json is missing"),
    "missing adapter": (lambda i: ["diff", i.folder / "no", i.adapters[0]], "no does not exist"),
    "missing delta": (lambda i: ["steer", i.tiny, i.folder / "no.safetensors", "--k", 1], "does not exist"),
    "adapter of another shape": (lambda i: ["diff", i.adapters[0], wide_adapter(i)], "different bases"),
    "delta of other names": (
        lambda i: ["steer", i.tiny, i.delta("gone", {"gone.weight": torch.ones(2)}), "--k", 1],
        "changes gone.weight",
    ),
    "truncated delta": (lambda i: ["steer", i.tiny, cut_delta(i), "--k", 1], "is truncated"),
    "truncated model": (lambda i: ["steer", cut_model(i), i.delta(), "--k", 1], "is truncated"),
    "truncated model in eval": (lambda i: ["eval", cut_model(i), "--task", "agreement"], "is truncated"),
    "unknown task": (lambda i: ["eval", i.tiny, "--task", "nosuch"], "no task 'nosuch'"),
    "adapter to be tuned further": (lambda i: ["finetune", i.adapters[0], i.chats[0]], "--k 1"),
    "adapter as a base of changes": (
        lambda i: ["monitor", i.adapters[1], "--base", i.adapters[0]],
        "pos is an adapter, and a whole model is needed; write it first: wsteer steer BASE",
    ),
    "delta as a model": (
        lambda i: ["steer", delta_folder(i), i.delta("v"), "--k", 1],
        "holds a change of weights (delta.safetensors) and no model",
    ),
    "folder as prompts": (lambda i: ["generate", i.tiny, i.tiny], "is a folder; name a JSONL file in it"),
    "folder as data": (lambda i: ["finetune", i.tiny, i.tiny], "is a folder"),
    "too many k": (lambda i: ["steer", i.tiny, i.delta(), "--k", "1,2"], "2 values of --k for 1 deltas"),
    "checkpoint in monitor": (lambda i: ["monitor", i.tiny], "is a checkpoint"),
    "missing model in the demo": (lambda i: ["demo", "--model", i.folder / "no"], "is no folder"),
}


@pytest.mark.parametrize(("arguments", "named"), BAD_INPUTS.values(), ids=BAD_INPUTS)
def test_bad_input_is_one_line_and_writes_nothing(
    cli: Cli, tmp_path: Path, inputs: Inputs, arguments: Callable[[Inputs], list], named: str
) -> None:
    ran = cli(*arguments(inputs), "-o", tmp_path / "out")
    assert (ran.code, ran.out) == (1, "")
    assert named in ran.error
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []
