"""A transformers Trainer that trains on noise, for callbacks to look at."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import Trainer, TrainerCallback, TrainingArguments


def trained_on_noise(
    model: nn.Module, folder: Path, callbacks: Sequence[TrainerCallback], steps: int = 4, **settings
) -> Trainer:
    """Train on one row of noise, with the callbacks in order; attached, where they have an `attach` of their own."""
    ids = torch.arange(12) % 250
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        learning_rate=0.05,
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        save_strategy="no",
        seed=0,
        **{"logging_steps": 100, **settings},
    )
    trainer = Trainer(model, arguments, train_dataset=[{"input_ids": ids, "labels": ids}] * 8)
    for callback in callbacks:
        callback.attach(trainer) if hasattr(callback, "attach") else trainer.add_callback(callback)
    trainer.train()
    return trainer
