"""Measure wsteer's eval beside reloads and lm-eval, and what lm-eval, inspect and one more k cost, on SmolLM2.

    python tests/bench/eval.py

Run it with the Python that wsteer is installed for, with its extras `lm-eval` and `inspect`; what is not installed is
left out. It needs 5 GB of disk for nine checkpoints. Three parts:

- sweep: nine values of k by one `wsteer eval`, beside nine `wsteer eval` and nine `lm-eval run`, each on a checkpoint
  that `wsteer steer --sweep` wrote; every command is a process of its own. All run the same tasks of lm-eval.
- libraries: the same questions in one process after a warm-up: wsteer's own YAML tasks, lm-eval and inspect, in turn.
- apply: what is added to a k's rows: a change applied to the model in memory, and removed.

The questions are wsteer's built-in facts: the right answer against the wrong one by likelihood, and 20 tokens of
generation. The delta is random, of rank 32 and a fiftieth of each matrix's norm, if none is given. Processes run one
thread; CPU seconds can be compared on a machine that others use as well, seconds cannot.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

FACTS = Path(__file__).parents[2] / "wsteer" / "evaluation" / "tasks" / "facts.jsonl"
PARTS = ("sweep", "libraries", "apply")
KINDS = ("choices", "generation")
PEERS = {"lm-eval": "lm_eval", "inspect": "inspect_ai"}
KS = (-2.0, -1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0)
TOKENS, BATCH, RANK, NORM = 20, 32, 32, 0.02
APPLIED = 5  # times in a round

LM_DATA = """
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
doc_to_text: "{{{{question}}}}"
"""
LM_TASKS = {
    "choices": """
task: bench_choices
output_type: multiple_choice
doc_to_choice: "{{[correct_answer, incorrect_answer]}}"
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
""",
    "generation": f"""
task: bench_generation
output_type: generate_until
doc_to_target: "{{{{correct_answer}}}}"
generation_kwargs: {{until: [], max_gen_toks: {TOKENS}}}
metric_list: [{{metric: exact_match, aggregation: mean, higher_is_better: true}}]
""",
}
OWN_TASKS = {
    "choices": """
name: choices
data: {data}
choices:
  plain:
    user: "{{{{ question }}}}"
    options: ["{{{{ correct_answer }}}}", "{{{{ incorrect_answer }}}}"]
    answer: "{{{{ correct_answer }}}}"
metrics: {{accuracy: {{chosen: plain, better: higher}}}}
""",
    "generation": f"""
name: generation
data: {{data}}
max_new_tokens: {TOKENS}
prompts:
  plain: {{{{user: "{{{{{{{{ question }}}}}}}}", score: answer}}}}
metrics: {{{{accuracy: {{{{count: {{{{plain: correct}}}}, better: higher}}}}}}}}
""",
}
INSPECT_TASK = f"""
import json
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import GenerateConfig
from inspect_ai.scorer import includes

ROWS = [json.loads(line) for line in Path(__file__).with_name("facts.jsonl").read_text().splitlines()]


@task
def generation():
    samples = [Sample(id=row["id"], input=row["question"], target=row["correct_answer"]) for row in ROWS]
    return Task(samples, scorer=includes(), config=GenerateConfig(max_tokens={TOKENS}))
"""


@dataclass(frozen=True)
class Cost:
    """CPU seconds and seconds of one run."""

    cpu: float
    wall: float


# What runs in processes of its own


def make_inputs(model: str, work: Path, given: str | None) -> None:
    """Write a random low-rank delta, if none is given, a dense one, and the model's checkpoint in both types."""
    import torch
    from safetensors.torch import load_file, save_file

    from wsteer.checkpoints.checkpoint import open_checkpoint
    from wsteer.deltas.delta import Delta

    generator = torch.Generator().manual_seed(0)
    checkpoint = open_checkpoint(model)
    weights = {name: tensor for shard in checkpoint.shards for name, tensor in load_file(shard).items()}
    factors, dense = {}, {}
    for name, weight in weights.items():
        if weight.ndim == 2 and ".layers." in name:
            b, a = (torch.randn(size, generator=generator) for size in ((len(weight), RANK), (RANK, weight.shape[1])))
            scale = NORM * weight.float().norm() / (b @ a).norm()
            factors[name] = (scale * b, a)
            noise = torch.randn(weight.shape, generator=generator)
            dense[name] = NORM * weight.float().norm() / noise.norm() * noise
    Delta.of_factors(factors).save(work / "low-rank.safetensors")
    Delta.of_tensors(dense).save(work / "dense.safetensors")
    if given is not None:
        (work / "low-rank.safetensors").unlink()
        (work / "low-rank.safetensors").symlink_to(Path(given).resolve())
    for dtype in (torch.float32, torch.bfloat16):
        folder = work / str(dtype).removeprefix("torch.")
        folder.mkdir()
        for path in checkpoint.folder.iterdir():
            if path.suffix in (".json", ".jinja", ".txt", ".model") and not path.name.endswith(".index.json"):
                (folder / path.name).write_bytes(path.read_bytes())
        config = json.loads((folder / "config.json").read_text())
        config["dtype"] = folder.name
        (folder / "config.json").write_text(json.dumps(config))
        save_file(
            {name: tensor.to(dtype) for name, tensor in weights.items()}, folder / "model.safetensors", {"format": "pt"}
        )


def timed(run: Callable[[], object]) -> tuple[Cost, object]:
    """What a call costs in this process, on all of its threads, and what it returns."""
    start, busy = time.perf_counter(), time.process_time()
    found = run()
    return Cost(time.process_time() - busy, time.perf_counter() - start), found


def libraries(model: str, work: Path, rounds: int, kinds: Sequence[str], peers: Sequence[str]) -> None:
    """Print what each way of asking costs in each round, and how many of its answers are those of wsteer's own."""
    from wsteer.evaluation.conditions import BASE, Condition
    from wsteer.evaluation.harness.harness import Harness, load_tasks
    from wsteer.evaluation.inspection.inspection import run as run_inspect
    from wsteer.evaluation.rows import Outcome
    from wsteer.evaluation.subject import Subject
    from wsteer.evaluation.tasks.answering import prepare
    from wsteer.steering.loading import load

    subject, base = Subject(load(model), {}, BATCH), Condition(BASE)
    ways: dict[str, Callable[[], Outcome]] = {}
    for kind in kinds:
        own = prepare(str(work / f"own-{kind}.yaml"))
        ways[f"{kind}: wsteer"] = lambda own=own: own.run(subject, base)
        if "lm-eval" in peers:
            harness = Harness(subject, load_tasks([f"lm:{work / f'{kind}.yaml'}"]))
            ways[f"{kind}: lm-eval"] = lambda harness=harness: harness.run(base).outcome
        if "inspect" in peers and kind == "generation":
            ways[f"{kind}: inspect"] = lambda: run_inspect(
                [str(work / "facts.py")], subject, [base], [], Path(tempfile.mkdtemp(dir=work))
            )
    costs: dict[str, list[Cost]] = {way: [] for way in ways}
    answers: dict[str, list[str]] = {}
    for number in range(rounds + 1):
        for way, run in ways.items():
            cost, outcome = timed(run)
            answers[way] = [row.answer.strip() for row in outcome.rows]
            costs[way] += [cost] if number else []  # the first round warms up
    for way, given in answers.items():
        if way.startswith("generation"):
            own = answers["generation: wsteer"]
            print(
                f"{way}: {sum(a == b for a, b in zip(given, own, strict=True))} of {len(own)} answers are wsteer's own"
            )
    print_costs(costs)


def apply(work: Path, rounds: int) -> None:
    """Print what applying and removing each kind of change costs."""
    from wsteer.deltas.delta import Delta
    from wsteer.evaluation.conditions import Condition
    from wsteer.evaluation.subject import Subject
    from wsteer.steering.loading import load

    costs: dict[str, list[Cost]] = {}
    for dtype in ("float32", "bfloat16"):
        loaded = load(work / dtype)
        for kind in ("low-rank", "dense"):
            delta, condition = Delta.load(work / f"{kind}.safetensors"), Condition("w", 1.0)
            subject = Subject(loaded, {condition.name: delta})

            def once(subject: Subject = subject, condition: Condition = condition) -> None:
                with subject.under(condition):
                    pass

            once()
            costs[f"{kind} delta, {dtype} checkpoint"] = [timed(once)[0] for _ in range(APPLIED * rounds)]
    print_costs(costs)


def print_costs(costs: dict[str, list[Cost]]) -> None:
    """The costs as JSON in one line."""
    print(json.dumps({name: [[cost.cpu, cost.wall] for cost in found] for name, found in costs.items()}))


# What measures them


def environment(work: Path) -> dict[str, str]:
    """One thread, no network, and a cache of data sets of its own."""
    own = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "HF_DATASETS_CACHE": str(work / "datasets"), "TQDM_DISABLE": "1"}


def measured(command: Sequence[object], work: Path) -> tuple[Cost, list[str]]:
    """Run a command: what it and its children cost, and its lines of output."""
    log = work / "log"
    start = time.perf_counter()
    with log.open("w") as stream:
        process = subprocess.Popen(list(map(str, command)), stdout=stream, stderr=stream, env=environment(work))
        _, status, usage = os.wait4(process.pid, 0)
    wall, lines = time.perf_counter() - start, log.read_text(errors="replace").splitlines()
    if status:
        raise SystemExit("\n".join([f"exit status {status}: {' '.join(map(str, command))}", *lines[-20:]]))
    return Cost(usage.ru_utime + usage.ru_stime, wall), lines


def inner(command: Sequence[object], work: Path) -> dict[str, list[Cost]]:
    """Run a part of this file in a process of its own: the costs that it measures; its other lines are printed."""
    _, lines = measured([sys.executable, __file__, "--inner", *command], work)
    *said, last = [line for line in lines if line.startswith(("{", "generation: "))]
    print(*said, sep="\n", end="\n" if said else "", flush=True)
    return {name: [Cost(*each) for each in found] for name, found in json.loads(last).items()}


def wsteer(*arguments: object) -> list[object]:
    """A command of wsteer's."""
    return [sys.executable, "-m", "wsteer", *arguments]


def sweep(model: str, work: Path, rounds: int, kinds: Sequence[str]) -> dict[str, list[Cost]]:
    """Nine values of k, in one process or in nine, round by round."""
    delta, ks = work / "low-rank.safetensors", ",".join(f"{k:g}" for k in KS)
    measured(wsteer("steer", model, delta, f"--sweep={ks}", "-o", work / "sweep"), work)
    folders = [work / "sweep" / f"k{k:g}" for k in KS]
    costs: dict[str, list[Cost]] = {}
    for number in range(rounds):
        for kind in kinds:
            task, out = work / f"{kind}.yaml", work / f"out-{number}-{kind}"
            ways = {
                "one `wsteer eval`": [
                    wsteer("eval", model, "--delta", delta, f"--k={ks}", "--task", f"lm:{task}", "-o", out)
                ],
                "nine `wsteer eval`": [
                    wsteer("eval", folder, "--task", f"lm:{task}", "-o", f"{out}-{folder.name}") for folder in folders
                ],
                "nine `lm-eval run`": [
                    [
                        *(sys.executable, "-m", "lm_eval", "run", "--model", "hf", "--device", "cpu"),
                        *("--model_args", f"pretrained={folder},dtype=float32", "--tasks", task),
                        *("--apply_chat_template", "--batch_size", BATCH, "--log_samples"),
                        *("--output_path", f"{out}-lm-{folder.name}"),
                    ]
                    for folder in folders
                ],
            }
            for way, commands in ways.items():
                found = [measured(command, work)[0] for command in commands]
                total = Cost(sum(cost.cpu for cost in found), sum(cost.wall for cost in found))
                costs.setdefault(f"{kind}: {way}", []).append(total)
                print(f"{kind}: {way}, round {number + 1}: {total.cpu:.1f} CPU s, {total.wall:.1f} s", flush=True)
    return costs


def table(title: str, costs: dict[str, list[Cost]], unit: str | None) -> list[str]:
    """The medians in Markdown, each with its ratio to the first way of its kind, which `unit` names if there is one.

    The ratio is the median of the ratios within a round.
    """
    ratio = f" x {unit} |" if unit else ""
    lines = [f"| {title} | CPU s | s |{ratio}", "|---|---|---|" + ("---|" if unit else "")]
    for name, found in costs.items():
        line = f"| {name} | {middle(c.cpu for c in found):.2f} | {middle(c.wall for c in found):.2f} |"
        if unit:
            kind = name.partition(":")[0]
            first = next(others for other, others in costs.items() if other.partition(":")[0] == kind)
            line += f" {middle(c.cpu / f.cpu for c, f in zip(found, first, strict=True)):.2f} |"
        lines.append(line)
    return [*lines, ""]


def middle(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def write_tasks(work: Path, rows: int) -> int:
    """Write the questions, and the tasks that ask them; how many there are."""
    lines = FACTS.read_text().splitlines()[:rows]
    data = work / "facts.jsonl"
    data.write_text("\n".join(lines) + "\n")
    for kind in LM_TASKS:
        (work / f"{kind}.yaml").write_text(LM_TASKS[kind] + LM_DATA.format(data=data))
        (work / f"own-{kind}.yaml").write_text(OWN_TASKS[kind].format(data=data))
    (work / "facts.py").write_text(INSPECT_TASK)
    return len(lines)


def main() -> None:
    """Measure and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="checkpoint folder; SmolLM2 of `wsteer demo` by default")
    parser.add_argument("--delta", help="delta file for the sweep [random]")
    parser.add_argument("--rows", type=int, default=48, help="questions [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3, help="of each part [%(default)s]")
    parser.add_argument("--skip", default="", help=f"comma-separated: {', '.join((*PARTS, *KINDS, *PEERS))}")
    arguments = parser.parse_args()
    skipped = set(filter(None, arguments.skip.split(",")))
    if unknown := skipped - {*PARTS, *KINDS, *PEERS}:
        parser.error(f"--skip: there is no {', '.join(sorted(unknown))}")
    missing = [name for name, module in PEERS.items() if importlib.util.find_spec(module) is None]
    for name in missing:
        print(f"{name} is not installed and left out: pip install 'wsteer[{name}]'")
    peers = [name for name in PEERS if name not in {*skipped, *missing}]
    kinds = [kind for kind in KINDS if kind not in skipped]
    if "lm-eval" not in peers:
        skipped.add("sweep")  # its tasks are lm-eval's
    if arguments.model is None:
        from wsteer.demo.model import demo_model

        arguments.model = demo_model()
    model, rounds = arguments.model, arguments.rounds
    with tempfile.TemporaryDirectory(prefix="wsteer-bench-") as folder:
        work = Path(folder)
        rows = write_tasks(work, arguments.rows)
        measured([sys.executable, __file__, "--inner", "inputs", model, work, arguments.delta or ""], work)
        print(f"{Path(model).name}, {rows} questions, {TOKENS} tokens, batches of {BATCH}, {rounds} rounds", flush=True)
        tables = []
        if "apply" not in skipped:
            tables += table("one more k", inner(["apply", work, rounds], work), None)
        if "libraries" not in skipped:
            costs = inner(["libraries", model, work, rounds, ",".join(kinds), ",".join(peers)], work)
            tables += table("the model as it is", costs, "wsteer's own")
        if "sweep" not in skipped:
            tables += table("nine values of k", sweep(model, work, rounds, kinds), "one `wsteer eval`")
        print("", *tables, sep="\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--inner"]:
        _, _, what, *values = sys.argv
        if what == "inputs":
            make_inputs(values[0], Path(values[1]), values[2] or None)
        elif what == "libraries":
            libraries(values[0], Path(values[1]), int(values[2]), values[3].split(","), values[4].split(","))
        else:
            apply(Path(values[0]), int(values[1]))
    else:
        main()
