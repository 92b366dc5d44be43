"""Tasks of inspect_ai run on the subject under each condition, and their logs as rows."""

import asyncio
import contextlib
import logging
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from os.path import isdir
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsteer.errors import WsteerError, reason
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.inspection.engine import Engine
from wsteer.evaluation.inspection.logs import ROLE, TaskLog, all_alike, measures, one_line, read_log
from wsteer.evaluation.inspection.references import check_installed, check_tasks, digests, loaded
from wsteer.evaluation.rows import Outcome
from wsteer.evaluation.subject import Subject
from wsteer.progress import Progress, silent

if TYPE_CHECKING:
    from inspect_ai import Task
    from inspect_ai.model import Model

LOGS = "inspect"  # the folder of the logs, which `inspect view --log-dir` opens
FILES = "task_files"  # of a log's metadata: the digests of the task files, by their names
MOST_SAMPLES = 1000  # of one task at once: the engine makes batches of what is asked at the same time
RETRIES = 7  # of a judge's call, which take six minutes together
# of every run: it says nothing itself, and a judge's call alone is tried again
SETTINGS: dict[str, Any] = {
    "display": "none",
    "log_level": "critical",
    "score_display": False,
    "log_realtime": False,
    "ctl_server": False,
    "log_dir_allow_dirty": True,  # of a run with other judges, say
    "retry_attempts": 0,
    "retry_immediate": False,
}


def check_judges(judges: Sequence[str], model: str | Path) -> None:
    """Refuse a judge that is the model under test, is named twice, or does not answer a first call."""
    _check_names(judges, model)
    with _as_before():
        for judge in judges:
            asyncio.run(_asked(judge))


def _check_names(judges: Sequence[str], model: str | Path) -> None:
    for number, judge in enumerate(judges):
        # what the provider calls the model, which may have a service before it: openai-api/local//models/base
        named = [judge[place + 1 :] for place, letter in enumerate(judge) if letter == "/"]
        if not any(named):
            raise WsteerError(f"--judge {judge}: name its provider too, as --judge openai/gpt-4o-mini")
        same = any(isdir(each) and Path(each).resolve() == Path(model).resolve() for each in named)
        if same or str(model) in named:
            raise WsteerError(f"--judge {judge} is the model under test, which may not grade itself; give another")
        if judge in judges[:number]:
            raise WsteerError(f"--judge {judge} is given twice; each judge of a panel has one vote")
    if judges:
        check_installed("--judge")


async def _asked(judge: str) -> None:
    from inspect_ai.model import GenerateConfig  # noqa: PLC0415  an extra

    async with _judge(judge, retries=1) as model:
        try:
            await model.generate("Answer with the word OK.", config=GenerateConfig(max_tokens=16))
        except Exception as error:
            raise WsteerError(f"the judge {judge} does not answer: {_cause(error)}") from None


def _judge(name: str, retries: int = RETRIES) -> "Model":
    """A judge: greedy, and never cached, since inspect_ai's cache unpickles whatever lies in its folder."""
    from inspect_ai.model import GenerateConfig, get_model  # noqa: PLC0415

    from wsteer.evaluation.inspection import registry  # noqa: F401, PLC0415  for judges by the name wsteer/

    try:
        return get_model(name, config=GenerateConfig(temperature=0, max_retries=retries), memoize=False)
    except Exception as error:  # of many lines: the last ones say which key is missing
        raise WsteerError(f"--judge {name}: {_cause(error)}") from None


def _cause(error: BaseException) -> str:
    """The error behind one that only says that retries have ended."""
    attempt = getattr(error, "last_attempt", None)
    if attempt is not None and (cause := attempt.exception()) is not None:
        error = cause
    return reason(error) if isinstance(error, SystemExit) else one_line(str(error)) or type(error).__name__


@contextlib.contextmanager
def _as_before() -> Iterator[None]:
    """Give the process its logging and its hook for exceptions back, which inspect_ai sets for good.

    What tasks print goes to stderr: stdout is the result's alone. inspect_ai itself says nothing.
    """
    import rich  # noqa: PLC0415  comes with inspect_ai

    root, console = logging.getLogger(), rich.get_console()
    quiet, console.quiet = console.quiet, True  # its display "none" begins with the first task, and not with the end
    hook, handlers, level = sys.excepthook, root.handlers[:], root.level
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        sys.excepthook, root.handlers[:] = hook, handlers
        root.setLevel(level)
        console.quiet = quiet


def run(
    references: Sequence[str],
    subject: Subject,
    conditions: Sequence[Condition],
    judges: Sequence[str],
    folder: Path,
    *,
    task_args: Mapping[str, object] | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Outcome:
    """Run inspect tasks on the subject under each condition, with logs in the folder `inspect` of `folder`.

    A condition whose log is there and complete is not run again, and of one that was interrupted only the rest is; all
    of a task is whose file has changed since.
    The role `grader` is bound to the judges: several vote, in inspect_ai's own model-graded scorers. Without judges a
    task that asks for one is an error, and no model grades itself. Decoding is greedy where the task sets no
    temperature; sampled answers are seeded by the subject's seed (or the task's own), the sample and the epoch.
    Raises WsteerError for what a task's code raises, and for a model or a judge that fails.
    """
    task_args = task_args or {}
    check_tasks(references, task_args)
    _check_names(judges, subject.loaded.checkpoint.folder)
    from inspect_ai import eval_set  # noqa: PLC0415  an extra
    from inspect_ai.model import GenerateConfig, get_model  # noqa: PLC0415

    from wsteer.evaluation.inspection import provider, registry  # noqa: F401, PLC0415  import inspect_ai

    files = digests(references, task_args)
    _remove_outdated(folder / LOGS, files)
    grader = [_judge(name) for name in judges] or [get_model("wsteer-no-judge/none", memoize=False)]
    all_at_once = GenerateConfig(max_connections=MOST_SAMPLES)
    with _as_before(), Engine(subject, progress) as engine, provider.serving(engine, conditions):
        models = [get_model(f"wsteer/{each.name}", config=all_at_once, memoize=False) for each in conditions]
        try:
            tasks = loaded(references, task_args)
            _, logs = eval_set(
                tasks,
                log_dir=str((folder / LOGS).absolute()),
                model=models,
                metadata={FILES: files},
                model_roles={ROLE: grader[0] if len(grader) == 1 else grader},
                limit=limit,
                max_samples=MOST_SAMPLES,
                max_tasks=2 if judges else 1,  # one is answered while judges read another's answers
                **SETTINGS,
            )
        except (Exception, SystemExit) as error:  # a task is the user's program and can raise anything
            raise WsteerError(f"inspect_ai cannot run {', '.join(references)}: {_cause(error)}") from error
    if len(logs) < len(tasks) * len(conditions):  # it ends in silence, with the logs that are complete
        raise KeyboardInterrupt
    return _outcome([log.location for log in logs], conditions, judges)


def run_judges(task: "Task", judges: Sequence[str], folder: Path) -> TaskLog:
    """Run a task that asks its judges alone, whose samples bring their answers, with its log in `folder`.

    What a log there holds of an interrupted run, with the same judges, is not asked again. Raises WsteerError for a
    judge that fails.
    """
    from inspect_ai import eval_set  # noqa: PLC0415  an extra
    from inspect_ai.model import get_model  # noqa: PLC0415

    grader = [_judge(name) for name in judges]
    with _as_before():
        try:
            _, logs = eval_set(
                [task],
                log_dir=str(folder.absolute()),
                model=get_model("none/none", memoize=False),
                model_roles={ROLE: grader[0] if len(grader) == 1 else grader},
                max_samples=MOST_SAMPLES,
                **SETTINGS,
            )
        except (Exception, SystemExit) as error:
            raise WsteerError(f"inspect_ai cannot ask {', '.join(judges)}: {_cause(error)}") from error
    if not logs:  # it ends in silence
        raise KeyboardInterrupt
    return read_log(logs[0].location, str)


def _remove_outdated(folder: Path, files: Mapping[str, list[str]]) -> None:
    """Remove the logs of tasks whose file or data have changed since: inspect_ai goes by names, not by contents."""
    from inspect_ai.log import read_eval_log  # noqa: PLC0415

    for path in sorted(folder.glob("*.eval")):
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):  # it was interrupted too early
            header = read_eval_log(str(path), header_only=True).eval
            named = [header.task_file or "", *(each for each in header.task_args.values() if isinstance(each, str))]
            before = (header.metadata or {}).get(FILES, {})
            if any(before.get(name) != files.get(name) for name in (Path(each).name for each in named)):
                path.unlink()


def _outcome(paths: Sequence[str], conditions: Sequence[Condition], judges: Sequence[str]) -> Outcome:
    """The rows of all logs, each metric under every condition. Raises WsteerError if all samples of a task failed."""
    names = {f"wsteer/{condition.name}": condition.name for condition in conditions}
    order = list(names)
    found = [read_log(path, names.__getitem__) for path in paths]
    found.sort(key=lambda log: (order.index(log.model), log.task))  # they come as they ended
    seen: set[tuple[str, str]] = set()
    for log in found:
        if (log.task, log.model) in seen:
            raise WsteerError(f"two tasks are named {log.task}; rename one, so that its results can be told apart")
        seen.add((log.task, log.model))
        if not log.rows:
            first = next(iter(log.errors.values()), "its scorers gave no score")
            raise WsteerError(f"the inspect task {log.task} has no score at {log.model}: {first}")
    rows = tuple(row for log in found for row in log.rows)
    warnings = [warning for log in found for warning in (_half_asked(log, judges), all_alike(log)) if warning]
    declared = {place: measure for log in found for place, measure in log.measures.items()}
    return Outcome(rows, measures(rows, declared), tuple(dict.fromkeys(warnings)))


def _half_asked(log: TaskLog, judges: Sequence[str]) -> str:
    """That a task asked some judges of the panel alone, if it did."""
    left_out = [name for name in judges if name not in log.judged]
    if not log.judged or not left_out:
        return ""
    return (
        f"{log.task} asked {', '.join(sorted(log.judged))} alone, and not {', '.join(left_out)}: inspect_ai's own "
        f"model-graded scorers are panels; another scorer has to ask each of model_roles()[{ROLE!r}]"
    )
