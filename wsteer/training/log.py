"""The log of training: one row per step."""

import math
from collections.abc import Sequence

COSINE = "cosine_"  # the prefix of SimilarityCallback's metrics


def merge_log(history: Sequence[dict]) -> list[dict]:
    """The Trainer's log as one row per step: step, lr, train_loss, and val_loss where it was measured.

    The cosines of `SimilarityCallback` are in their step's row. A loss that is not finite is None.
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
