"""Measure greedy answers by wsteer beside plain transformers, on SmolLM2 and wsteer's built-in facts.

    python tests/bench/generation.py

All run in this process, in turn, after a warm-up, on one thread: wsteer's `answer`, transformers' `generate` on the
same prompts in the same batches, and that `generate` with oneDNN's products of float32 matrices, which training uses.
CPU seconds can be compared on a machine that others use as well. "same" counts the answers that are transformers' own.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

FACTS = Path(__file__).parents[2] / "wsteer" / "evaluation" / "tasks" / "facts.jsonl"


def answers_by_transformers(loaded, prompts: Sequence[str], tokens: int, size: int) -> list[str]:
    """What a user would write: batches of prompts of similar length, padded on the left, and `generate`."""
    import torch

    tokenizer, found = loaded.tokenizer, {}
    tokenizer.padding_side = "left"
    order = sorted(range(len(prompts)), key=lambda i: -len(tokenizer(prompts[i], add_special_tokens=False).input_ids))
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        asked = tokenizer([prompts[i] for i in chosen], return_tensors="pt", padding=True, add_special_tokens=False)
        with torch.inference_mode():
            made = loaded.model.generate(**asked, max_new_tokens=tokens, do_sample=False)
        texts = tokenizer.batch_decode(made[:, asked.input_ids.shape[1] :], skip_special_tokens=True)
        found.update(zip(chosen, map(str.strip, texts), strict=True))
    return [found[i] for i in range(len(prompts))]


def with_onednn(run: Callable[[], list[str]]) -> list[str]:
    """The same with torch's faster products of float32 matrices."""
    import torch

    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        return run()
    finally:
        torch.set_float32_matmul_precision(precision)


def measured(ways: dict[str, Callable[[], list[str]]], rounds: int) -> Iterator[tuple[str, list[float], list[str]]]:
    """Each way's CPU seconds by round, after a round that warms up, and its answers."""
    cpu: dict[str, list[float]] = {way: [] for way in ways}
    answers = {}
    for number in range(rounds + 1):
        for way, run in ways.items():
            start = time.process_time()
            answers[way] = run()
            cpu[way] += [time.process_time() - start] if number else []
    return ((way, cpu[way], answers[way]) for way in ways)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint folder; SmolLM2 of `wsteer demo` by default")
    parser.add_argument("--rows", type=int, default=48, help="questions [%(default)s]")
    parser.add_argument("--tokens", type=int, default=40, help="of each answer at most [%(default)s]")
    parser.add_argument("--batch-size", type=int, default=32, help="rows at once [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="measured, after one that warms up [%(default)s]")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}  # before torch

    from wsteer.demo.model import demo_model
    from wsteer.models.generation import answer
    from wsteer.models.rendering import prompt_text
    from wsteer.steering.loading import load

    loaded = load(arguments.model or demo_model())
    facts = [json.loads(line) for line in FACTS.read_text().splitlines()[: arguments.rows]]
    chats = [[{"role": "user", "content": fact["question"]}] for fact in facts]
    prompts = [prompt_text(loaded.chat, chat) for chat in chats]
    tokens, size = arguments.tokens, arguments.batch_size

    def plain() -> list[str]:
        return answers_by_transformers(loaded, prompts, tokens, size)

    ways: dict[str, Callable[[], list[str]]] = {
        "transformers": plain,
        "wsteer": lambda: [each.text for each in answer(loaded, chats, tokens, size)],
        "transformers, oneDNN": lambda: with_onednn(plain),
    }
    results = list(measured(ways, arguments.rounds))
    print(f"| {len(chats)} questions, {tokens} tokens, batches of {size} | CPU s | x transformers | same |")
    print("|---|---|---|---|")
    (_, first, own), *_ = results
    for way, cpu, found in results:
        ratio = statistics.median(a / b for a, b in zip(cpu, first, strict=True))
        same = sum(a == b for a, b in zip(found, own, strict=True))
        print(f"| {way} | {statistics.median(cpu):.2f} | {ratio:.2f} | {same} |")


if __name__ == "__main__":
    main()
