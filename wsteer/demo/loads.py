"""How many rows and answers the commands of an experiment have: counted where data are there, else as asked for."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsteer.demo.commands import GCD, INSPECT, LM, OURS, TEXTS, Parsed, set_rows
from wsteer.demo.experiment import Step
from wsteer.elicitation.shipped_sets import PAIR, SIDES, shipped_sets
from wsteer.elicitation.trait import find_trait, is_trait, read_trait
from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.task import load_task
from wsteer.files.rows import read_objects

CHARACTERS, FRAME = 4, 25  # of a token of English, about; tokens that a chat template adds to a question and its answer
GCD_TOKENS = (160, 320)  # of a chat about a common divisor: the mean, the longest
# of the paper's tasks: answers to a row of data; verdicts on an answer where the rule may abstain (of GCD one on a
# question, and two on each of its solutions), and those that judges alone give; tokens of an answer at most
ANSWERS = {"sycophancy": 4, "gcd_sycophancy": 3, "evil_mcqa": 2, "emergent_misalignment": 20, "trait": 10}
GRADED = {"sycophancy": 1, "gcd_sycophancy": 5 / 3, "harm_refusal": 1}
JUDGED = {"cot_consistency": 1, "harm_refusal": 1, "emergent_misalignment": 2, "trait": 2}
TOKENS = {"evil_mcqa": 16, "gsm8k": 1024, "harm_refusal": 512, "tinymmlu": 3000, "trait": 1000}
OTHERS = 600  # tokens of an answer of the paper's other tasks
Data = Callable[[str], "Rows | None"]


@dataclass(frozen=True)
class Rows:
    """Rows of data: how many, and how many tokens the mean and the longest one have, about.

    They are `counted`, or as many as a model can be expected to write. `taught` is the share of their tokens that a
    fine-tune trains: those of answers.
    """

    count: float
    mean: float
    longest: float
    counted: bool = True
    taught: float = 1.0

    @staticmethod
    def of(known: "Rows | None", rows: int | None, length: int | None) -> "Rows":
        """What is counted; else what a step states of its rows and their length; else what is expected."""
        if known is not None and known.counted:
            return known
        expected = known or Rows(0, 0, 0)
        lengths = (length or expected.mean, length or expected.longest)
        return Rows(rows or expected.count, *lengths, counted=False, taught=expected.taught if known else 1.0)


@dataclass(frozen=True)
class Asked:
    """What a task asks under each condition: answers, tokens of one at most, and verdicts of each judge."""

    answers: float
    length: float
    judged: float
    unknown: str = ""


def rows_of(path: Path) -> Rows | None:
    """The rows of a file that is there; their tokens by their characters."""
    if not path.is_file() or path.suffix not in (".jsonl", ".json", ".gz"):
        return None
    with contextlib.suppress(WsteerError):
        return counted_rows([row for _, row in read_objects(path)])
    return None


def counted_rows(rows: Sequence[Mapping[str, object]]) -> Rows | None:
    """How many these are, and their tokens by their characters."""
    if not rows:
        return None
    characters = [sum(map(len, _texts(row))) for row in rows]
    answers = sum(len(text) for row in rows for text in _answers(row))
    mean = sum(characters) / len(rows) / CHARACTERS + FRAME
    taught = min(1.0, answers / len(rows) / CHARACTERS / mean) or 1.0  # without a known answer all may be trained
    return Rows(len(rows), mean, max(characters) / CHARACTERS + FRAME, taught=taught)


def _answers(value: object) -> list[str]:
    """The texts in a row that are an answer: of the assistant, or of a side."""
    if isinstance(value, list):
        return [text for each in value for text in _answers(each)]
    if not isinstance(value, Mapping):
        return []
    if value.get("role") == "assistant":
        return _texts(value)
    own = [text for key in ("completion", "answer", *SIDES) for text in _texts(value.get(key))]
    return own or [text for each in value.values() for text in _answers(each)]


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
        count = step.each_rows or (prompts.count if prompts is not None else 0)
        runs = 1 if not values["delta"] else 1 + len([k for k in values["k"] or [1.0] if k]) * len(values["delta"])
        return {"": Rows(count * (samples or 1) * runs, length, length, counted=False)}
    count = 0.0
    with contextlib.suppress(WsteerError):
        trait = read_trait(find_trait(given))
        everything = values["all_questions"] or values["questions_eval"]
        questions = len(trait.questions) if everything else len(trait.questions) - len(trait.questions) // 2
        count = questions * len(trait.pos) * (samples or 10)
    rows = Rows(count, length + FRAME, length + FRAME, False, length / (length + FRAME))
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
        if (counted := counted_rows(kept)) is not None:
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


def tasks_asked(values: Mapping[str, Any], step: Step, data: Data) -> list[Asked]:
    """What each task asks under one condition, of the rows of its data; `length` of the step is that of an answer."""
    tasks = values["task"]
    if len(step.rows) > 1 and len(step.rows) != len(tasks):
        return [Asked(0, 0, 0, f"{len(step.rows)} numbers of rows for {len(tasks)} tasks: give one for each")]
    stated = step.rows if len(step.rows) > 1 else [step.each_rows] * len(tasks)
    return [_task(task, values, rows, step.length, data) for task, rows in zip(tasks, stated, strict=True)]


def _task(task: str, values: Mapping[str, Any], stated: int | None, most: int | None, data: Data) -> Asked:
    arguments = values["task_arg"] or {}
    if task.startswith((LM, TEXTS)) or (task.startswith(INSPECT) and OURS not in task):
        listed = _limited(stated, values) or 0.0
        unknown = "" if listed else f"the rows of {task}: give the step rows and length"
        return Asked(listed, (most or OTHERS) if listed else 0, 0, unknown)
    if not task.startswith(INSPECT):
        return _own(task, values, stated, most)
    name = task.rpartition("/")[2]
    own = {
        **arguments,
        **{key.rpartition(".")[2]: each for key, each in arguments.items() if key.startswith(f"{name}.")},
    }
    found = data(str(own.get("data", "")))
    rows = _limited(found.count if found is not None else stated, values)
    answers = (rows or 0) * _times(name, own)
    reasons = name == "evil_mcqa" and own.get("answer", "letter") != "letter"
    length = own.get("max_tokens") or most or (OTHERS if reasons else TOKENS.get(name, OTHERS))
    judged = answers * _verdicts(name, own)
    return Asked(answers, float(length), judged, "" if rows else f"the rows of {task}: give the step rows")


def _times(name: str, own: Mapping[str, Any]) -> int:
    """How many answers a task of the paper's wants to each row of its data."""
    if name == "evil_mcqa" and own.get("orders") == "given":
        return 1
    sampled = name in ("trait", "emergent_misalignment") and own.get("samples")
    return int(sampled or ANSWERS.get(name, 1))


def _verdicts(name: str, own: Mapping[str, Any]) -> float:
    """How many verdicts on an answer a judge gives at most."""
    graded = 0 if own.get("grade") == "rule" else GRADED.get(name, 0)
    judged = 0 if own.get("scale") is False else JUDGED.get(name, 0)
    return graded + judged + (1 if own.get("opinion") else 0)


def _own(task: str, values: Mapping[str, Any], stated: int | None, most: int | None) -> Asked:
    """A task of wsteer's: every prompt about every row."""
    with contextlib.suppress(WsteerError):
        loaded = load_task(task)
        found = rows_of(Path(values["data"] or loaded.data))
        rows = _limited(found.count if found is not None else stated, values) or 0.0
        prompts = len(loaded.prompts)
        unknown = "" if rows else f"the rows of {task}: give the step rows"
        return Asked(rows * prompts, (most or loaded.max_new_tokens) if prompts else 0, 0, unknown)
    return Asked(
        (stated or 0), most or OTHERS, 0, "" if stated else f"the rows of {task}: give the step rows and length"
    )


def _limited(rows: float | None, values: Mapping[str, Any]) -> float | None:
    return rows if rows is None or values["limit"] is None else min(rows, values["limit"])
