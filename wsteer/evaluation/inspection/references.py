"""What `--task inspect:` names: found and checked without a model, and loaded with its arguments."""

import ast
import importlib.util
import math
from collections.abc import Mapping, Sequence
from inspect import signature
from os.path import isfile  # a Path raises for a text that is too long for a name
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsteer.errors import WsteerError
from wsteer.evaluation.inspection.logs import OURS, task_name
from wsteer.files.opening import digest_of
from wsteer.files.text import read_text

if TYPE_CHECKING:
    from inspect_ai import Task


def check_tasks(references: Sequence[str], task_args: Mapping[str, object]) -> None:
    """Refuse what is no inspect task, before any model is loaded: FILE.py, FILE.py@NAME or PACKAGE/NAME.

    `task_args` are arguments of the tasks, `NAME` or `TASK.NAME`; one that no task takes is refused where that is
    known. The paper's tasks are made, so that their data are read and checked too.
    """
    check_installed()
    taken: set[str] = set()
    for reference in references:
        file, _, name = reference.partition("@")
        if file.endswith(".py"):
            tasks = _tasks_in(file)
            if not tasks or (name and name not in tasks):
                raise WsteerError(
                    f"{file} has no function {name or ''}{' ' if name else ''}with the decorator @task"
                    + (f"; it has {', '.join(tasks)}" if tasks else "; write one, as inspect_ai's tutorial shows")
                )
            for each, parameters in tasks.items():
                if name in ("", each):
                    taken.update(_taken(each, parameters, task_args))
        elif reference.startswith(OURS):
            taken.update(_taken(reference, _parameters(reference), task_args))
        elif "/" not in reference or not _is_installed(reference.partition("/")[0]):
            raise WsteerError(
                f"--task inspect:{reference} is neither a file (FILE.py) nor a task of an installed package "
                "(PACKAGE/NAME)"
            )
        else:
            taken.update(task_args)  # what a package's task takes is known when it is loaded
    if unknown := sorted(set(task_args) - taken):
        known = sorted({each for reference in references for each in _known(reference)})
        raise WsteerError(
            f"-T {unknown[0]}=: no task of --task inspect: has such an argument"
            + (f"; there are {', '.join(known)}" if known else "; they have none")
        )
    ours = [reference for reference in references if reference.startswith(OURS)]
    for reference in ours:
        _check_values(reference, task_args)
    loaded(ours, task_args)


def _check_values(reference: str, task_args: Mapping[str, object]) -> None:
    """Refuse arguments of one of the paper's tasks that are of another type than its parameters."""
    from wsteer.evaluation.inspection import registry  # noqa: PLC0415  imports inspect_ai, an extra

    parameters = signature(registry.TASKS[reference.removeprefix(OURS)]).parameters
    for name, value in _arguments(reference, task_args).items():
        wanted = parameters[name].annotation
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if wanted is str and not isinstance(value, str):
            how = f"a file as ./{value}" if is_number else "one text"
            raise WsteerError(f"-T {name}={str(value)[:80]} is no text; give {how}")
        if wanted is bool and not isinstance(value, bool):
            raise WsteerError(f"-T {name}={value}: give true or false")
        if wanted in (int, int | None) and not (is_number and isinstance(value, int) and value > 0):
            raise WsteerError(f"-T {name}={value}: give a whole number from 1 up")
        if wanted is float and not (is_number and math.isfinite(float(str(value))) and float(str(value)) >= 0):
            raise WsteerError(f"-T {name}={value}: give a number from 0 up")


def _known(reference: str) -> list[str]:
    """The names of the arguments that the tasks of a reference take."""
    file, _, name = reference.partition("@")
    if file.endswith(".py"):
        return [each for task, parameters in _tasks_in(file).items() if name in ("", task) for each in parameters]
    return _parameters(reference) if reference.startswith(OURS) else []


def _is_installed(package: str) -> bool:
    """Whether there is a package of this name; it is not imported, as those above a name with dots would be."""
    return package.isidentifier() and importlib.util.find_spec(package) is not None


def check_installed(what: str = "--task inspect:") -> None:
    """Refuse to go on without inspect_ai, which `what` needs."""
    if importlib.util.find_spec("inspect_ai") is None:
        raise WsteerError(f"{what} needs inspect_ai: pip install 'wsteer[inspect]'")


def _parameters(reference: str) -> list[str]:
    """The arguments of one of the paper's tasks. Raises WsteerError, with the names there are, for no such task."""
    from wsteer.evaluation.inspection import registry  # noqa: PLC0415  imports inspect_ai, an extra

    name = reference.removeprefix(OURS)
    if name not in registry.TASKS:
        raise WsteerError(f"--task inspect:{reference}: wsteer has no such task; it has {', '.join(registry.TASKS)}")
    return list(signature(registry.TASKS[name]).parameters)


def _tasks_in(file: str) -> dict[str, list[str]]:
    """The functions with the decorator @task in a file of Python, each with the names of its parameters."""
    try:
        tree = ast.parse(read_text(file))
    except (SyntaxError, ValueError, RecursionError) as error:
        raise WsteerError(f"{file} is no Python: {error}") from None
    found = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            called = [each.func if isinstance(each, ast.Call) else each for each in node.decorator_list]
            names = {each.attr if isinstance(each, ast.Attribute) else getattr(each, "id", "") for each in called}
            if "task" in names:
                arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
                found[_given_name(node) or node.name] = [each.arg for each in arguments]
    return found


def _given_name(node: ast.FunctionDef | ast.AsyncFunctionDef) -> str | None:
    """The name of `@task(name=...)`, by which inspect_ai then knows the function alone."""
    for call in node.decorator_list:
        for word in call.keywords if isinstance(call, ast.Call) else ():
            if word.arg == "name" and isinstance(word.value, ast.Constant) and isinstance(word.value.value, str):
                return word.value.value
    return None


def named(reference: str) -> list[str]:
    """What inspect_ai calls the tasks of a reference, all of a file's by name: it takes a bare file for a pattern."""
    file, _, name = reference.partition("@")
    if not file.endswith(".py"):
        return [reference]
    return [f"{Path(file).absolute()}@{each}" for each in ([name] if name else _tasks_in(file))]


def loaded(references: Sequence[str], task_args: Mapping[str, object]) -> "list[Task]":
    """The tasks, each made with those arguments that it takes."""
    from inspect_ai._eval.loader import load_tasks  # noqa: PLC0415  its public functions give all tasks the same ones
    from inspect_ai._util.registry import registry_info  # noqa: PLC0415  the same

    from wsteer.evaluation.inspection.registry import TASKS  # noqa: PLC0415  imports inspect_ai

    found = []
    for name in (name for reference in references for name in named(reference)):
        # beside a source tree inspect_ai does not see that wsteer is installed, and leaves out its name
        known = registry_info(TASKS[task_name(name)]).name if name.startswith(OURS) else name
        found += load_tasks([known], _arguments(name, task_args))
    return found


def _arguments(called: str, task_args: Mapping[str, object]) -> dict[str, Any]:
    """The arguments that a task takes, by what inspect_ai calls it: those for all tasks, and those for it by name."""
    file, _, task = called.partition("@")
    name = (task or called).rpartition("/")[2]
    common = {key: value for key, value in task_args.items() if "." not in key}
    own = {key.split(".", 1)[1]: value for key, value in task_args.items() if key.startswith(f"{name}.")}
    if task:
        taken = _tasks_in(file)[task]
    elif called.startswith(OURS):
        taken = _parameters(called)
    else:
        return common | own  # inspect_ai leaves out what it has not
    return {key: value for key, value in (common | own).items() if key in taken}


def _taken(task: str, parameters: Sequence[str], task_args: Mapping[str, object]) -> list[str]:
    """Which of the arguments a task with these parameters takes."""
    name = task.rpartition("/")[2]
    return [key for key in task_args for each in parameters if key in (each, f"{name}.{each}")]


def files_of(references: Sequence[str], task_args: Mapping[str, object]) -> list[str]:
    """The files that the tasks are read from: those of the tasks themselves, and those that their arguments name."""
    found = [file for file in (each.partition("@")[0] for each in references) if file.endswith(".py")]
    found += [value for value in task_args.values() if isinstance(value, str) and isfile(value)]
    return list(dict.fromkeys(found))


def digests(references: Sequence[str], task_args: Mapping[str, object]) -> dict[str, list[str]]:
    """The sha256 of these files, by their names without folders."""
    found: dict[str, list[str]] = {}
    for file in files_of(references, task_args):
        found.setdefault(Path(file).name, []).append(digest_of(file))
    return found
