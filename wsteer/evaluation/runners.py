"""Tasks of every kind: opened and checked without a model, then ready to run under one condition after the other."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.harness.harness import Harness, HarnessTasks, load_tasks
from wsteer.evaluation.inspection.logs import task_name
from wsteer.evaluation.inspection.references import check_tasks, files_of, named
from wsteer.evaluation.rows import Measure, Outcome
from wsteer.evaluation.subject import Subject
from wsteer.evaluation.tasks.answering import AskedTask, prepare
from wsteer.evaluation.tasks.texts import PREFIX as TEXTS
from wsteer.evaluation.tasks.texts import TextTask
from wsteer.files.opening import is_stream
from wsteer.files.provenance import key, source_entry
from wsteer.files.rows import Message
from wsteer.progress import Progress

HARNESS, INSPECT = "lm:", "inspect:"
MOST_CHATS = 24  # for a calibration


@dataclass(frozen=True)
class Runner:
    """A task on a subject that is under a condition; the `key` tells all else that its rows depend on."""

    key: str
    run: Callable[[Condition, Progress], Outcome]


@dataclass(frozen=True)
class Tasks:
    """What `--task` names: wsteer's own tasks, those of lm-evaluation-harness with their data, and inspect's."""

    own: tuple[AskedTask | TextTask, ...]
    harness: HarnessTasks | None
    inspect: tuple[str, ...]
    limit: int | None
    task_args: Mapping[str, object] = field(default_factory=dict)

    @staticmethod
    def of(
        references: Sequence[str],
        data: str | Path | None = None,
        limit: int | None = None,
        task_args: Mapping[str, object] | None = None,
    ) -> "Tasks":
        """Open and check everything that needs no model; `data` replaces that of wsteer's own tasks.

        `task_args` are arguments of inspect's tasks, by `NAME` or `TASK.NAME`.
        """
        task_args = task_args or {}
        if not references:
            raise WsteerError("task names no task; give one or more, as sycophancy")
        if len(set(references)) < len(references):
            raise WsteerError(f"--task {max(references, key=list(references).count)} is given twice")
        harness = [each for each in references if each.startswith(HARNESS)]
        inspect = [each.removeprefix(INSPECT) for each in references if each.startswith(INSPECT)]
        rest = [each for each in references if not each.startswith((HARNESS, INSPECT))]
        if data is not None and not any(not each.startswith(TEXTS) for each in rest):
            raise WsteerError(
                "--data is for built-in tasks and YAML files of wsteer's; for a task of inspect write -T data=FILE"
            )
        own = tuple(prepare(each, None if each.startswith(TEXTS) else data, limit) for each in rest)
        if task_args and not inspect:
            raise WsteerError("-T gives arguments to tasks of inspect, and --task names none, as inspect:wsteer/gsm8k")
        if inspect:
            check_tasks(inspect, task_args)
        found = Tasks(own, load_tasks(harness, limit) if harness else None, tuple(inspect), limit, task_args)
        names = found._names()
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise WsteerError(f"two tasks are named {twice!r}; rename one, or evaluate them one by one")
        return found

    def _names(self) -> list[str]:
        """The names that rows will have for the tasks."""
        harness = (*self.harness.tasks, *(group.name for group in self.harness.named)) if self.harness else ()
        inspect = (task_name(each) for name in self.inspect for each in named(name))
        return [*(task.name for task in self.own), *harness, *inspect]

    @property
    def measures(self) -> list[Measure] | None:
        """All metrics, or None where some are known only when their tasks have run."""
        if self.harness or self.inspect:
            return None
        return [measure for task in self.own for measure in task.measures]

    @property
    def files(self) -> list[tuple[str, str | Path]]:
        """The files that the tasks are read from, by the roles that records give them."""
        found = [each for task in self.own for each in task.files]
        found += [("task", path) for path in (self.harness.files if self.harness else ())]
        found += [("task", file) for file in files_of(self.inspect, self.task_args)]
        return [(role, path) for role, path in dict.fromkeys(found) if Path(path).is_file() or is_stream(path)]

    @property
    def sources(self) -> list[dict[str, object]]:
        """These files as records list them, with their digests."""
        return [source_entry(role, path) for role, path in self.files]

    def chats(self) -> list[list[Message]]:
        """What a model is asked where only its answers count: the turns of the first task, or the built-in facts."""
        own = [task for task in (*self.own, prepare("agreement")) if isinstance(task, AskedTask) and task.turns]
        turns = own[0].turns
        return [[{"role": "user", "content": turn}] for _, _, turn in turns[:MOST_CHATS]]

    def runners(self, subject: Subject) -> list[Runner]:
        """What runs under each condition by itself; called while nothing is applied to the model."""
        runners = [_own(task, subject, self.limit) for task in self.own]
        return runners if self.harness is None else [*runners, _harness(self.harness, subject)]


def _own(task: AskedTask | TextTask, subject: Subject, limit: int | None) -> Runner:
    sources = [source_entry(role, path) if Path(path).is_file() else str(path) for role, path in task.files]

    def run(condition: Condition, progress: Progress) -> Outcome:
        return task.run(subject, condition, progress)

    return Runner(key([task.name, sources, limit]), run)


def _harness(tasks: HarnessTasks, subject: Subject) -> Runner:
    harness = Harness(subject, tasks)

    def run(condition: Condition, progress: Progress) -> Outcome:
        found = harness.run(condition, progress)
        return replace(found.outcome, files={f"lm_eval.{condition.name}.json": found.raw})

    sources = [source_entry("task", path) for path in tasks.files]
    return Runner(key(["lm-eval", tasks.digests, sources, tasks.limit]), run)
