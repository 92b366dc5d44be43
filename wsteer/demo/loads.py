"""How many rows and answers the commands of an experiment have: counted where data are there, else as asked for."""

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsteer.demo.commands import GCD, INSPECT, LM, OURS, TEXTS, Parsed, set_rows
from wsteer.demo.experiment import Step
from wsteer.elicitation.shipped_sets import PAIR, shipped_sets
from wsteer.elicitation.trait import find_trait, is_trait, read_trait
from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.task import load_task
from wsteer.files.rows import read_objects

CHARACTERS, FRAME = 4, 25  # of a token of English, about; tokens that a chat template adds to a question and its answer
GCD_TOKENS = (160, 320)  # of a chat about a common divisor: the mean, the longest
# answers to a row of data; verdicts of a judge on an answer at most; tokens of an answer at most
ANSWERS = {"sycophancy": 4, "gcd_sycophancy": 3, "evil_mcqa": 2, "emergent_misalignment": 20, "trait": 10}
VERDICTS = {
    **{"sycophancy": 1, "gcd_sycophancy": 1, "cot_consistency": 1, "harm_refusal": 1, "gsm8k": 0, "tinymmlu": 0},
    **{"evil_mcqa": 0, "emergent_misalignment": 2, "trait": 2},
}
TOKENS = {"evil_mcqa": 16, "gsm8k": 1024, "harm_refusal": 512, "tinymmlu": 3000, "trait": 1000}
OTHERS = 600  # tokens of an answer of the paper's other tasks
Data = Callable[[str], "Rows | None"]


@dataclass(frozen=True)
class Rows:
    """Rows of data: how many, and how many tokens the mean and the longest one have, about.

    They are `counted`, or as many as a model can be expected to write.
    """

    count: float
    mean: float
    longest: float
    counted: bool = True

    @staticmethod
    def of(known: "Rows | None", rows: int | None, length: int | None) -> "Rows":
        """What is counted; else what a step states of its rows and their length; else what is expected."""
        if known is not None and known.counted:
            return known
        expected = known or Rows(0, 0, 0)
        return Rows(rows or expected.count, length or expected.mean, length or expected.longest, counted=False)


@dataclass(frozen=True)
class Asked:
    """What an evaluation asks under each condition: answers, tokens of one at most, and verdicts of each judge."""

    answers: float
    length: float
    judged: float
    unknown: str = ""


def rows_of(path: Path) -> Rows | None:
    """The rows of a file that is there; their tokens by their characters."""
    if not path.is_file() or path.suffix not in (".jsonl", ".json", ".gz"):
        return None
    with contextlib.suppress(WsteerError):
        return _rows([sum(map(len, _texts(row))) for _, row in read_objects(path)])
    return None


def _rows(characters: list[int]) -> Rows | None:
    if not characters:
        return None
    mean = sum(characters) / len(characters)
    return Rows(len(characters), mean / CHARACTERS + FRAME, max(characters) / CHARACTERS + FRAME)


def _texts(value: object) -> list[str]:
    """All texts in a row, without its roles."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return [text for key, each in value.items() if key != "role" for text in _texts(each)]
    return [text for each in value for text in _texts(each)] if isinstance(value, list) else []


def rows_made(parsed: Parsed, step: Step, data: Data) -> dict[str, Rows]:
    """The rows that a `generate` writes, by the names of its files in its folder; of one file under an empty name."""
    values = parsed.values
    name, given = values["model"], values["given"]
    if given is None:
        return _set_made(name, values)
    samples, length = values["samples"], step.length or values["max_new_tokens"]
    if not is_trait(given):
        prompts = data(given)
        count = step.rows or (prompts.count if prompts is not None else 0)
        runs = 1 if not values["delta"] else 1 + len([k for k in values["k"] or [1.0] if k]) * len(values["delta"])
        return {"": Rows(count * (samples or 1) * runs, length, length, counted=False)}
    count = 0.0
    with contextlib.suppress(WsteerError):
        trait = read_trait(find_trait(given))
        everything = values["all_questions"] or values["questions_eval"]
        questions = len(trait.questions) if everything else len(trait.questions) - len(trait.questions) // 2
        count = questions * len(trait.pos) * (samples or 10)
    rows = Rows(count, length + FRAME, length + FRAME, counted=False)
    return {"pos.jsonl": rows, "neg.jsonl": rows}


def _set_made(name: str, values: Mapping[str, Any]) -> dict[str, Rows]:
    if name == "gcd":
        mean, longest = GCD_TOKENS
        half = values["train"] / 2
        return {f"{each}.jsonl": Rows(values["test"] if each == "test" else half, mean, longest) for each in GCD}
    if name not in shipped_sets():
        return {}
    found = {}
    for file, rows in set_rows(name).items():
        kept = [{key: row[key] for key in ("question", file)} if row.keys() == PAIR else row for row in rows]
        if (counted := _rows([sum(map(len, _texts(row))) for row in kept])) is not None:
            found[f"{file}.jsonl"] = counted
    return found


def conditions_of(values: Mapping[str, Any], saved: int, blocks: int) -> int:
    """The conditions of an evaluation: the base, every delta at every k and choice of blocks, prompts, checkpoints.

    `saved` is the number of checkpoints in the training folders, `blocks` that of the model.
    """
    deltas, ks = values["delta"] or (), [k for k in values["k"] or [1.0] if k]
    each = sum(blocks if "each" in (delta.layers, values["layers"]) else 1 for delta in deltas)
    if values["calibrate"]:
        ks = [-1.0, 1.0]
    count = 1 + each * len(ks) * (1 + len(values["control"] or ())) + saved + len(values["system"] or ())
    if values["attribute"]:  # each part alone, all but it, and a random one
        count += 3 * (blocks if values["attribute"] == "layers" else 7)
    return count


def answers_of(values: Mapping[str, Any], step: Step, data: Data) -> Asked:
    """The answers under one condition. `rows` of the step are those of all its tasks, `length` that of an answer."""
    tasks, arguments = values["task"], values["task_arg"] or {}
    answers = judged = 0.0
    lengths, unknown = [], ""
    for task in tasks:
        counted = _task(task, values, arguments, step.rows / len(tasks) if step.rows else None, data)
        answers, judged = answers + counted.answers, judged + counted.judged
        explicit = any(key.rpartition(".")[2] == "max_tokens" for key in arguments)
        lengths.append(counted.length if explicit else step.length or counted.length)
        unknown = unknown or counted.unknown
    return Asked(answers, max(lengths), judged, unknown)


def _task(
    task: str, values: Mapping[str, Any], arguments: Mapping[str, Any], stated: float | None, data: Data
) -> Asked:
    if task.startswith((LM, TEXTS)) or (task.startswith(INSPECT) and OURS not in task):
        listed = _limited(stated, values) or 0.0
        unknown = "" if listed else f"the rows of {task}: give the step rows and length"
        return Asked(listed, OTHERS if listed else 0, 0, unknown)
    if not task.startswith(INSPECT):
        return _own(task, values, stated)
    name = task.rpartition("/")[2]
    own = {
        **arguments,
        **{key.rpartition(".")[2]: each for key, each in arguments.items() if key.startswith(f"{name}.")},
    }
    found = data(str(own.get("data", "")))
    rows = _limited(found.count if found is not None else stated, values)
    times = (
        own.get("samples", ANSWERS.get(name, 1)) if name in ("trait", "emergent_misalignment") else ANSWERS.get(name, 1)
    )
    answers = (rows or 0) * int(times)
    length = float(own.get("max_tokens") or TOKENS.get(name, OTHERS))
    if name == "evil_mcqa" and own.get("answer", "letter") != "letter" and "max_tokens" not in own:
        length = OTHERS
    verdicts = VERDICTS.get(name, 1) + (1 if own.get("opinion") else 0)
    judged = answers * verdicts * (0 if own.get("grade") == "rule" else 1)
    return Asked(answers, length, judged, "" if rows else f"the rows of {task}: give the step rows")


def _own(task: str, values: Mapping[str, Any], stated: float | None) -> Asked:
    """A task of wsteer's: every prompt about every row."""
    with contextlib.suppress(WsteerError):
        loaded = load_task(task)
        found = rows_of(Path(values["data"] or loaded.data))
        rows = _limited(found.count if found is not None else stated, values) or 0.0
        prompts = len(loaded.prompts)
        unknown = "" if rows else f"the rows of {task}: give the step rows"
        return Asked(rows * prompts, loaded.max_new_tokens if prompts else 0, 0, unknown)
    return Asked((stated or 0), OTHERS, 0, "" if stated else f"the rows of {task}: give the step rows and length")


def _limited(rows: float | None, values: Mapping[str, Any]) -> float | None:
    return rows if rows is None or values["limit"] is None else min(rows, values["limit"])
