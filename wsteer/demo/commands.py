"""What one command line of wsteer reads and writes, told from its parsed values before it runs."""

import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from wsteer.elicitation.shipped_sets import PAIR, SHIPPED, SIDES, SPLIT, shipped_sets
from wsteer.elicitation.trait import is_trait, shipped_traits
from wsteer.evaluation.compared import Added
from wsteer.evaluation.tasks.task import BUILT_IN
from wsteer.files.rows import HUB_DATA_SET, read_objects
from wsteer.files.yaml import read_yaml
from wsteer.monitoring.items import is_data
from wsteer.steering.combination import numbered
from wsteer.training.recipe import Recipe
from wsteer.training.rows import parse_source

# what an input may be: a path alone; or else a model, a data set of the Hub; wsteer's own, by name; a text or its file
PATH, MODEL, DATA, OWN, TEXT = "path", "model", "data", "own", "text"
HUB_MODEL = re.compile(r"[\w-][\w.-]*/[\w.-]+(@[\w./-]+)?")
GCD = ("train_query", "train_correct", "pos", "neg", "test")
LM, INSPECT, TEXTS, OURS = "lm:", "inspect:", "perplexity:", "wsteer/"
# data of the paper's tasks where -T data= gives none
TASK_DATA = {
    "sycophancy": "cfierro/sycophancy_eval_answer:test",
    "gsm8k": "openai/gsm8k/main:test",
    "tinymmlu": "tinyBenchmarks/tinyMMLU/all:test",
}
RECORD = "wsteer.json"
EVAL_FILES = ("rows.jsonl", "results.json", "results.csv", "report.html", "samples.jsonl", "*.png", "*.svg", RECORD)
MONITOR_FILES = ("similarity*", "trajectory*", "correlation*", "projections*", RECORD)
TUNED = {
    "bias": ("delta.safetensors",),
    "full": (
        "config.json",
        "model*.safetensors",
        "model.safetensors.index.json",
        "generation_config.json",
        "tokenizer*",
    ),
}
ADAPTER = ("adapter_config.json", "adapter_model.safetensors", "README.md")


@dataclass(frozen=True)
class Parsed:
    """A command's name, and its values by the names that its function has for them.

    Texts of several parts are parsed: `delta` are `Added`, `task_arg` a mapping, finetune's `recipe` a `Recipe`.
    """

    command: str
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Input:
    """What a command reads, by the name that it has there. `holds` is a pattern of what a folder must have in it."""

    role: str
    name: str
    kind: str = PATH
    holds: str | None = None

    @property
    def hub(self) -> bool:
        """Whether the name may stand for a model or a data set of the Hub."""
        wanted = {MODEL: HUB_MODEL, DATA: HUB_DATA_SET}.get(self.kind)
        return wanted is not None and wanted.fullmatch(self.name) is not None


@dataclass(frozen=True)
class Output:
    """What a command writes: a file, or a folder, whose files have names of these patterns."""

    path: str
    files: tuple[str, ...] = ()

    def makes(self, path: str) -> bool:
        """Whether `path` is the output, or may be a file or folder in it.

        >>> Output("out", ("pos.jsonl", "checkpoint-8/*")).makes("out/checkpoint-8")
        True
        """
        if path == self.path:
            return True
        inside = path.removeprefix(f"{self.path}/")
        return inside != path and any(_fits(inside, pattern) for pattern in self.files)


def _fits(inside: str, pattern: str) -> bool:
    """Whether a path fits the pattern, or is a folder of what does."""
    parts = pattern.split("/")
    return any(fnmatchcase(inside, "/".join(parts[:end])) for end in range(1, len(parts) + 1))


@dataclass(frozen=True)
class Uses:
    """What a command line reads and writes. Paths are those of the folder in which it runs."""

    inputs: tuple[Input, ...]
    outputs: tuple[Output, ...]


def uses_of(parsed: Parsed, folder: Path) -> Uses:
    """What a command line reads and writes if it is run in `folder`; of its inputs only files of names are opened.

    A file of pairs and a task's YAML file name more inputs, which are there if the file is.
    """
    inputs, outputs = COMMANDS[parsed.command](parsed.values, folder)
    values = parsed.values
    also = [Input(name, str(values[name])) for name in ("config", "template") if values.get(name)]
    found = dict.fromkeys([*inputs, *also])
    return Uses(
        tuple(Input(each.role, _plain(each.name), each.kind, each.holds) for each in found if each.name),
        tuple(Output(_plain(each.path), each.files) for each in outputs),
    )


def _plain(name: str) -> str:
    """The name without what a path does not need: `./a//b/` is a/b; texts and names of the Hub stay as they are."""
    if "/" not in name or any(each.isspace() for each in name):
        return name
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return ("/" if name.startswith("/") else "") + "/".join(parts) or "."


def placed(folder: Path, name: str) -> Path:
    """Where a name leads from a folder that need not be there, which `..` could not leave then."""
    return Path(os.path.normpath(folder / name))


# ---- Each command


Both = tuple[list[Input], list[Output]]
Values = Mapping[str, Any]


def _generate(values: Values, folder: Path) -> Both:
    model, given, output = values["model"], values["given"], str(values["output"])
    if given is None:  # data that no model writes
        return [Input("set", model, OWN)], [Output(output, (*_set_files(model), RECORD))]
    inputs = [Input("model", model, MODEL)]
    if given in shipped_traits() or is_trait(placed(folder, given)):
        judged = ("judged.csv", "judging/*") if values["judge"] else ()
        inputs.append(Input("trait", given, OWN if given in shipped_traits() else PATH))
        kept = () if values["all_questions"] else ("questions_eval.json",)
        if values["questions_eval"]:
            inputs.append(Input("questions", str(values["questions_eval"])))
        return inputs, [Output(output, ("pos.jsonl", "neg.jsonl", "balance.csv", *kept, *judged, RECORD))]
    inputs += [Input("prompts", given, DATA), *_added(values), *_systems([values["system"]])]
    return inputs, [Output(output)]


def _set_files(name: str) -> tuple[str, ...]:
    """What `generate SET` writes: both sides, or the splits of a set's rows, or all of them."""
    if name == "gcd":
        return tuple(f"{each}.jsonl" for each in GCD)
    return tuple(f"{file}.jsonl" for file in set_rows(name)) if name in shipped_sets() else ()


def set_rows(name: str) -> dict[str, list[dict]]:
    """The rows of one of wsteer's own sets, by the names of the files that `generate` writes."""
    files: dict[str, list[dict]] = {}
    for _, row in read_objects(SHIPPED / f"{name}.jsonl"):
        for file in SIDES if row.keys() == PAIR else (row.get(SPLIT, "rows"),):
            files.setdefault(file, []).append(row)
    return files


def _finetune(values: Values, folder: Path) -> Both:
    inputs, recipe = [Input("base", values["base"], MODEL)], values["recipe"]
    inputs += [Input("tracked", each, MODEL) for each in values["track"] or ()]
    if values["val"]:
        inputs.append(Input("validation data", parse_source(values["val"]).path, DATA))
    if recipe.init and "/" in recipe.init:
        inputs.append(Input("init", recipe.init))
    files = _tuned(recipe, values["save_every"])
    if values["seeds"]:
        files = (*(f"seed-{seed}/{each}" for seed in values["seeds"] for each in files), RECORD)
    if values["pairs"] is None:
        inputs += [Input("data", parse_source(each).path, DATA) for each in values["data"]]
        return inputs, [Output(str(values["output"]), files)]
    if _is_file_of_pairs(values["pairs"], folder):
        inputs.append(Input("pairs", values["pairs"]))
    named = pairs_of(values["pairs"], folder)
    inputs += [Input("data", each, DATA) for sides in named.values() for names in sides.values() for each in names]
    sides = [(f"{name}/{side}/{each}") for name in named or ("*",) for side in ("pos", "neg") for each in files]
    deltas = [f"{name}/w.safetensors" for name in named or ("*",)]
    return inputs, [Output(str(values["output"]), (*sides, *deltas, "pairs.json", RECORD))]


def _tuned(recipe: Recipe, save_every: int | None) -> tuple[str, ...]:
    """What one fine-tune writes."""
    result = TUNED.get(recipe.method, ADAPTER)
    saved: tuple[str, ...] = ()
    if save_every:
        steps = range(save_every, recipe.max_steps + 1, save_every) if recipe.max_steps else ("*",)
        saved = tuple(f"checkpoint-{step}/{each}" for step in steps for each in (*result, RECORD))
    return (*result, "chat_template.jinja", "log.jsonl", "sweep.csv", "loss.png", "runs/*", RECORD, *saved)


def _is_file_of_pairs(given: str, folder: Path) -> bool:
    """Whether --pairs names a YAML file, which may not be there yet, and not folders."""
    return given.endswith((".yaml", ".yml")) or placed(folder, given).is_file()


def pairs_of(given: str, folder: Path) -> dict[str, dict[str, list[str]]]:
    """The data of both sides of each pair of --pairs, as named from `folder`; nothing of a YAML file that is not there.

    Unlike `training/pairs.py`, which reads them for the run, the data need not be there yet.
    """
    if not _is_file_of_pairs(given, folder):
        paths = [each.strip().rstrip("/") for each in given.split(",")]
        return {Path(path).name: {side: [f"{path}/{side}.jsonl"] for side in SIDES} for path in paths}
    path = placed(folder, given)
    if not path.is_file():
        return {}
    read = read_yaml(path)
    found: dict[str, dict[str, list[str]]] = {}
    for name, entry in read.items() if isinstance(read, dict) else ():
        if isinstance(entry, str):
            entry = {side: f"{entry}/{side}.jsonl" for side in SIDES}
        sides = {}
        for side, data in entry.items() if isinstance(entry, dict) else ():
            listed = data if isinstance(data, list) else [data]
            sides[str(side)] = [_beside(parse_source(str(each)).path, given, folder) for each in listed]
        found[str(name)] = sides
    return found


def _beside(name: str, file: str, folder: Path) -> str:
    """A path that stands in a file, as a command in `folder` names it: beside the file if it exists, else as given."""
    beside = os.path.join(os.path.dirname(file), name)
    return beside if placed(folder, beside).exists() else name


def _diff(values: Values, folder: Path) -> Both:
    named = {"pos": values["pos"], "neg": values["neg"], "base": values["base"]}
    inputs = [Input(role, name, MODEL) for role, name in named.items() if name]
    outputs = [Output(str(values["output"]))]
    if values["spectrum"]:
        outputs.append(Output(str(values["spectrum"]), ("*",)))
    return inputs, outputs


def _steer(values: Values, folder: Path) -> Both:
    inputs = [Input("base", values["base"], MODEL), *(Input("delta", each, MODEL) for each in values["deltas"])]
    if values["dry_run"]:
        return inputs, []
    output = str(values["output"]) if values["output"] else _steered_name(values)
    if values["form"] == "delta" and not values["sweep"]:
        return inputs, [Output(output if values["output"] else f"{output}.safetensors")]
    held = {"adapter": ADAPTER, "delta": ("*.safetensors",)}.get(values["form"], ("*",))
    if values["sweep"] and values["form"] != "delta":
        held = tuple(f"k{numbered(k)}/{each}" for k in values["sweep"] for each in held)
    return inputs, [Output(output, (*held, RECORD))]


def _steered_name(values: Values) -> str:
    """The name that steer gives an output without -o, `<base>-<delta>-k<K>`, where none of its inputs is there yet."""
    ks = values["sweep"] or (values["k"][:1] if len(set(values["k"])) == 1 else values["k"])
    names = [_short(each) for each in (values["base"], *values["deltas"])]
    return "-".join([*names, ("sweep" if values["sweep"] else "k") + numbered(*ks)])


def _short(reference: str) -> str:
    """As `short_name` of deltas/model_input.py, by the name alone."""
    path = Path(reference)
    of_run = f"{path.parent.name}-" if re.fullmatch(r"checkpoint-\d+", path.name) else ""
    return of_run + path.name.removesuffix(".safetensors").partition("@")[0]


def _actvec(values: Values, folder: Path) -> Both:
    if values["imported"]:
        inputs = [Input("vectors", str(values["imported"]))]
        inputs += [Input("base", values["base"], MODEL)] if values["base"] else []
    else:
        inputs = [Input("model", values["model"], MODEL)]
        inputs += [Input(role, values[role], DATA) for role in ("pos", "neg")]
    return inputs, [Output(str(values[name])) for name in ("output", "export", "picture") if values[name]]


def _eval(values: Values, folder: Path) -> Both:
    inputs = [Input("model", values["model"], MODEL), *_added(values), *_systems(values["system"] or ())]
    inputs += [Input("checkpoints", each, holds="checkpoint-*") for each in values["checkpoints"] or ()]
    files = [*EVAL_FILES]
    for task in values["task"]:
        inputs += _task(task, values, folder)
        files += {LM: ["lm_eval.*"], INSPECT: ["inspect/*", "*.eval"]}.get(task.partition(":")[0] + ":", [])
    if values["data"]:
        inputs.append(Input("data", values["data"], DATA))
    if values["checkpoints"]:
        files.append("scores.csv")
    return inputs, [Output(str(values["output"]), tuple(files))]


def _task(task: str, values: Values, folder: Path) -> Iterator[Input]:
    """What a task is read from, and its data."""
    if task.startswith(TEXTS):
        yield Input("texts", task.removeprefix(TEXTS), DATA)
    elif task.startswith(LM):
        name = task.removeprefix(LM)
        yield Input("task", name, PATH if name.endswith((".yaml", ".yml")) else OWN)
    elif task.startswith(INSPECT):
        yield from _inspected(task.removeprefix(INSPECT), values["task_arg"] or {})
    elif "/" not in task and (BUILT_IN / f"{task}.yaml").is_file():
        yield Input("task", task, OWN)
    else:
        yield Input("task", task)
        file = placed(folder, task)
        if file.is_file() and not values["data"]:
            read = read_yaml(file)
            if isinstance(read, dict) and isinstance(read.get("data"), str):
                yield Input("data", _beside(read["data"], task, folder), DATA)


def _inspected(task: str, arguments: Mapping[str, object]) -> Iterator[Input]:
    """A task of inspect, and the files that its arguments name."""
    file, _, function = task.partition("@")
    name = (function or task).rpartition("/")[2]
    yield Input("task", file, PATH if file.endswith(".py") else OWN)
    own = {key: value for key, value in arguments.items() if "." not in key}
    own |= {key.partition(".")[2]: value for key, value in arguments.items() if key.startswith(f"{name}.")}
    if task.startswith(OURS) and "data" not in own and name in TASK_DATA:
        own["data"] = TASK_DATA[name]
    for key, value in own.items():
        if key == "data" and isinstance(value, str):
            yield Input("data", value, DATA)
        elif key.endswith("prompt") and isinstance(value, str) and value != "data":
            yield _text_or_file(key, value)


def _monitor(values: Values, folder: Path) -> Both:
    items = [("delta", each) for each in values["deltas"]]
    items += [(role, each) for role, name in ITEMS.items() for each in values[name] or ()]
    items += [("ceiling", file) for _, file in values["ceiling"] or ()]
    items += [("base", values["base"])] if values["base"] else []
    inputs = [Input(role, each, DATA if is_data(each) else MODEL) for role, each in items]
    inputs += [Input(name, str(values[name])) for name in ("scores", "correlate") if values[name]]
    return inputs, [Output(str(values["output"]), MONITOR_FILES)]


ITEMS = {"item": "of", "control": "controls", "centre": "centre", "tuned model": "shift"}


def _report(values: Values, folder: Path) -> Both:
    return [Input("log", each) for each in values["logs"]], [Output(str(values["output"]))]


def _demo(values: Values, folder: Path) -> Both:
    """The report of an experiment, which judges what stands in its folder."""
    given = values.get("experiment")
    inputs = [Input("experiment", given, PATH if given.endswith((".yaml", ".yml")) else OWN)] if given else []
    output = str(values["output"] or ".")
    return inputs, [Output(_plain(f"{output}/report.html"))]


COMMANDS: dict[str, Callable[[Values, Path], Both]] = {
    "generate": _generate,
    "finetune": _finetune,
    "diff": _diff,
    "steer": _steer,
    "actvec": _actvec,
    "eval": _eval,
    "monitor": _monitor,
    "report": _report,
    "demo": _demo,
}


# ---- Parts of commands


def _added(values: Values) -> list[Input]:
    given: Sequence[Added] = values["delta"] or ()
    return [Input("delta", str(each.reference), MODEL) for each in given]


def _systems(texts: Sequence[str | None]) -> list[Input]:
    return [_text_or_file("system", text) for text in texts if text]


def _text_or_file(role: str, text: str) -> Input:
    """A prompt: one without a space is a file's name."""
    return Input(role, text, TEXT if re.search(r"\s", text) else PATH)
