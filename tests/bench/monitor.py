"""Time `wsteer monitor` beside reading its inputs, dense reconstruction, and the cosine of whole state dicts.

    python tests/bench/monitor.py

(a) All pairs of 64 contrastive deltas of 7B shape (rank 64, all linear layers, random); (b) two dense deltas of 1.5B
shape; (c) for the same inputs what the paper's scripts do: a cosine summed over float32 state dicts, which for (a) must
first be reconstructed from the factors, pair by pair.

The cost of (a) is that of one decoder block times their number: `--blocks 1` measures one of the 28, over all 64 deltas
and 2016 pairs. The table extrapolates linearly in blocks, and from one reconstructed pair linearly in pairs. Inputs are
made once in the work folder (1.5 GB and 12.4 GB). Every measured run is a process of its own that reads them from the
disk: they are dropped from the page cache before it. `--device cuda` has wsteer take its products on a GPU.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from steer import SHAPES, CommandFailed, Shape, machine, projections, read_through, remove, run, say, versions

COUNT, RANK = 64, 64
STD = 1e-3
ALL_BLOCKS = 28
METADATA = json.dumps({"format": 1, "kind": "contrastive"})


# What runs in processes of its own


def build_low_rank(folder: str, blocks: str) -> None:
    """The contrastive deltas of (a), each the factors of `blocks` decoder blocks of a 7B model."""
    import torch
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    for number in range(COUNT):
        tensors = {}
        for name, (rows, columns) in linear_layers(SHAPES["7b"], int(blocks)).items():
            tensors[f"{name}.lora_A"] = torch.randn(RANK, columns, generator=generator)
            tensors[f"{name}.lora_B"] = STD * torch.randn(rows, RANK, generator=generator)
        save_file(tensors, Path(folder) / f"w{number:02}.safetensors", metadata={"wsteer": METADATA})


def build_dense(folder: str) -> None:
    """The two dense deltas of (b), float32."""
    import torch
    from safetensors.torch import save_file

    shape = SHAPES["1.5b"]
    for number in range(2):
        generator = torch.Generator().manual_seed(number)
        tensors = {
            name: STD * torch.randn(sides, generator=generator)
            for name, sides in linear_layers(shape, shape.layers).items()
        }
        tensors["model.embed_tokens.weight"] = STD * torch.randn(shape.vocabulary, shape.hidden, generator=generator)
        save_file(tensors, Path(folder) / f"d{number}.safetensors", metadata={"wsteer": METADATA})


def read_all(*paths: str) -> None:
    """Read the files once, in blocks, on as many threads as wsteer uses."""
    from concurrent.futures import ThreadPoolExecutor

    from wsteer.workers import worker_count

    with ThreadPoolExecutor(worker_count()) as pool:
        list(pool.map(lambda path: read_through(Path(path)), paths))


def state_dict_cosine(one: str, other: str) -> None:
    """The cosine of two state dicts as the paper's scripts take it: whole float32 tensors, key by key."""
    print_cosine(*(whole(path) for path in (one, other)))


def whole(path: str) -> dict:
    """A delta file as a state dict of whole float32 matrices."""
    from safetensors.torch import load_file

    tensors = load_file(path)
    names = {name.removesuffix(".lora_A").removesuffix(".lora_B") for name in tensors}
    return {
        name: tensors[name] if name in tensors else tensors[f"{name}.lora_B"] @ tensors[f"{name}.lora_A"]
        for name in sorted(names)
    }


def print_cosine(one: dict, other: dict) -> None:
    """Print the cosine, and the seconds since the process's arguments were read: without Python's start."""
    dot = sum(float((one[name] * other[name]).sum()) for name in one)
    norms = [sum(float((tensor**2).sum()) for tensor in side.values()) ** 0.5 for side in (one, other)]
    print(json.dumps({"cosine": dot / (norms[0] * norms[1]), "seconds": time.perf_counter() - STARTED}))


STEPS = {"low-rank": build_low_rank, "dense": build_dense, "read": read_all, "state-dicts": state_dict_cosine}
STARTED = time.perf_counter()


# What is measured


def linear_layers(shape: Shape, blocks: int) -> dict[str, tuple[int, int]]:
    """The linear layers of the first decoder blocks, by parameter name: rows and columns."""
    return {
        f"model.layers.{layer}.{name}.weight": sides
        for layer in range(blocks)
        for name, sides in projections(shape).items()
    }


def step(name: str, *arguments: object) -> list[str]:
    """The command that runs one of STEPS."""
    return [sys.executable, __file__, name, *map(str, arguments)]


def made(folder: Path, name: str, *arguments: object) -> list[Path]:
    """The input files in a folder, built unless an earlier run completed them."""
    if not (folder / "complete").exists():
        say(f"making the inputs in {folder}")
        remove(folder)
        folder.mkdir(parents=True)
        run(step(name, folder, *arguments), folder / "logs" / "build")
        (folder / "complete").touch()
    return sorted(folder.glob("*.safetensors"))


def measured(label: str, command: list, inputs: list[Path], log: Path, rounds: int) -> dict:
    """Median seconds and the highest peak memory of a command whose inputs are not in the page cache."""
    seconds, peaks = [], []
    for _ in range(rounds):
        for path in inputs:
            drop_from_cache(path)
        taken, peak = run(command, log)
        seconds.append(taken)
        peaks.append(peak)
        say(f"{label}: {taken:.2f} s, {peak:.0f} MB")
    return {"label": label, "seconds": statistics.median(seconds), "all_seconds": seconds, "peak_mb": max(peaks)}


def drop_from_cache(path: Path) -> None:
    """Have the system forget the file's pages, so that it is read from the disk; macOS lacks the call."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        if hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def measure(folder: Path, blocks: int, rounds: int, parts: str, device: str) -> list[dict]:
    """The rows of the table."""
    logs, rows = folder / "logs", []
    pairs = COUNT * (COUNT - 1) // 2
    if "a" in parts:
        low_rank = made(folder / f"7b-{blocks}", "low-rank", blocks)
        scale = ALL_BLOCKS / blocks
        reading = measured("(a) read 64 files", step("read", *low_rank), low_rank, logs / "read-a", rounds)
        ours = measured("(a) wsteer monitor", monitor(low_rank, folder, device), low_rank, logs / "ours-a", rounds)
        pair = measured("(c) one pair, reconstructed", step("state-dicts", *low_rank[:2]), low_rank[:2], logs / "c", 1)
        inside = json.loads((logs / "c.out").read_text())["seconds"]
        rows += [
            {**reading, "whole": reading["seconds"] * scale},
            {**ours, "whole": ours["seconds"] * scale, "to_reading": ours["seconds"] / reading["seconds"]},
            {**pair, "whole": inside * scale * pairs, "to_ours": inside * pairs / ours["seconds"]},
        ]
    if "b" in parts:
        dense = made(folder / "1.5b", "dense")
        reading = measured("(b) read 2 files", step("read", *dense), dense, logs / "read-b", rounds)
        ours = measured("(b) wsteer monitor", monitor(dense, folder, device), dense, logs / "ours-b", rounds)
        whole_dicts = measured("(c) state dicts", step("state-dicts", *dense), dense, logs / "c-b", 1)
        rows += [
            {**reading, "whole": reading["seconds"]},
            {**ours, "whole": ours["seconds"], "to_reading": ours["seconds"] / reading["seconds"]},
            {**whole_dicts, "whole": whole_dicts["seconds"], "to_ours": whole_dicts["seconds"] / ours["seconds"]},
        ]
    return rows


def monitor(paths: list[Path], folder: Path, device: str) -> list:
    """All pairs by wsteer's command."""
    return [
        sys.executable,
        "-m",
        "wsteer",
        "monitor",
        *paths,
        "-o",
        folder / "out",
        "--device",
        device,
        "--force",
        "-q",
    ]


def lines_of(written: dict) -> list[str]:
    """The table, with what was extrapolated, and the machine."""
    lines = [f"{'':30}{'seconds':>9}{'all 28 blocks':>15}{'x reading':>11}{'x wsteer':>10}{'peak MB':>9}"]
    for row in written["rows"]:
        ratios = [row.get("to_reading"), row.get("to_ours")]
        reading, ours = ("-" if ratio is None else f"{ratio:.2f}" for ratio in ratios)
        lines.append(
            f"{row['label']:30}{row['seconds']:9.2f}{row['whole']:15.1f}{reading:>11}{ours:>10}{row['peak_mb']:9.0f}"
        )
    lines += [
        "",
        f"wsteer's products on: {written['device']}",
        f"(a): {written['blocks']} of 28 decoder blocks were measured; the rest, and all pairs of (c), extrapolated.",
        ", ".join(f"{name} {value}" for name, value in written["machine"].items()),
        ", ".join(f"{name} {value}" for name, value in written["versions"].items()),
    ]
    return lines


def main() -> None:
    """Make the inputs, measure, print."""
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        return STEPS[sys.argv[1]](*sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "wsteer-bench-monitor"
    parser.add_argument("--folder", type=Path, default=default, help="on the disk to measure [%(default)s]")
    parser.add_argument("--blocks", type=int, default=1, help="decoder blocks of (a) to measure [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="of reading and wsteer [%(default)s]")
    parser.add_argument("--only", default="ab", metavar="PARTS", help="a, b or ab [%(default)s]")
    parser.add_argument("--device", default="cpu", help="where wsteer takes the products: cpu or cuda [%(default)s]")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here, too")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        rows = measure(folder, arguments.blocks, arguments.rounds, arguments.only, arguments.device)
    except CommandFailed as error:
        sys.exit(f"a run failed: {error}")
    written = {
        "rows": rows,
        "blocks": arguments.blocks,
        "device": arguments.device,
        "machine": machine(),
        "versions": versions(sys.executable, ("wsteer", "torch", "safetensors")),
    }
    print("\n".join(lines_of(written)))
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
