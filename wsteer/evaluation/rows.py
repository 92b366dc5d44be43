"""The one table of an evaluation: each metric's value on each row of data under each condition."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, get_args

from wsteer.errors import WsteerError
from wsteer.files.rows import read_objects
from wsteer.files.text import write_jsonl

# Why a row has no value. Rows outside of a metric's denominator are no failures; all others are shown beside it.
OUTSIDE = "outside"  # not among the rows that the metric is a share of
ABSTAINED = "abstained"  # the rule could not grade the answer
CUT = "cut"  # the limit of tokens came before an answer

LARGEST = 1e300  # the numbers of a file are smaller

ROLES = ("behaviour", "capability")
Kind = Literal["share", "mean", "perplexity"]


@dataclass(frozen=True)
class Row:
    """One metric on one row of data under one condition: its value, or `why` there is none.

    `condition` is the condition's unique name. `id` is unique in (task, metric, condition) and the same for the same
    row of data under every condition. Rows of one `group`, as several samples of one question, are not independent.
    `prompt` is the sha256 of all that the model was given, but for the condition's own system prompt (which is what is
    compared), "" where it is not known: rows whose prompts differ are never paired. `input` and `answer` are for
    people. `weight` is the row's in a weighted mean, as its tokens. `finished` is False where the limit of tokens ended
    an answer, which has its value all the same.
    """

    task: str
    metric: str
    condition: str
    id: str
    value: float | None
    why: str = ""
    group: str = ""
    prompt: str = ""
    input: str = ""
    answer: str = ""
    weight: float = 1.0
    finished: bool = True

    def __post_init__(self) -> None:
        if (self.value is None) != bool(self.why):
            raise AssertionError(f"row {self.id}: a row has a value, or a reason why it has none")
        if not self.group:
            object.__setattr__(self, "group", self.id)


FIELDS = {field.name for field in fields(Row)}


@dataclass(frozen=True)
class Measure:
    """How one metric of a task becomes one number, and what it stands for in pictures and in the choice of k.

    A share is of values 0 and 1; a mean is of any numbers; a perplexity is exp of the weighted mean of nats per token.
    `role` is the axis of the trade-off picture: behaviour is what steering is to change, capability what it is to keep.
    `among` names a metric of the task: only rows where that is 1 under the base count, so that all conditions have one
    denominator. Metrics with the same `bar` are shares that together are all rows, drawn as the parts of one bar.
    """

    task: str
    metric: str
    kind: Kind = "share"
    better: Literal["higher", "lower"] | None = None
    role: Literal["behaviour", "capability"] | None = None
    unit: str = ""
    among: str = ""
    bar: str = ""

    @staticmethod
    def of_json(found: Mapping[str, object]) -> "Measure":
        """The measure whose fields these are. Raises TypeError or ValueError for what is none."""
        measure = Measure(**found)  # type: ignore[arg-type]
        texts = (measure.task, measure.metric, measure.unit, measure.among, measure.bar)
        known = measure.kind in get_args(Kind) and measure.better in ("higher", "lower", None)
        if not all(isinstance(each, str) for each in texts) or not known or measure.role not in (*ROLES, None):
            raise ValueError(f"{found} is no measure")
        return measure


@dataclass(frozen=True)
class Outcome:
    """What running one task gave: its rows, what its metrics are, and warnings for the user.

    `samples` are the answers with their verdicts, as lines of samples.jsonl; `files` are more results in JSON, by the
    names of their files.
    """

    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    warnings: tuple[str, ...] = ()
    samples: tuple[Mapping[str, object], ...] = ()
    files: Mapping[str, object] = field(default_factory=dict)


def joined(outcomes: Iterable[Outcome]) -> Outcome:
    """The outcomes of several tasks and conditions as one; measures and warnings each once.

    A metric whose values are all 0 or 1 under some conditions, and other numbers under others, is a mean.
    """
    outcomes = list(outcomes)
    measures: dict[tuple[str, str], Measure] = {}
    for measure in (measure for outcome in outcomes for measure in outcome.measures):
        known = measures.setdefault((measure.task, measure.metric), measure)
        if known.kind == "share" and measure.kind == "mean":
            measures[measure.task, measure.metric] = measure
    return Outcome(
        tuple(row for outcome in outcomes for row in outcome.rows),
        tuple(measures.values()),
        tuple(dict.fromkeys(warning for outcome in outcomes for warning in outcome.warnings)),
        tuple(sample for outcome in outcomes for sample in outcome.samples),
        {name: content for outcome in outcomes for name, content in outcome.files.items()},
    )


def prompt_digest(*texts: str) -> str:
    """The sha256 of what a model was given, in one or several texts."""
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big") + encoded)
    return digest.hexdigest()


def write_rows(path: Path, rows: Iterable[Row]) -> None:
    """Write `rows.jsonl`: one object a line."""
    write_jsonl(path, map(vars, rows))  # asdict copies every value, which takes ten times as long


def read_rows(path: Path) -> list[Row]:
    """Read what `write_rows` wrote. Raises WsteerError where a line is something else, or a row is there twice."""
    rows: dict[tuple[str, str, str, str], Row] = {}
    for where, found in read_objects(path):
        if not _is_row(found):
            raise WsteerError(f"{where} is no row of an evaluation; give a rows.jsonl that wsteer eval wrote")
        row = Row(**found)
        place = row.task, row.metric, row.condition, row.id
        if place in rows:
            raise WsteerError(f"{where}: the row {row.id!r} of {row.task}, {row.metric} is there twice")
        rows[place] = row
    return list(rows.values())


def _is_row(found: Mapping[str, object]) -> bool:
    """Whether an object of JSON is what `write_rows` writes for a row."""
    if found.keys() != FIELDS:
        return False
    value, weight, finished = found["value"], found["weight"], found["finished"]
    texts = [each for name, each in found.items() if name not in ("value", "weight", "finished")]
    if not all(isinstance(each, str) for each in texts) or not isinstance(finished, bool):
        return False
    if not _is_number(weight) or weight < 0:  # type: ignore[operator]
        return False
    return bool(found["why"]) if value is None else _is_number(value) and not found["why"]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and -LARGEST < value < LARGEST


def by_condition(rows: Sequence[Row]) -> Mapping[tuple[str, str, str], dict[str, Row]]:
    """The rows of each (task, metric, condition), by their ids."""
    found: dict[tuple[str, str, str], dict[str, Row]] = {}
    for row in rows:
        place = found.setdefault((row.task, row.metric, row.condition), {})
        if row.id in place:
            raise AssertionError(f"the row {row.id} of {row.task}, {row.metric}, {row.condition} is there twice")
        place[row.id] = row
    return found


def find_measure(measures: Sequence[Measure], name: str) -> Measure:
    """The measure that a user names: `metric` where one task alone has it, or `task.metric`.

    Raises WsteerError, with the names there are.
    """
    full = [each for each in measures if f"{each.task}.{each.metric}" == name]
    found = full or [each for each in measures if each.metric == name]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{each.task}.{each.metric}" for each in found)
        raise WsteerError(f"several tasks have a metric {name!r}; write one of {names}")
    there = list(dict.fromkeys(each.metric for each in measures))
    longer = [f"{each.task}.{each.metric}" for each in measures]
    close = get_close_matches(name, there, 1) or get_close_matches(name, longer, 1)
    raise WsteerError(
        f"there is no metric {name!r}; there are {', '.join(there)}{f'; did you mean {close[0]}?' if close else ''}"
    )
