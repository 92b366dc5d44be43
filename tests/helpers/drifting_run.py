"""A training folder whose checkpoints drift towards an adapter."""

import time
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.helpers.exact_fold import adapter_factors
from tests.helpers.tiny import save_adapter
from wsteer.deltas.delta import Delta

STEPS = (2, 4, 10)


def drift(folder: Path, base: Path, towards: Path, share: float) -> Path:
    """An adapter whose B is noise and so much of another's."""
    save_adapter(folder, base, seed=3)
    mine, other = (load_file(path / "adapter_model.safetensors") for path in (folder, towards))
    drifted = {
        name: tensor if "lora_A" not in name and "lora_B" not in name else (1 - share) * tensor + share * other[name]
        for name, tensor in mine.items()
    }
    save_file(drifted, folder / "adapter_model.safetensors")
    return folder


def expected(run: Path, w: Path) -> list[float]:
    """The cosine of each checkpoint's change with `w`."""
    target = Delta.load(w)
    return [Delta.of_factors(adapter_factors(run / f"checkpoint-{step}")).cosine(target) for step in STEPS]


def wait_until_said(said: Sequence[str], text: str) -> None:
    """Wait for a line that holds the text; at most a minute, so that a failure ends."""
    for _ in range(6000):
        if any(text in line for line in said):
            return
        time.sleep(0.01)
