"""What the steps of an experiment will need: disk, memory of the device, tokens trained, generated, read and judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wsteer.demo.checking import Checked, CheckedStep
from wsteer.demo.commands import pairs_of, placed
from wsteer.demo.loads import Rows, conditions_of, rows_made, rows_of, tasks_asked
from wsteer.demo.sizes import Change, Size, kept, of_rank, size_of, trained
from wsteer.training.recipe import Recipe
from wsteer.training.rows import parse_source

TRAINED_BYTES = 16  # of a trained number in float32: itself, its gradient, AdamW's two moments
PROCESS = 0.7e9  # of Python and its libraries, and of a GPU's context
GPU = 80e9  # the memory of the GPU that --scale paper is estimated for
SHARE = 0.8  # of it that activations may take before gradients are checkpointed (training/memory.py)
PROMPT = 64  # tokens of a prompt, where nothing tells
JUDGE_PROMPT, JUDGE_ANSWER = 300, 150  # tokens of a judge's instructions, and of what it writes at most
TEXT_BYTES = 5  # of a token in a file of answers
ROW_BYTES, PICTURES = 600, 1_000_000  # of a row in eval's tables; of pictures and a page


@dataclass(frozen=True)
class Estimate:
    """What one step needs: bytes of `disk`, and of `memory` on the device (None: it runs no model); tokens at most.

    `unknown` says what could not be counted; then the numbers are too small.
    """

    number: int
    disk: int = 0
    memory: int | None = None
    trained: int = 0
    generated: int = 0
    read: int = 0
    judged: int = 0
    unknown: str = ""


@dataclass(frozen=True)
class Estimates:
    """Those of all steps that are not left out, with their sums; of memory the largest."""

    steps: tuple[Estimate, ...]
    disk: int
    memory: int
    trained: int
    generated: int
    read: int
    judged: int


def estimate(checked: Checked, folder: Path, model: str, stated: Mapping[str, float], gpu: bool) -> Estimates:
    """The estimates of a checked experiment that is to run in `folder`; `stated` are facts of a model that is not here.

    With `gpu` models run in their own type on one GPU of 80 GB, else in float32 on a CPU.
    """
    state = _State(folder, size_of(model, stated), gpu)
    found = []
    for step in checked.steps:
        if step.parsed is None or step.left_out is not None:
            continue
        count = PROGRAMS.get(step.parsed.command)
        found.append(count(state, step, step.parsed.values) if count else Estimate(step.number))
    sums = {name: sum(getattr(each, name) for each in found) for name in SUMMED}
    return Estimates(tuple(found), memory=max((each.memory or 0 for each in found), default=0), **sums)


SUMMED = ("disk", "trained", "generated", "read", "judged")


@dataclass
class _State:
    """What is known before a step: the model's sizes, and what earlier steps made, by path."""

    folder: Path
    size: Size | None
    gpu: bool
    changes: dict[str, Change] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    saved: dict[str, int] = field(default_factory=dict)  # the checkpoints that a training folder holds

    def change(self, name: str) -> Change | None:
        """The change of weights that a name stands for, also of a checkpoint in a folder that a step makes."""
        found = [path for path in self.changes if name == path or name.startswith(f"{path}/")]
        if found:
            return self.changes[max(found, key=len)]
        path = placed(self.folder, name)
        files = [each for each in (path, path / "adapter_model.safetensors") if each.is_file()]
        return Change(files[0].stat().st_size // 4, 0) if files else None

    def checkpoints(self, run: str) -> int:
        """How many checkpoints a folder holds: those of a fine-tune, and those that steps write into it."""
        return self.saved.get(run, 0) + sum(path.startswith(f"{run}/checkpoint-") for path in self.changes)

    def data(self, name: str) -> Rows | None:
        """The rows of a file: made by a step, or there."""
        return self.rows.get(name) or rows_of(placed(self.folder, name))

    def bits(self, values: Mapping[str, Any]) -> int:
        """Bytes of a number as a command computes: 4 on a CPU, on a GPU those of the model's own type."""
        if values.get("dtype", "auto") != "auto":
            return 4 if values["dtype"] == "float32" else 2
        on_gpu = self.gpu if values.get("device", "auto") == "auto" else values["device"] != "cpu"
        return 2 if on_gpu else 4


def weight_bytes(size: Size, values: Mapping[str, Any], bits: int) -> float:
    """Of the base in memory: its parameters in the type that it runs in, or quantised by --load-in."""
    return size.parameters * {"4bit": 0.5, "8bit": 1.0}.get(values.get("load_in") or "", bits)


def activation_bytes(size: Size, rank: int, bits: int) -> float:
    """What the backward pass of one token needs of all blocks, as measured on Llama and Qwen2 with LoRA.

    A block keeps 24 bytes for each of `hidden` (norms are computed in float32), and in numbers 2 x keys and values,
    4 x intermediate and 7 x rank of its seven adapters: 8 kv + 16 i + 28 r bytes in float32, half in 16 bits.
    """
    own = 2 * size.key_values + 4 * size.intermediate + 7 * rank
    return size.blocks * (24 * size.hidden + bits * own)


def training_memory(
    size: Size, recipe: Recipe, longest: float, values: Mapping[str, Any], bits: int, taught: float = 1.0
) -> int:
    """The most that a fine-tune holds at once.

    The base's weights; 16 bytes for each trained number (itself, gradient, two moments); the activations of a
    micro-batch of rows of the longest length, or with gradient checkpointing each block's input and one block's
    activations; for each token that is trained, the share `taught`, 16 bytes x vocabulary of logits, their softmax and
    gradients. On a CPU the weights of plain attention come on top, up to 8 bytes x intermediate a block
    (`quick_on_cpu`). Gradients are checkpointed if asked for, or on a GPU where the rest would not fit
    (`needs_checkpointing`). On a CPU the peak is more by a tenth or two: its allocator does not give back all pieces.

    Measured, by nvidia-smi on an H200: Qwen2.5-7B's shape in bf16, rank 32, 8 rows of 303 tokens: 36.6 GB at the peak;
    here 39.4 GB if all tokens are trained, 36.5 if half are.
    """
    tokens = longest * (recipe.micro_batch_size or recipe.batch_size)
    change = trained(size, recipe)
    held = weight_bytes(size, values, 4 if recipe.method == "full" else bits) + PROCESS
    held += TRAINED_BYTES * (change.factors + change.dense) - (4 * change.dense if recipe.method == "full" else 0)
    rank = int(recipe.options.get("rank", 0) or 0)
    activations = tokens * activation_bytes(size, rank, bits)
    if bits == 4:
        activations += tokens * size.blocks * 8 * size.intermediate
    logits = tokens * taught * 16 * size.vocabulary
    checkpointing = recipe.gradient_checkpointing
    if checkpointing is None:
        checkpointing = bits == 2 and activations + logits > SHARE * (GPU - held)
    if checkpointing:
        activations = activations / size.blocks + tokens * size.blocks * size.hidden * bits
    return round(held + activations + logits)


def running_memory(size: Size, rows: int, tokens: float, bits: int) -> int:
    """The most that answering holds at once: the weights, and for `rows` that run at once their keys and values.

    These are 2 x blocks x key_values numbers for each of the `tokens` of a row; the logits of a row's last token are
    there in the model's type and in float32, and while the prompt is read a block has 4 x intermediate numbers a token.

    Measured, by nvidia-smi on an H200: Qwen2.5-7B's shape in bf16, 64 answers of 200 tokens at once: 16.5 GB;
    activation vectors of 303 tokens: 16.3 GB. Here 17.6 and 16.4 GB.
    """
    cache = rows * tokens * 2 * size.blocks * size.key_values * bits
    logits = rows * size.vocabulary * (bits + 8)
    prompt = rows * min(tokens, PROMPT) * 4 * size.intermediate * bits
    return round(size.parameters * bits + PROCESS + cache + logits + prompt)


# ---- Each command


def _finetune(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    recipe, stated, size = values["recipe"], step.command.step, state.size
    sides = _sides(state, values)
    runs = len(values["seeds"] or (0,)) * len(recipe.rates)
    tokens = longest = taught = 0.0
    unknown = "" if size is not None else "the model's sizes"
    for names in sides:
        sources = [parse_source(name) for name in names]
        sets = [Rows.of(state.data(each.path), stated.each_rows, stated.length) for each in sources]
        counts = [each.count * source.weight for each, source in zip(sets, sources, strict=True)]
        if any(not each.counted for each in sets) and stated.each_rows:
            counts = [stated.each_rows]  # of all sets together
        count, longest = sum(counts) * recipe.fraction, max([longest, *(each.longest for each in sets)])
        taught = max([taught, *(each.taught for each in sets)])
        mean = sum(each.mean for each in sets) / max(len(sets), 1)
        if not mean or not count:
            unknown = unknown or "rows and their lengths: give the step rows and length"
        own = count if values["val"] else count * (1 - recipe.val_fraction)
        passes = recipe.max_steps * recipe.batch_size if recipe.max_steps else recipe.epochs * own
        tokens += passes * mean * runs
    longest = min(longest, values["max_length"] or longest)
    if size is None:
        return Estimate(step.number, trained=round(tokens), unknown=unknown)
    change, output = kept(size, recipe), step.uses.outputs[0].path
    every = values["save_every"]
    steps = recipe.max_steps or (int(tokens / runs / len(sides) / (longest or 1) / recipe.batch_size) if every else 0)
    copies = 1 + (steps // every if every else 0)
    disk = change.bytes * copies * len(sides) * len(values["seeds"] or (0,)) + PICTURES // 10 * len(sides)
    state.changes[output], state.saved[output] = change, copies - 1
    for name in pairs_of(values["pairs"], state.folder) if values["pairs"] else ():
        state.changes[f"{output}/{name}/w.safetensors"] = _difference([change, change])
        disk += _difference([change, change]).bytes
    memory = training_memory(size, recipe, longest, values, state.bits(values), taught)
    return Estimate(step.number, disk, memory, trained=round(tokens), unknown=unknown)


def _sides(state: _State, values: Mapping[str, Any]) -> list[list[str]]:
    """The data of each run of a step: one, or both sides of each pair."""
    if not values["pairs"]:
        return [list(values["data"])]
    named = pairs_of(values["pairs"], state.folder)
    return [names for sides in named.values() for names in sides.values()] or [[], []]


def _difference(changes: Sequence[Change]) -> Change:
    """Of two sides: factors stand side by side, dense numbers are subtracted."""
    return Change(sum(each.factors for each in changes), max((each.dense for each in changes), default=0))


def _diff(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    named = [name for name in (values["pos"], values["neg"]) if name]
    found = [each for each in map(state.change, map(_bare, named)) if each is not None]
    change = _difference(found)
    if values["rank"] and state.size is not None and not values["complement"]:
        change = of_rank(state.size, values["rank"])
    state.changes[step.uses.outputs[0].path] = change
    disk = change.bytes + (PICTURES if values["spectrum"] else 0)
    unknown = "" if len(found) == len(named) else "the sides' sizes"
    return Estimate(step.number, disk, unknown=unknown)


def _bare(name: str) -> str:
    return name.rstrip("/")


def _steer(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    if values["dry_run"]:
        return Estimate(step.number)
    count = len(values["sweep"] or (0,))
    found = [each for each in map(state.change, map(_bare, values["deltas"])) if each is not None]
    output = step.uses.outputs[0].path
    state.changes[output] = _difference(found)
    if values["form"] != "checkpoint":
        unknown = "" if len(found) == len(values["deltas"]) else "the deltas' sizes"
        return Estimate(step.number, state.changes[output].bytes * count, unknown=unknown)
    if state.size is None:
        return Estimate(step.number, unknown="the model's sizes")
    bits = {"auto": state.size.stored / state.size.parameters, "float32": 4}.get(values["dtype"], 2)
    return Estimate(step.number, round(bits * state.size.parameters) * count)


def _actvec(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    if state.size is None:
        return Estimate(step.number, unknown="the model's sizes")
    vectors = Change(0, state.size.blocks * state.size.hidden)
    written = [values[name] for name in ("output", "export") if values[name]]
    for output in written:
        state.changes[str(output)] = vectors
    disk = len(written) * vectors.bytes + (PICTURES // 10 if values["picture"] else 0)
    if values["imported"]:
        return Estimate(step.number, disk)
    stated = step.command.step
    rows = [Rows.of(state.data(values[name]), stated.each_rows, stated.length) for name in ("pos", "neg")]
    counts, length = [each.count for each in rows], max(each.longest for each in rows)
    bits = state.bits(values)
    memory = running_memory(state.size, values["batch_size"] or 16, length, bits)
    unknown = "" if all(counts) and length else "rows and their lengths: give the step rows and length"
    return Estimate(
        step.number, disk, memory, read=round(sum(each.count * each.mean for each in rows)), unknown=unknown
    )


def _generate(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    made = rows_made(step.parsed, step.command.step, state.data) if step.parsed is not None else {}
    output = step.uses.outputs[0].path
    state.rows.update({output if not name else f"{output}/{name}": rows for name, rows in made.items()})
    tokens = sum(rows.count * rows.mean for rows in made.values())
    disk = round(tokens * TEXT_BYTES)
    if values["given"] is None:
        return Estimate(step.number, disk)
    length = step.command.step.length or values["max_new_tokens"]
    answers = sum(rows.count for rows in made.values())
    calls = 2 * answers * len(values["judge"] or ())  # the trait and coherence
    judged = round(calls * (length + JUDGE_PROMPT + JUDGE_ANSWER))
    unknown = "" if answers else "the number of prompts: give the step rows"
    asked = {"generated": round(answers * length), "read": round(answers * PROMPT), "judged": judged}
    return Estimate(step.number, disk, _answering(state, values, length), **asked, unknown=unknown)


def _answering(state: _State, values: Mapping[str, Any], length: float) -> int | None:
    if state.size is None:
        return None
    return running_memory(state.size, values["batch_size"] or 32, PROMPT + length, state.bits(values))


def _eval(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    saved = sum(state.checkpoints(_bare(run)) for run in values["checkpoints"] or ())
    conditions = conditions_of(values, saved, state.size.blocks if state.size is not None else 1)
    asked = tasks_asked(values, step.command.step, state.data)
    answers = conditions * sum(each.answers for each in asked)
    tokens = round(conditions * sum(each.answers * each.length for each in asked))
    judges = len(values["judge"] or ())
    verdicts = sum(each.judged * (each.length + JUDGE_PROMPT + JUDGE_ANSWER) for each in asked)
    judged = round(conditions * judges * verdicts)
    disk = round(tokens * TEXT_BYTES + answers * ROW_BYTES) + PICTURES
    memory = _answering(state, values, max(each.length for each in asked))
    unknown = next((each.unknown for each in asked if each.unknown), "")
    return Estimate(step.number, disk, memory, 0, tokens, round(answers * PROMPT), judged, unknown)


def _monitor(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    items = [*(values["of"] or ()), *(values["shift"] or ())]
    data = [rows for rows in map(state.data, items) if rows is not None]
    stated = step.command.step
    if not data and not values["shift"]:
        return Estimate(step.number, PICTURES)
    saved = sum(state.checkpoints(_bare(run)) + 1 for run in values["shift"] or ())
    data = [Rows.of(rows, stated.each_rows, stated.length) for rows in data]
    tokens = sum(rows.count * rows.mean for rows in data) * (1 + saved)
    length = max((rows.longest for rows in data), default=PROMPT)
    memory = None
    if state.size is not None:
        memory = running_memory(state.size, values["batch_size"] or 16, length, state.bits(values))
    return Estimate(step.number, PICTURES, memory, read=round(tokens))


def _pages(state: _State, step: CheckedStep, values: Mapping[str, Any]) -> Estimate:
    return Estimate(step.number, 5 * PICTURES)


PROGRAMS: dict[str, Callable[[_State, CheckedStep, Mapping[str, Any]], Estimate]] = {
    "generate": _generate,
    "finetune": _finetune,
    "diff": _diff,
    "steer": _steer,
    "actvec": _actvec,
    "eval": _eval,
    "monitor": _monitor,
    "report": _pages,
    "demo": _pages,
}
