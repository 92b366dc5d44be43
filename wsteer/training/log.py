"""The log of training: one row a step."""

import math
from collections.abc import Sequence

COSINE = "cosine_"  # how SimilarityCallback's metrics begin


def merge_log(history: Sequence[dict]) -> list[dict]:
    """The Trainer's log as one row a step: step, lr, train_loss and, where it was measured, val_loss.

    The cosines that `SimilarityCallback` measured stand in their step's row. A loss that is no number is None.
    """
    rows: dict[int, dict] = {}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"], "lr": None, "train_loss": None, "val_loss": None})
        if "loss" in entry:
            row.update(train_loss=_number(entry["loss"]), lr=entry["learning_rate"])
        if "eval_loss" in entry:
            row["val_loss"] = _number(entry["eval_loss"])
        row.update({key: value for key, value in entry.items() if key.startswith(COSINE)})
    return [rows[step] for step in sorted(rows)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
