"""Time wsteer's diff and steer beside `cp -r`, plain writes, PEFT with mergekit, and float32 state dicts.

    python tests/bench/steer.py --size 1.5b

Run it with the Python that wsteer is installed for. `--size tiny --no-peers` is a quick trial; `--size 1.5b` needs
16 GB of disk, `--size 7b` 80 GB. The checkpoint and the adapters are made once and stay in the work folder, as does
mergekit's own virtual environment.

Every measured run is a process of its own, with its inputs read once beforehand, the former outputs deleted and the
disks synchronised. This process stays small for a reason: Linux starts a child's peak memory at its parent's.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

GROUPS = ("cp", "floor", "diff", "steer", "stochastic", "sweep", "peft", "mergekit", "paper")
SWEEP = "-2,-1,1,2"
RANK, ALPHA = 32, 16
CHANGE_STD = 1e-4
WEIGHT_STD = 0.02
# naming torch keeps pip from choosing a newer one with gigabytes of CUDA libraries
MERGEKIT = ("torch==2.13.0", "mergekit==0.1.5")
# lazy and in small shards for memory, written asynchronously for time
MERGEKIT_OPTIONS = ("--copy-tokenizer", "--lazy-unpickle", "--async-write", "--out-shard-size", "1B")
READ_BYTES = 1 << 20
WRITE_BYTES = 4 << 20  # of one write of the floor
# three state dicts, and room for the temporaries of loading and adding
FLOAT32_COPIES = 3.5
COMPLETE = "complete.json"


@dataclass(frozen=True)
class Shape:
    """The sizes of a Qwen2 model, and the number of files to store it in."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    tied: bool
    shards: int


SHAPES = {
    "tiny": Shape(64, 128, 2, 4, 2, 512, True, 2),
    "1.5b": Shape(1536, 8960, 28, 12, 2, 151936, True, 2),
    "7b": Shape(3584, 18944, 28, 28, 4, 152064, False, 4),
}


@dataclass(frozen=True)
class Task:
    """A command to measure, the files it reads and the one file or folder it writes."""

    group: str
    label: str
    command: Sequence[str | Path]
    inputs: Sequence[Path]
    output: Path
    peer: bool = False


@dataclass
class Result:
    """A row of the table: seconds, of the clock and of the cores, and peak memory by round, and why it has none."""

    label: str
    seconds: dict[int, float] = field(default_factory=dict)
    cpu_seconds: dict[int, float] = field(default_factory=dict)
    peak_mb: dict[int, float] = field(default_factory=dict)
    note: str = ""


class CommandFailed(Exception):
    """A measured command ended badly; the message is its exit code and the last line of its stderr."""


# What runs in processes of its own


def projections(shape: Shape) -> dict[str, tuple[int, int]]:
    """The linear layers of one block, by name: rows and columns."""
    key_rows = shape.hidden // shape.heads * shape.kv_heads
    return {
        "self_attn.q_proj": (shape.hidden, shape.hidden),
        "self_attn.k_proj": (key_rows, shape.hidden),
        "self_attn.v_proj": (key_rows, shape.hidden),
        "self_attn.o_proj": (shape.hidden, shape.hidden),
        "mlp.gate_proj": (shape.intermediate, shape.hidden),
        "mlp.up_proj": (shape.intermediate, shape.hidden),
        "mlp.down_proj": (shape.hidden, shape.intermediate),
    }


def parameters(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor of the checkpoint, in the order of the model."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (shape.vocabulary, shape.hidden)}
    for layer in range(shape.layers):
        block = f"model.layers.{layer}."
        shapes[block + "input_layernorm.weight"] = (shape.hidden,)
        for name, (rows, columns) in projections(shape).items():
            shapes[f"{block}{name}.weight"] = (rows, columns)
            if name.endswith(("q_proj", "k_proj", "v_proj")):
                shapes[f"{block}{name}.bias"] = (rows,)
        shapes[block + "post_attention_layernorm.weight"] = (shape.hidden,)
    shapes["model.norm.weight"] = (shape.hidden,)
    if not shape.tied:
        shapes["lm_head.weight"] = (shape.vocabulary, shape.hidden)
    return shapes


def parameter_count(size: str) -> int:
    """The number of weights; a tied head counts once."""
    return sum(math.prod(dimensions) for dimensions in parameters(SHAPES[size]).values())


def build(folder: str, size: str) -> None:
    """Make base, pos and neg in `folder`, and at last the file that says they are complete."""
    root, shape = Path(folder), SHAPES[size]
    for name in ("base", "pos", "neg"):
        shutil.rmtree(root / name, ignore_errors=True)
        (root / name).mkdir(parents=True)
    build_weights(root / "base", shape)
    build_config(root / "base", shape)
    for seed, side in enumerate(("pos", "neg"), start=1):
        build_adapter(root / side, root / "base", shape, seed)
    (root / COMPLETE).write_text(json.dumps(identity(root, size)))


def identity(root: Path, size: str) -> dict:
    """What finished inputs are known by; the adapters name their base by its folder."""
    return {"folder": str(root), **asdict(SHAPES[size])}


def build_weights(folder: Path, shape: Shape) -> None:
    """Random bf16 shards of about equal sizes, one in memory at a time, and their index."""
    import torch

    sizes = {name: math.prod(dimensions) for name, dimensions in parameters(shape).items()}
    total, before, names = sum(sizes.values()), 0, [[] for _ in range(shape.shards)]
    for name, size in sizes.items():
        names[before * shape.shards // total].append(name)
        before += size
    generator = torch.Generator().manual_seed(0)
    files = {}
    for number, shard in enumerate(names, start=1):
        file = f"model-{number:05d}-of-{shape.shards:05d}.safetensors"
        build_shard(folder / file, {name: parameters(shape)[name] for name in shard}, generator)
        files |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": 2 * total}, "weight_map": files}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def build_shard(path: Path, shapes: dict[str, tuple[int, ...]], generator) -> None:
    """One file of normally distributed weights; norms are ones. A function, so that its tensors are freed on return."""
    import torch
    from safetensors.torch import save_file

    tensors = {name: torch.ones(dimensions, dtype=torch.bfloat16) for name, dimensions in shapes.items()}
    for name, tensor in tensors.items():
        if not name.endswith("norm.weight"):
            tensor.normal_(std=WEIGHT_STD, generator=generator)
    save_file(tensors, path, metadata={"format": "pt"})


def build_config(folder: Path, shape: Shape) -> None:
    """The model's config.json, and a tokenizer of two words, which is all that the peers ask for."""
    from tokenizers import Tokenizer, models

    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads,
        "vocab_size": shape.vocabulary,
        "tie_word_embeddings": shape.tied,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    words = models.WordLevel({"<unknown>": 0, "<end>": 1}, unk_token="<unknown>")
    Tokenizer(words).save(str(folder / "tokenizer.json"))
    tokens = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unknown>", "eos_token": "<end>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens, indent=2))


def build_adapter(folder: Path, base: Path, shape: Shape, seed: int) -> None:
    """A LoRA adapter on all linear layers: A as PEFT initialises it, B such that alpha/r·BA has std `CHANGE_STD`."""
    import torch
    from peft import LoraConfig
    from safetensors.torch import save_file

    generator, tensors = torch.Generator().manual_seed(seed), {}
    for layer in range(shape.layers):
        for name, (rows, columns) in projections(shape).items():
            std_a = 1 / math.sqrt(3 * columns)
            std_b = CHANGE_STD / (ALPHA / RANK * math.sqrt(RANK) * std_a)
            module = f"base_model.model.model.layers.{layer}.{name}"
            tensors[f"{module}.lora_A.weight"] = std_a * torch.randn(RANK, columns, generator=generator)
            tensors[f"{module}.lora_B.weight"] = std_b * torch.randn(rows, RANK, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    targets = [name.split(".")[1] for name in projections(shape)]
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=targets, task_type="CAUSAL_LM", inference_mode=True)
    config.base_model_name_or_path = str(base)
    config.save_pretrained(folder)


def merge(base: str, adapter: str, output: str) -> None:
    """PEFT's way to a merged checkpoint."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16)
    PeftModel.from_pretrained(model, adapter).merge_and_unload().save_pretrained(output)


def add_state_dicts(base: str, pos: str, neg: str, output: str) -> None:
    """The paper's algorithm: base + (pos - neg) on whole float32 state dicts, stored in bf16 as the base is.

    The sum is taken in place, which spares it a fourth state dict. Tied parameters come up once.
    """
    import torch
    from transformers import AutoModelForCausalLM

    def load(folder: str) -> torch.nn.Module:
        return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)

    model, positive, negative = load(base), load(pos).state_dict(), load(neg).state_dict()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.add_(positive[name] - negative[name])
    del positive, negative
    model.to(torch.bfloat16).save_pretrained(output)


def write_floor(base: str, output: str, flushed: str) -> None:
    """Write files of the base's sizes from one buffer, and wait for the disk if `flushed` is yes, as steer does.

    cp does not wait: a program that gives a file its name only when a power cut can no longer take it has this floor.
    """
    buffer = os.urandom(WRITE_BYTES)
    Path(output).mkdir()
    for file in sorted(Path(base).iterdir()):
        descriptor, size = os.open(Path(output) / file.name, os.O_WRONLY | os.O_CREAT), file.stat().st_size
        for offset in range(0, size, WRITE_BYTES):
            os.pwrite(descriptor, buffer[: size - offset], offset)
        if flushed == "yes":
            os.fsync(descriptor)
        os.close(descriptor)


STEPS = {"build": build, "merge": merge, "add-state-dicts": add_state_dicts, "write-floor": write_floor}


def step(name: str, *arguments: str | Path) -> list[str | Path]:
    """The command that runs one of STEPS in a process of its own."""
    return [sys.executable, Path(__file__).resolve(), name, *arguments]


# Measuring


def environment() -> dict[str, str]:
    """This process's environment, without a network for the peers to wait for."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(command: Sequence[str | Path], log: Path) -> tuple[float, float, float]:
    """Run a command with its output in files beside `log`; its seconds, the cores' seconds, its peak memory in MB."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log.with_suffix(".out"), "w") as out, open(log.with_suffix(".err"), "w") as err:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=log.parent, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment()
        )
        # the usage that wait4 returns covers the processes that the child itself started and waited for
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        lines = log.with_suffix(".err").read_text(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "nothing on stderr")
        raise CommandFailed(f"exit code {process.returncode}: {last}")
    return seconds, usage.ru_utime + usage.ru_stime, peak_mb(usage.ru_maxrss)


def peak_mb(maximum: int) -> float:
    """ru_maxrss in MB: Linux counts it in KiB, macOS in bytes."""
    return maximum / 1e6 if sys.platform == "darwin" else maximum * 1024 / 1e6


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_through(path: Path) -> None:
    """Read a file, or all files of a folder, into the page cache."""
    buffer = bytearray(READ_BYTES)
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if file.is_file():
            with open(file, "rb", buffering=0) as opened:
                while opened.readinto(buffer):
                    pass


def measure(task: Task, name: str, number: int, results: dict[str, Result], logs: Path) -> None:
    """Run a task once and enter what it took, or why it could not run; a row that failed once is left alone."""
    result = results.setdefault(name, Result(task.label))
    if result.note:
        return
    missing = [path.name for path in task.inputs if not path.exists()]
    if missing:
        result.note = f"skipped: there is no {missing[0]}"
        return say(f"{task.label} {result.note}")
    remove(task.output)
    os.sync()
    for path in task.inputs:
        read_through(path)
    log = logs / f"{name.replace(' ', '-')}-{number + 1}"
    try:
        result.seconds[number], result.cpu_seconds[number], result.peak_mb[number] = run(task.command, log)
    except CommandFailed as error:
        result.note = f"failed: {error}"
        return say(f"{task.label} {result.note}")
    say(f"round {number + 1}: {task.label}: {result.seconds[number]:.2f} s, {result.peak_mb[number]:.0f} MB")
    streaming = streaming_seconds(log.with_suffix(".out")) if name in ("steer", "stochastic", "sweep") else None
    if streaming is not None:
        results.setdefault(f"{name} streaming", Result("  its streaming part")).seconds[number] = streaming


def streaming_seconds(out: Path) -> float | None:
    """The `seconds` that `wsteer steer --json` printed, None where it printed none."""
    return json.loads(out.read_text()).get("seconds")


def say(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


# What is measured


def make_inputs(root: Path, size: str) -> None:
    """Build the checkpoint and the adapters, unless an earlier run completed them."""
    complete = root / COMPLETE
    if complete.exists() and json.loads(complete.read_text()) == identity(root, size):
        return
    say(f"making the inputs in {root}")
    complete.unlink(missing_ok=True)
    run(step("build", root, size), root / "logs" / "build")


def make_delta(root: Path) -> None:
    """The delta that every steered checkpoint takes; also wsteer's first run, which need not be measured."""
    remove(root / "w.safetensors")
    command = [sys.executable, "-m", "wsteer", "diff", root / "pos", root / "neg", "-o", root / "w.safetensors"]
    try:
        run(command, root / "logs" / "delta")
    except CommandFailed as error:
        say(f"wsteer diff failed: {error}")


def make_mergekit(folder: Path) -> str:
    """Install mergekit in an environment of its own and start it; returns why that failed, or nothing."""
    logs, program = folder.parent / "logs", folder / "bin" / "mergekit-yaml"
    if not program.exists():
        say(f"installing {' '.join(MERGEKIT)} in {folder}")
        remove(folder)
        try:
            run([sys.executable, "-m", "venv", folder], logs / "environment")
            run([folder / "bin" / "python", "-m", "pip", "install", *MERGEKIT], logs / "install")
        except CommandFailed as error:
            remove(folder)
            return f"skipped: mergekit could not be installed: {error}"
    return first_run([program, "--help"], logs / "first-mergekit")


def wsteer_tasks(root: Path) -> dict[str, Task]:
    """cp, the writes alone, and wsteer: what every round measures."""
    base, delta, out = root / "base", root / "w.safetensors", root / "out"
    sides = [root / "pos", root / "neg"]
    wsteer = [sys.executable, "-m", "wsteer"]
    steer = [*wsteer, "steer", base, delta, "-o", out, "--json"]
    nearest, stochastic = (["--k", "1", "--rounding", rounding] for rounding in ("nearest", "stochastic"))
    copied = root / "w-copy.safetensors"
    return {
        "cp": Task("cp", "cp -r", ["cp", "-r", base, out], [base], out),
        "floor": Task("floor", "pwrite of 4 MB blocks", step("write-floor", base, out, "no"), [base], out),
        "flushed floor": Task("floor", "the same, then fsync", step("write-floor", base, out, "yes"), [base], out),
        "diff": Task("diff", "wsteer diff", [*wsteer, "diff", *sides, "-o", copied], sides, copied),
        "steer": Task("steer", "wsteer steer, nearest", [*steer, *nearest], [base, delta], out),
        "stochastic": Task("stochastic", "wsteer steer, stochastic", [*steer, *stochastic], [base, delta], out),
        "sweep": Task("sweep", "wsteer steer, sweep of 4", [*steer, f"--sweep={SWEEP}"], [base, delta], out),
    }


def peer_tasks(root: Path, mergekit: Path) -> dict[str, Task]:
    """PEFT for each side; from its merged checkpoints then mergekit and the paper's algorithm."""
    base, out, recipe = root / "base", root / "out", root / "mergekit.yml"
    merged = [root / "merged-pos", root / "merged-neg"]
    program = mergekit / "bin" / "mergekit-yaml"
    combine = [program, recipe, out, "--no-write-model-card", *MERGEKIT_OPTIONS]
    tasks = {
        f"peft {side}": Task(
            "peft", f"PEFT merge, {side}", step("merge", base, root / side, output), [base, root / side], output, True
        )
        for side, output in zip(("pos", "neg"), merged, strict=True)
    }
    tasks["mergekit"] = Task("mergekit", "mergekit task_arithmetic", combine, [base, *merged, recipe], out, True)
    add = step("add-state-dicts", base, *merged, out)
    tasks["paper"] = Task("paper", "float32 state dicts", add, [base, *merged], out, True)
    return tasks


def write_recipe(root: Path) -> None:
    """mergekit's configuration of base + pos - neg; JSON is YAML too."""
    models = [
        {"model": str(root / f"merged-{side}"), "parameters": {"weight": weight}}
        for side, weight in (("pos", 1.0), ("neg", -1.0))
    ]
    recipe = {"merge_method": "task_arithmetic", "base_model": str(root / "base"), "models": models}
    (root / "mergekit.yml").write_text(json.dumps({**recipe, "dtype": "bfloat16"}, indent=2))


def prepare_peers(root: Path, size: str, mergekit: Path, groups: Sequence[str]) -> dict[str, Result]:
    """Install what is lacking and import the peers once, so that no measured run is their first.

    Returns the rows that cannot be measured, with the reason.
    """
    notes = {}
    if "mergekit" in groups:
        write_recipe(root)
        notes["mergekit"] = make_mergekit(mergekit)
    if "paper" in groups:
        notes["paper"] = too_little_memory(size)
    if "peft" in groups:
        notes["peft pos"] = notes["peft neg"] = first_run(
            [sys.executable, "-c", "import peft, transformers"], root / "logs" / "first-peft"
        )
    labels = {name: task.label for name, task in peer_tasks(root, mergekit).items()}
    return {name: Result(labels[name], note=note) for name, note in notes.items() if note}


def first_run(command: Sequence[str | Path], log: Path) -> str:
    """Run a peer once without measuring; returns why that failed, or nothing."""
    try:
        run(command, log)
    except CommandFailed as error:
        return f"failed: {error}"
    return ""


def too_little_memory(size: str) -> str:
    """Why the float32 state dicts would not fit in memory; nothing if they would."""
    needed, available = FLOAT32_COPIES * 4 * parameter_count(size), available_memory()
    if needed <= available:
        return ""
    return f"skipped: needs about {needed / 1e9:.1f} GB of memory, {available / 1e9:.1f} GB are available"


def available_memory() -> int:
    """Bytes that a new process can have; all of the machine's where the system does not say."""
    if os.path.exists("/proc/meminfo"):
        with open("/proc/meminfo") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    return total_memory()


def total_memory() -> int:
    """Bytes of the machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure_all(folder: Path, size: str, groups: Sequence[str], rounds: int, peer_rounds: int) -> dict[str, Result]:
    """All rows, round by round, in the order of the table."""
    root, mergekit = folder / size, folder / "mergekit"
    tasks = {**wsteer_tasks(root), **peer_tasks(root, mergekit)}
    tasks = {name: task for name, task in tasks.items() if task.group in groups}
    if any(root / "w.safetensors" in task.inputs for task in tasks.values()):
        make_delta(root)
    results = prepare_peers(root, size, mergekit, groups)
    for number in range(rounds):
        for name, task in tasks.items():
            if not task.peer or number < peer_rounds:
                measure(task, name, number, results, root / "logs")
                if task.group != "peft":
                    remove(task.output)
        for side in ("pos", "neg"):
            remove(root / f"merged-{side}")
    order = [key for name in tasks for key in (name, f"{name} streaming") if key in results]
    return {key: results[key] for key in order}


# What is reported


def paired_ratio(results: dict[str, Result], name: str, other: str) -> float | None:
    """Median over the rounds that both rows have of the ratio of their seconds."""
    if name not in results or other not in results:
        return None
    above, below = results[name].seconds, results[other].seconds
    ratios = [above[number] / below[number] for number in above if number in below]
    return statistics.median(ratios) if ratios else None


def total_seconds(results: dict[str, Result], *names: str) -> float | None:
    """Sum of the rows' median seconds, None where one is lacking."""
    if not all(name in results and results[name].seconds for name in names):
        return None
    return sum(statistics.median(results[name].seconds.values()) for name in names)


def largest_peak(results: dict[str, Result], *names: str) -> float | None:
    """The highest peak memory of the rows, None where one is lacking."""
    if not all(name in results and results[name].peak_mb for name in names):
        return None
    return max(peak for name in names for peak in results[name].peak_mb.values())


def divided(above: float | None, below: float | None) -> float | None:
    """above / below, None where either is lacking."""
    return above / below if above is not None and below else None


def derived_ratios(results: dict[str, Result]) -> dict[str, float]:
    """The ratios that the rows are measured for, those of them whose rows are there."""
    ours, merges = ("diff", "steer"), ("peft pos", "peft neg")
    seconds, peak = total_seconds(results, *ours), largest_peak(results, *ours)
    ratios = {
        "PEFT twice + mergekit, over wsteer diff + steer": divided(
            total_seconds(results, *merges, "mergekit"), seconds
        ),
        "PEFT twice + float32 state dicts, over wsteer diff + steer": divided(
            total_seconds(results, *merges, "paper"), seconds
        ),
        "peak memory of PEFT and mergekit, over that of wsteer diff and steer": divided(
            largest_peak(results, *merges, "mergekit"), peak
        ),
        "steer: its streaming part over pwrite and fsync": paired_ratio(results, "steer streaming", "flushed floor"),
        "steer: stochastic over nearest": paired_ratio(results, "stochastic", "steer"),
        "steer: sweep of 4 over one": paired_ratio(results, "sweep", "steer"),
        "steer: sweep of 4 over cp -r of one": paired_ratio(results, "sweep", "cp"),
    }
    return {label: ratio for label, ratio in ratios.items() if ratio is not None}


def machine() -> dict[str, str | int | float]:
    """What the numbers depend on, apart from the disk."""
    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as lines:
            names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
            processor = next(names, processor)
    facts = {"processor": processor, "cores": os.cpu_count() or 1, "memory_gb": round(total_memory() / 1e9, 1)}
    threads = os.environ.get("OMP_NUM_THREADS")
    return {**facts, "system": platform.platform(), **({"OMP_NUM_THREADS": threads} if threads else {})}


def versions(python: str | Path, packages: Sequence[str]) -> dict[str, str]:
    """The versions of packages in an environment; asked there, in a process of its own."""
    program = "import json, sys; from importlib.metadata import version as v; "
    program += "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    answer = subprocess.run([python, "-c", program, *packages], capture_output=True, text=True, check=True)
    return json.loads(answer.stdout)


def report(size: str, results: dict[str, Result], mergekit_python: Path) -> dict:
    """All that was measured, for --json."""
    count = parameter_count(size)
    environments = {"wsteer": versions(sys.executable, ("wsteer", "torch", "safetensors", "transformers", "peft"))}
    if results.get("mergekit", Result("")).seconds:
        packages = ("mergekit", "torch", "safetensors", "transformers")
        environments["mergekit"] = versions(mergekit_python, packages)
    rows = {
        name: {
            **asdict(result),
            "median_seconds": total_seconds(results, name),
            "ratio_to_cp": paired_ratio(results, name, "cp"),
        }
        for name, result in results.items()
    }
    return {
        "size": size,
        "parameters": count,
        "gigabytes": round(2 * count / 1e9, 2),
        "rows": rows,
        "derived": derived_ratios(results),
        "machine": {**machine(), "python": platform.python_version()},
        "versions": environments,
    }


def lines_of(written: dict) -> list[str]:
    """The report as text: the table, the derived ratios, the machine and the versions."""
    count, gigabytes = written["parameters"] / 1e6, written["gigabytes"]
    lines = [f"{written['size']}: {count:.1f} M parameters, {gigabytes} GB in bf16", ""]
    lines.append(f"{'':26}{'runs':>5}{'seconds':>10}{'min - max':>18}{'x cp -r':>9}{'CPU s':>8}{'peak MB':>9}")
    lines += [line_of(row) for row in written["rows"].values()]
    lines += ["", *(f"{ratio:8.2f}  {label}" for label, ratio in written["derived"].items())]
    lines += [""] if written["derived"] else []
    lines.append(", ".join(f"{name} {value}" for name, value in written["machine"].items()))
    for name, packages in written["versions"].items():
        lines.append(f"environment of {name}: " + ", ".join(f"{key} {value}" for key, value in packages.items()))
    lines.append("Medians; x cp -r is the median of the ratios within a round. Peak MB is the highest resident size,")
    lines.append("pages of memory-mapped files included, and is never seen below this script's own size.")
    return lines


def line_of(row: dict) -> str:
    """One line of the table; a row that was not measured in full ends in its note."""
    seconds, cores, peaks = (list(row[key].values()) for key in ("seconds", "cpu_seconds", "peak_mb"))
    line = f"{row['label']:26}{len(seconds):5}"
    if seconds:
        line += f"{row['median_seconds']:10.2f}{f'{min(seconds):.2f} - {max(seconds):.2f}':>18}"
        line += f"{row['ratio_to_cp']:9.2f}" if row["ratio_to_cp"] is not None else f"{'-':>9}"
        line += f"{statistics.median(cores):8.2f}" if cores else f"{'-':>8}"
        line += f"{max(peaks):9.0f}" if peaks else f"{'-':>9}"
    return f"{line}  {row['note']}".rstrip()


def chosen(only: str | None, peers: bool) -> list[str]:
    """The groups of rows to measure; what mergekit and the paper's algorithm start from is PEFT's work."""
    groups = set(only.split(",")) if only else set(GROUPS)
    if unknown := groups - set(GROUPS):
        raise SystemExit(f"--only: there is no {', '.join(sorted(unknown))}; there are {', '.join(GROUPS)}")
    if groups & {"mergekit", "paper"}:
        groups.add("peft")
    if not peers:
        groups -= {"peft", "mergekit", "paper"}
    return [group for group in GROUPS if group in groups]


def options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = Path(tempfile.gettempdir()) / "wsteer-bench"
    parser.add_argument("--size", choices=SHAPES, default="1.5b", help="of the checkpoint [%(default)s]")
    parser.add_argument("--folder", type=Path, default=default, help="on the disk to measure [%(default)s]")
    parser.add_argument("--rounds", type=int, default=5, help="of cp and wsteer [%(default)s]")
    parser.add_argument("--peer-rounds", type=int, default=1, help="how many of them measure the peers [%(default)s]")
    parser.add_argument("--no-peers", action="store_true", help="without PEFT, mergekit and float32 state dicts")
    parser.add_argument("--only", metavar="ROWS", help=f"comma-separated: {', '.join(GROUPS)}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report here, too")
    return parser.parse_args()


def main() -> None:
    """Make the inputs, measure, print; exit code 1 if a row failed."""
    if len(sys.argv) > 1 and sys.argv[1] in STEPS:
        return STEPS[sys.argv[1]](*sys.argv[2:])
    arguments = options()
    folder = arguments.folder.resolve()
    groups = chosen(arguments.only, not arguments.no_peers)
    try:
        make_inputs(folder / arguments.size, arguments.size)
    except CommandFailed as error:
        sys.exit(f"the inputs could not be made: {error}")
    results = measure_all(folder, arguments.size, groups, arguments.rounds, arguments.peer_rounds)
    written = report(arguments.size, results, folder / "mergekit" / "bin" / "python")
    print("\n".join(lines_of(written)))
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=2) + "\n")
    sys.exit(any(result.note.startswith("failed") for result in results.values()))


if __name__ == "__main__":
    main()
