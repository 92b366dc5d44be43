"""What the plain chain shows of its evaluation: the numbers, and one question answered at three values of k."""

import re
from dataclasses import dataclass
from pathlib import Path

from wsteer.files.rows import read_objects
from wsteer.files.text import read_json

NAME = "chain"
ANSWERED_AT = ("w k=-1", "base", "w k=1")  # conditions of the example
PICTURES = ("eval/tradeoff.png", "monitor/similarity.png", "eval/report.html")


@dataclass(frozen=True)
class Chain:
    """What eval found (as results.json has it), the activation vector's block, and one question answered."""

    block: int
    results: dict
    example: tuple[dict, ...]
    pictures: tuple[str, ...]


def read_chain(folder: Path) -> Chain:
    """What to show of a finished chain."""
    results = read_json(folder / "eval" / "results.json")
    blocks = [found[1] for each in results["conditions"] if (found := re.match(r"a@(\d+) ", each["label"]))]
    pictures = tuple(str(folder / each) for each in PICTURES)
    return Chain(int(blocks[0]), results, tuple(_example(results, folder / "eval")), pictures)


def _example(results: dict, folder: Path) -> list[dict]:
    """One question under three conditions: the first whose verdicts change with k as hoped, else the first."""
    labels = {each["name"]: each["label"] for each in results["conditions"]}
    samples = [
        {**sample, "condition": labels[sample["condition"]]}
        for _, sample in read_objects(folder / "samples.jsonl")
        if sample["prompt"] == "claim" and labels[sample["condition"]] in ANSWERED_AT
    ]
    verdicts = {(sample["id"], sample["condition"]): sample["verdict"] for sample in samples}
    ids = list(dict.fromkeys(sample["id"] for sample in samples))
    wanted = ("disagrees", "disagrees", "agrees")
    turned = [i for i in ids if tuple(verdicts[i, label] for label in ANSWERED_AT) == wanted]
    chosen = (turned or ids)[0]
    found = {sample["condition"]: sample for sample in samples if sample["id"] == chosen}
    return [{key: found[label][key] for key in ("condition", "user", "answer")} for label in ANSWERED_AT]
