"""Time `wsteer finetune` beside transformers' Trainer with peft, as a user would write it, on SmolLM2.

    python tests/bench/finetune.py

Run it with the Python that wsteer is installed for. All train the same LoRA on the same rows for the same steps:

- stock: Trainer and peft, each batch padded to its longest row, loss on the answers;
- padded: the same with every row padded to 512 tokens, as in the paper's configurations (which pad to 4096), in
  micro-batches of 2 rows, for 8 at once take more than 12 GB;
- wsteer: what `wsteer finetune` runs.

Every run is a process of its own; its peak memory is the system's count, its seconds are those of the training loop.
On a machine that others use as well, compare the processor's seconds in that loop instead, with OMP_NUM_THREADS=1:
threads that wait for each other count as busy.
Real tokens are those of the rows, without padding. The validation loss is measured afterwards, for all in the same way
and without wsteer: on rows that none trained on, one at a time, as the mean over their answers' tokens.
"""

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

DATA = Path(__file__).parents[2] / "wsteer" / "demo" / "pos.jsonl"
KINDS = ("stock", "padded", "wsteer")
RANK, ALPHA, WEIGHT_DECAY, WARMUP = 32, 16, 0.01, 5
PADDED, PADDED_ROWS = 512, 2
IGNORED = -100


@dataclass(frozen=True)
class Ran:
    """One run: seconds and processor's seconds of its training loop, peak memory, and loss on rows it never saw."""

    seconds: float
    processor: float
    peak_mb: float
    val_loss: float


# What runs in processes of its own: the stock script, wsteer, and the measurement of their results


@contextlib.contextmanager
def timed() -> Iterator[None]:
    """Print the seconds and the processor's seconds that the body takes."""
    start, busy = time.perf_counter(), time.process_time()
    yield
    print(json.dumps([time.perf_counter() - start, time.process_time() - busy]))


def tokenised(tokenizer, rows: Path) -> list[dict[str, list[int]]]:
    """The rows as Trainer takes them: the template's tokens, labels on the answer and its end."""
    examples = []
    for line in rows.read_text().splitlines():
        messages = json.loads(line)["messages"]
        whole = tokenizer.apply_chat_template(messages, return_dict=False)
        prompt = tokenizer.apply_chat_template(messages[:-1], add_generation_prompt=True, return_dict=False)
        end = len(whole) - 1 - whole[::-1].index(tokenizer.eos_token_id)
        labels = [token if len(prompt) <= i <= end else IGNORED for i, token in enumerate(whole)]
        examples.append({"input_ids": whole, "attention_mask": [1] * len(whole), "labels": labels})
    return examples


def train_stock(model_folder: str, rows: Path, output: Path, steps: int, lr: float, batch: int, pad_to: int) -> None:
    """Fine-tune with Trainer and peft; `pad_to` 0 pads to a batch's longest row."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    set_seed(0)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=RANK, lora_alpha=ALPHA)
    model = get_peft_model(model, config)
    collator = DataCollatorForSeq2Seq(
        tokenizer, padding="max_length" if pad_to else True, max_length=pad_to or None, label_pad_token_id=IGNORED
    )
    arguments = TrainingArguments(
        output_dir=str(output),
        learning_rate=lr,
        lr_scheduler_type="linear",
        warmup_steps=WARMUP,
        weight_decay=WEIGHT_DECAY,
        max_steps=steps,
        per_device_train_batch_size=PADDED_ROWS if pad_to else batch,
        gradient_accumulation_steps=batch // PADDED_ROWS if pad_to else 1,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(model, arguments, train_dataset=tokenised(tokenizer, rows), data_collator=collator)
    with timed():
        trainer.train()
    model.save_pretrained(output)


def train_wsteer(model_folder: str, rows: Path, output: Path, steps: int, lr: float, batch: int) -> None:
    """Fine-tune with wsteer's own defaults but for these numbers."""
    from wsteer.training.finetune import finetune
    from wsteer.training.recipe import Recipe

    def progress(items, label, total=None):
        with timed():
            yield from items

    recipe = Recipe(lr=lr, max_steps=steps, batch_size=batch, rank=RANK, alpha=ALPHA, val_fraction=0)
    finetune(model_folder, rows, output, recipe, progress=progress)


def validate(model_folder: str, rows: Path, adapter: Path) -> None:
    """Print the mean loss over the answers' tokens, one row at a time."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapter).eval()
    total, count = 0.0, 0
    for example in tokenised(AutoTokenizer.from_pretrained(model_folder), rows):
        ids, labels = torch.tensor([example["input_ids"]]), torch.tensor(example["labels"])
        with torch.inference_mode():
            logits = model(ids).logits[0]
        total += torch.nn.functional.cross_entropy(logits[:-1], labels[1:], reduction="sum").item()
        count += int((labels[1:] != IGNORED).sum())
    print(json.dumps([total / count]))


# What measures them


def measured(command: Sequence[object], log: Path) -> tuple[list[float], float]:
    """Run this file's inner command: what it prints as JSON in its last line, and its peak memory in MB."""
    with log.open("w") as stream:
        process = subprocess.Popen(
            [sys.executable, __file__, "--inner", *map(str, command)], stdout=stream, stderr=stream
        )
        _, status, usage = os.wait4(process.pid, 0)
    lines = log.read_text().splitlines()
    if status:
        raise SystemExit("\n".join([f"exit status {status}", *lines]))
    scale = 1 if sys.platform == "darwin" else 1024
    return json.loads(next(line for line in reversed(lines) if line.startswith("["))), usage.ru_maxrss * scale / 1e6


def run(arguments: argparse.Namespace, work: Path, kind: str, number: int) -> Ran:
    """One round of one kind."""
    output = work / f"{kind}-{number}"
    numbers = [arguments.steps, arguments.lr, arguments.batch]
    (seconds, processor), peak = measured([kind, arguments.model, work / "train.jsonl", output, *numbers], work / "log")
    (loss,), _ = measured(["validate", arguments.model, work / "val.jsonl", output], work / "log")
    return Ran(seconds, processor, peak, loss)


def report(results: dict[str, list[Ran]], tokens: int) -> str:
    """The table in Markdown: medians over the rounds."""
    lines = [
        "| | seconds | real tokens/s | processor's seconds | x wsteer's | peak RSS, MB | validation loss |",
        "|---|---|---|---|---|---|---|",
    ]
    middle = {
        kind: Ran(*(statistics.median(getattr(ran, name) for ran in rans) for name in Ran.__dataclass_fields__))
        for kind, rans in results.items()
    }
    for kind, ran in middle.items():
        ratio = ran.processor / middle["wsteer"].processor if "wsteer" in middle else float("nan")
        speed = f"{ran.seconds:.1f} | {tokens / ran.seconds:.0f} | {ran.processor:.1f} | {ratio:.2f}"
        lines.append(f"| {kind} | {speed} | {ran.peak_mb:.0f} | {ran.val_loss:.4f} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint folder; SmolLM2 of `wsteer demo` by default")
    parser.add_argument("--data", type=Path, default=DATA, help="chat rows of one turn each")
    parser.add_argument("--held-out", type=int, default=16, help="last rows, kept for validation")
    parser.add_argument("--rows", type=int, help="rows to train on; by default all but the held-out ones")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS))
    arguments = parser.parse_args()
    if arguments.model is None:
        from wsteer.demo.model import demo_model

        arguments.model = demo_model()
    lines = arguments.data.read_text().splitlines()
    count = min(arguments.rows or len(lines), len(lines) - arguments.held_out)
    train = lines[: count // arguments.batch * arguments.batch]
    # whole epochs, so that all see the same tokens whatever their order
    arguments.steps = arguments.epochs * len(train) // arguments.batch
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        (work / "train.jsonl").write_text("\n".join(train))
        (work / "val.jsonl").write_text("\n".join(lines[-arguments.held_out :]))
        from transformers import AutoTokenizer

        rows = tokenised(AutoTokenizer.from_pretrained(arguments.model), work / "train.jsonl")
        tokens = arguments.epochs * sum(len(row["input_ids"]) for row in rows)
        print(f"{len(train)} rows, {arguments.steps} steps of {arguments.batch}, {tokens} tokens", flush=True)
        results: dict[str, list[Ran]] = {kind: [] for kind in arguments.kinds.split(",")}
        for number in range(arguments.rounds):
            for kind in results:
                results[kind].append(run(arguments, work, kind, number))
                print(kind, results[kind][-1], flush=True)
        print(report(results, tokens))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inner"]:
        _, _, what, model, rows, adapter, *numbers = sys.argv
        if what == "validate":
            validate(model, Path(rows), Path(adapter))
        else:
            steps, lr, batch = int(numbers[0]), float(numbers[1]), int(numbers[2])
            if what == "wsteer":
                train_wsteer(model, Path(rows), Path(adapter), steps, lr, batch)
            else:
                train_stock(model, Path(rows), Path(adapter), steps, lr, batch, PADDED if what == "padded" else 0)
    else:
        main()
