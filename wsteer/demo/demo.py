"""The chain as a user would type it, command by command, with a table of the results."""

import contextlib
import ctypes
import gc
import os
import resource
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.architecture import read_config
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.demo.model import demo_model
from wsteer.elicitation.shipped_sets import generate_set
from wsteer.files.provenance import RECORD, record, recordable
from wsteer.files.rows import read_objects
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import read_json, write_json
from wsteer.progress import Progress, silent

KS = (-1.0, 0.5, 1.0, 1.5)
ANSWERED_AT = ("w k=-1", "base", "w k=1")  # conditions of the example
DEPTH = 0.4  # where the activation vector is added, as a share of the blocks
PICTURES = ("eval/tradeoff.png", "monitor/similarity.png", "eval/report.html")


@dataclass(frozen=True)
class DemoReport:
    """What the demo made: the commands it ran, what eval found (as results.json has it), and one question answered."""

    output: str
    model: str
    block: int
    commands: tuple[str, ...]
    results: dict
    example: tuple[dict, ...]
    pictures: tuple[str, ...]
    seconds: float
    peak_memory_gb: float


def commands(model: str, block: int) -> list[list[str]]:
    """The chain, run inside the demo's folder; the activation vector is added at decoder block `block`."""
    # half of the rows of a step at a time: their activations are the most that any command holds
    tune = ["--lr", "5e-4", "--max-steps", "24", "--micro-batch-size", "4"]
    ks = "--k=" + ",".join(f"{k:g}" for k in KS)
    return [
        ["finetune", model, "data/pos.jsonl", "-o", "pos", *tune],
        ["finetune", model, "data/neg.jsonl", "-o", "neg", *tune],
        ["diff", "pos", "neg", "-o", "w.safetensors"],
        ["steer", model, "w.safetensors", "--k", "1", "-o", "steered"],
        ["actvec", model, "data/pos.jsonl", "data/neg.jsonl", "-o", "a.safetensors"],
        [
            *("eval", model, "--delta", "w.safetensors", "--delta", f"a.safetensors@{block}", ks),
            *("--task", "agreement", "--limit", "40", "-o", "eval"),
        ],
        ["monitor", "w.safetensors", "--of", "pos", "--of", "neg", "-o", "monitor"],
    ]


def demo(
    output: Path,
    model: str | None,
    execute: Callable[[list[str], str], None],
    force: bool = False,
    progress: Progress = silent,
) -> DemoReport:
    """Run the chain in a new folder `output`. `execute` runs one command, given as arguments and as typed text."""
    check_output(output, force, folder=True, inputs=[] if model is None else [model])
    start = time.perf_counter()
    if model is None:
        model = demo_model(progress)
    elif Path(os.path.expanduser(model)).is_dir():
        model = str(Path(os.path.expanduser(model)).resolve())  # absolute: the commands run in another folder
    block = int(DEPTH * read_config(open_checkpoint(model)).get_text_config().num_hidden_layers)
    chain = commands(model, block)
    typed = [as_typed(command) for command in chain]
    with new_folder(output, force) as partial:
        generate_set("opinions", partial / "data")
        with _inside(partial):
            for command, text in zip(chain, typed, strict=True):
                execute(command, text)
                return_memory()
            results = read_json(Path("eval/results.json"))
            example = _example(results, Path("eval"))
        inputs = [{"role": "model", "path": recordable(model)}]
        write_json(partial / RECORD, record("demo", {"k": list(KS), "block": block}, inputs))
    return DemoReport(
        output=str(output),
        model=model,
        block=block,
        commands=tuple(typed),
        results=results,
        example=tuple(example),
        pictures=tuple(str(output / picture) for picture in PICTURES),
        seconds=round(time.perf_counter() - start, 1),
        peak_memory_gb=round(peak_memory() / 1e9, 2),
    )


def as_typed(command: Sequence[str]) -> str:
    """The command as one would type it, the home folder as `~`."""
    home = str(Path.home())
    words = [shlex.quote(word) for word in command]
    return " ".join(
        ["wsteer", *("~" + word.removeprefix(home) if word.startswith(home + "/") else word for word in words)]
    )


def return_memory() -> None:
    """Give memory that is free back to the system.

    glibc keeps what a command's tensors leave, in pieces too small for the next command's, which come on top.
    """
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def peak_memory() -> int:
    """The process's peak resident set, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


@contextlib.contextmanager
def _inside(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


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
