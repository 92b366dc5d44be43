"""Rows from what others' runs wrote: logs of inspect_ai, files of lm-eval, and folders of `wsteer eval`."""

import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path

from wsteer.errors import WsteerError, one_error
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.harness.logs import KEYS, read_run, read_tasks
from wsteer.evaluation.inspection import logs
from wsteer.evaluation.naming import ModelName, base_among, conditions_of, named
from wsteer.evaluation.presentation.outputs import RESULTS, ROWS
from wsteer.evaluation.rows import Measure, Outcome, Row, read_rows
from wsteer.files.text import FREE, MOST_RATIO, read_json
from wsteer.progress import Progress, silent

EXTRA = "reading inspect_ai's logs needs inspect_ai: pip install 'wsteer[inspect]'"


@dataclass(frozen=True)
class Readings:
    """What the logs hold, as `summarise` takes it, and the files that were read."""

    rows: tuple[Row, ...]
    measures: tuple[Measure, ...]
    conditions: tuple[Condition, ...]
    files: tuple[Path, ...]
    warnings: tuple[str, ...]


@dataclass(frozen=True)
class _Log:
    """One log of another program's run. `read` gives its tasks' outcomes under a condition's name."""

    path: Path
    model: ModelName
    tasks: tuple[str, ...]
    complete: bool
    read: Callable[[str], Iterator[tuple[str, Outcome]]]
    files: tuple[Path, ...]


def read(paths: Sequence[str | Path], base: str | None = None, progress: Progress = silent) -> Readings:
    """Read logs, or folders of them, as one evaluation; `base` names the model that the others are compared with.

    A task under one condition counts once: of two logs the one that came to its end, and rows that are equal in two
    folders. Raises WsteerError, with both names, where it is there twice otherwise; where a file is no log; where
    nothing is found; and where it is not told which model is the base.
    """
    folders, found = _find(paths)
    known = [log for kind, path in found for log in READERS[kind](path)]
    ours = [_ours(folder) for folder in folders]
    others, warnings = _without_doubles(known)
    bases = list(dict.fromkeys(each for _, found, _ in ours for each in found if each.is_base))
    if len(bases) > 1:
        raise WsteerError(f"the results have different bases ({_differing(bases)}); make a report of each")
    models = [log.model for log in others]
    chosen = base_among(models, base) if base is not None or not bases else _plain(models)
    conditions = conditions_of(models, chosen, bases[0] if bases else None)
    merged = _Merged()
    for folder, _, outcome in ours:
        pieces: dict[tuple[str, str], list[Row]] = {}
        for row in outcome.rows:
            pieces.setdefault((row.task, row.condition), []).append(row)
        for (task, condition), rows in pieces.items():
            merged.add(folder, task, condition, replace(outcome, rows=tuple(rows)))
    for log in progress(others, "reading logs"):
        name = conditions[log.model].name
        before = len(merged.rows)
        for task, outcome in log.read(name):
            merged.add(log.path, task, name, outcome)
        if len(merged.rows) == before:
            warnings.append(f"{log.path.name} holds no rows with scores: {log.model.shown} is left out")
    listed = dict.fromkeys([each for _, found, _ in ours for each in found] + list(conditions.values()))
    present = {row.condition for row in merged.rows}
    ordered = sorted((each for each in listed if each.name in present), key=lambda each: not each.is_base)
    if not merged.rows:
        why = f" ({warnings[0]})" if warnings else ""
        raise WsteerError(f"the logs hold no rows with scores; nothing can be reported{why}")
    files = [folder / name for folder, _, _ in ours for name in (RESULTS, ROWS)]
    files += [file for log in others for file in log.files]
    return Readings(
        tuple(merged.rows),
        _measures(merged),
        tuple(ordered),
        tuple(files),
        tuple(dict.fromkeys([*warnings, *merged.warnings])),
    )


class _Merged:
    """Rows of several logs, each task under a condition once."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self.measures: dict[tuple[str, str], Measure] = {}
        self.warnings: list[str] = []
        self._seen: dict[tuple[str, str], tuple[Path, tuple[Row, ...]]] = {}

    def add(self, path: Path, task: str, condition: str, outcome: Outcome) -> None:
        """Add a task's rows under a condition; equal ones of another folder are the same run."""
        before = self._seen.setdefault((task, condition), (path, outcome.rows))
        if before[0] != path:
            if before[1] != outcome.rows:
                raise WsteerError(
                    f"{before[0]} and {path} both hold {task} under one condition, with different rows; give one"
                )
            return
        places = Counter((row.metric, row.id) for row in outcome.rows if row.task == task)
        if again := next((place for place, count in places.items() if count > 1), None):
            raise WsteerError(f"{path} holds the row {again[1][:80]!r} of {task}, {again[0]} twice; give a whole log")
        self.rows += outcome.rows
        self.warnings += outcome.warnings
        for measure in outcome.measures:
            self.measures.setdefault((measure.task, measure.metric), measure)


def _measures(merged: _Merged) -> tuple[Measure, ...]:
    """How each metric becomes one number; a share only if all values of all logs are 0 or 1."""
    graded = {(row.task, row.metric) for row in merged.rows if row.value not in (None, 0, 1)}
    used = {(row.task, row.metric) for row in merged.rows}
    return tuple(
        replace(measure, kind="mean") if measure.kind == "share" and place in graded else measure
        for place, measure in merged.measures.items()
        if place in used
    )


def _plain(models: Sequence[ModelName]) -> ModelName | None:
    """The one model of others' logs to which nothing is added, which is taken for the base of our own results."""
    plain = {each.plain: each for each in models if each.method is None}
    return next(iter(plain.values())) if len(plain) == 1 else None


def _differing(bases: Sequence[Condition]) -> str:
    """The settings in which bases differ."""
    values = {field.name: {str(getattr(each, field.name)) for each in bases} for field in fields(Condition)}
    return "; ".join(f"{name}: {', '.join(sorted(found))}" for name, found in values.items() if len(found) > 1)


def _without_doubles(found: Sequence[_Log]) -> tuple[list[_Log], list[str]]:
    """The logs to be read, without unfinished ones of what another log has whole; and warnings."""
    whole: dict[tuple[str, str], Path] = {}
    for log in found:
        if log.complete:
            whole.update({(task, log.model.shown): log.path for task in log.tasks})
    kept, warnings = [], []
    for log in found:
        again = next((whole[task, log.model.shown] for task in log.tasks if (task, log.model.shown) in whole), None)
        if not log.complete and again is not None:
            warnings.append(
                f"{log.path.name} ended before it was done and is left out: {again.name} has the task whole"
            )
            continue
        if not log.complete:
            warnings.append(f"{log.path.name} ended before it was done: the rows that were scored are reported")
        kept.append(log)
    return kept, warnings


# ---- Files


def _find(paths: Sequence[str | Path]) -> tuple[list[Path], list[tuple[str, Path]]]:
    """The folders of `wsteer eval`, and (kind, file) of others' logs, in the order given and each once."""
    folders: dict[Path, None] = {}
    found: dict[Path, str] = {}
    for path in map(Path, paths):
        if not path.exists():
            raise WsteerError(f"{path} does not exist; give logs, or folders of them")
        before = len(folders) + len(found)
        if path.is_file():
            kind = _kind(path)
            if kind is None:
                raise WsteerError(
                    f"{path} is no log: give an .eval or .json file of inspect_ai, a results_*.json of lm-eval, or a "
                    "folder that wsteer eval wrote"
                )
            found.setdefault(path, kind)
        else:
            for kind, each in _in_folder(path):
                if kind == "wsteer":
                    folders.setdefault(each)
                else:
                    found.setdefault(each, kind)
        again = any(path == each or path in each.parents for each in (*folders, *found))
        if len(folders) + len(found) == before and not again:
            raise WsteerError(f"{path} holds no log of inspect_ai, lm-eval or wsteer eval")
    return list(folders), [(kind, path) for path, kind in found.items()]


def _in_folder(folder: Path) -> Iterator[tuple[str, Path]]:
    """The logs in a folder and those in it; of a folder that wsteer eval wrote only its own results."""
    if (folder / RESULTS).is_file() and (folder / ROWS).is_file():
        yield "wsteer", folder
        return
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            yield from _in_folder(path)
        elif path.is_file() and (kind := _kind(path)) is not None:
            yield kind, path


def _kind(path: Path) -> str | None:
    """What a file is, by its name and, of JSON, its keys."""
    if path.suffix == ".eval":
        return "inspect"
    if path.suffix != ".json":
        return None
    try:
        keys = read_json(path).keys()
    except WsteerError:
        return None
    if all(key in keys for key in KEYS):
        return "lm-eval"
    return "inspect" if {"version", "status", "eval"} <= keys else None


def _ours(folder: Path) -> tuple[Path, list[Condition], Outcome]:
    """The conditions, rows and measures of a folder that wsteer eval wrote."""
    found = read_json(folder / RESULTS)
    try:
        conditions = [Condition.of_json(each) for each in found["conditions"]]
        measures = tuple(Measure.of_json(each) for each in found["measures"])
        names = {each.name for each in conditions}
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise WsteerError(f"{folder / RESULTS} is not what wsteer eval of this version writes: {error!r}") from None
    rows = tuple(read_rows(folder / ROWS))
    if unknown := next((row.condition for row in rows if row.condition not in names), None):
        raise WsteerError(f"{folder / ROWS} has the condition {unknown}, which {RESULTS} does not list")
    return folder, conditions, Outcome(rows, measures)


def _lm(path: Path) -> Iterator[_Log]:
    run = read_run(path)
    model = named(run.model, run.arguments)
    files = (path, *run.samples.values())
    yield _Log(path, model, tuple(run.samples), True, lambda condition: read_tasks(run, condition), files)


def _inspect(path: Path) -> Iterator[_Log]:
    if find_spec("inspect_ai") is None:
        raise WsteerError(EXTRA)
    from inspect_ai.log import read_eval_log  # noqa: PLC0415  an extra, which takes a second

    _check_unpacked(path)
    with one_error(f"{path} cannot be read as a log of inspect_ai"):
        header = read_eval_log(str(path), header_only=True)
    complete = header.status == "success"
    model = named(header.eval.model, header.eval.model_args)

    def outcomes(condition: str) -> Iterator[tuple[str, Outcome]]:
        found = logs.read_log(path, lambda _: condition, unfinished=not complete)
        alike = logs.all_alike(found)
        warnings = (f"{model.shown}: {alike}",) if alike else ()
        yield found.task, Outcome(found.rows, logs.measures(found.rows, found.measures), warnings)

    yield _Log(path, model, (header.eval.task,), complete, outcomes, (path,))


def _check_unpacked(path: Path) -> None:
    """Refuse a log, which is a zip file, that unpacks into more than any honest one does."""
    if not zipfile.is_zipfile(path):
        return
    with one_error(f"{path} is a damaged zip file"), zipfile.ZipFile(path) as file:
        size = sum(entry.file_size for entry in file.infolist())
    if size > max(FREE, MOST_RATIO * path.stat().st_size):
        raise WsteerError(f"{path} unpacks to {size // 10**6} MB, which no honest log does")


READERS: Mapping[str, Callable[[Path], Iterator[_Log]]] = {"lm-eval": _lm, "inspect": _inspect}
