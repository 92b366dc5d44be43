"""The log of training: one row a step, as JSON lines, a table of a sweep, and a picture."""

import math
from collections.abc import Sequence

COLUMNS = ("step", "lr", "train_loss", "val_loss")


def merge_log(history: Sequence[dict]) -> list[dict]:
    """The Trainer's log as one row a step: step, lr, train_loss and, where it was measured, val_loss.

    What callbacks log of a step stands in its row as well. A loss that is no number is None.
    """
    rows: dict[int, dict] = {}
    for entry in history:
        row = rows.setdefault(entry["step"], {"step": entry["step"], "lr": None, "train_loss": None, "val_loss": None})
        if "loss" in entry:
            row.update(train_loss=_number(entry["loss"]), lr=entry["learning_rate"])
        if "eval_loss" in entry:
            row["val_loss"] = _number(entry["eval_loss"])
    return [rows[step] for step in sorted(rows)]


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None
