"""Shifts by tuning computed apart: transformers' and peft's own models in float64, read by hooks, row by row."""

import json
from pathlib import Path

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file
from scipy.stats import t as student
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from wsteer.deltas.delta import Delta


def tuned_model(base: Path, tuned: Path | None = None) -> nn.Module:
    """The base, peft's model of an adapter on it, or a checkpoint, in float64."""
    if tuned is not None and (tuned / "adapter_config.json").exists():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64)
        return PeftModel.from_pretrained(model, tuned).double().get_base_model().eval()
    return AutoModelForCausalLM.from_pretrained(tuned or base, dtype=torch.float64).eval()


def block_means(model: nn.Module, base: Path, data: Path, positions: str = "prompt-last") -> np.ndarray:
    """[rows, blocks, hidden]: each block's output at the prompt's last token, or its mean over the answer's tokens."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    found = []
    for line in data.read_text().splitlines():
        messages = json.loads(line)["messages"]
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        answer = tokenizer(messages[-1]["content"], add_special_tokens=False)["input_ids"]
        tokens = torch.tensor([prompt if positions == "prompt-last" else prompt + answer])
        span = slice(-1, None) if positions == "prompt-last" else slice(len(prompt), None)
        outputs: list[torch.Tensor] = []

        def keep(module: nn.Module, inputs: tuple, output: object, outputs: list = outputs, span: slice = span) -> None:
            hidden = output if isinstance(output, torch.Tensor) else output[0]
            outputs.append(hidden[0, span].mean(dim=0).detach())

        blocks = model.model.layers if hasattr(model, "model") else model.transformer.h
        handles = [block.register_forward_hook(keep) for block in blocks]
        model(tokens)
        for handle in handles:
            handle.remove()
        found.append(torch.stack(outputs).numpy())
    return np.stack(found)


def units(vector: Path) -> np.ndarray:
    """[blocks, hidden]: the unit vectors of an activation delta."""
    vectors = load_file(vector)
    found = np.stack([vectors[f"blocks.{block}"].double().numpy() for block in range(len(vectors))])
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def expected(before: np.ndarray, after: np.ndarray, vector: Path) -> dict[int, tuple[float, float, float, float]]:
    """By block: the mean shift along the vector, its 95% interval, and one deviation of a random direction."""
    shift = after - before
    along = np.einsum("rbh,bh->rb", shift, units(vector))
    rows = len(along)
    reach = student.ppf(0.975, rows - 1) * along.std(axis=0, ddof=1) / np.sqrt(rows)
    noise = np.linalg.norm(shift.mean(axis=0), axis=1) / np.sqrt(shift.shape[2])
    mean = along.mean(axis=0)
    return {b: (mean[b], mean[b] - reach[b], mean[b] + reach[b], noise[b]) for b in range(shift.shape[1])}


def save_vector(path: Path, seed: int, blocks: int = 3, hidden: int = 32) -> Path:
    """A random activation delta."""
    generator = torch.Generator().manual_seed(seed)
    vectors = {f"blocks.{block}": torch.randn(hidden, generator=generator) for block in range(blocks)}
    Delta.of_tensors(vectors, "activation").save(path)
    return path
