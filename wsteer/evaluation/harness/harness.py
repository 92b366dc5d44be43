"""Tasks of lm-evaluation-harness, run on the model in memory under each condition."""

import contextlib
import difflib
import hashlib
import importlib.metadata
import importlib.util
import itertools
import json
import logging
import os
import random
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from yaml import MappingNode, ScalarNode

from wsteer.errors import WsteerError, out_of_memory, reason
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.harness.samples import measured, pooled
from wsteer.evaluation.rows import Outcome
from wsteer.evaluation.subject import Subject
from wsteer.files.hub import no_long_silence
from wsteer.files.yaml import yaml_nodes
from wsteer.models.arguments import check_count
from wsteer.models.loading import own_generation, own_settings
from wsteer.progress import Progress, silent

SEED, FEWSHOT_SEED = 0, 1234  # lm-eval's own, of Python's random numbers and of all others
FILES = (".yaml", ".yml")


@dataclass(frozen=True)
class HarnessTasks:
    """What `--task lm:...` names, with its data: lm-eval's tasks and groups by their names.

    `named` are the groups that were asked for, rather than inside of others. `limit` is how many of each task's rows
    are asked, the first ones. `files` are the user's own, for the record. `numbers` is the state of Python's and
    numpy's random numbers after loading, from which every condition starts, as lm-eval's own run does.
    """

    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    named: tuple[Any, ...]
    limit: int | None
    files: tuple[Path, ...]
    numbers: tuple[Any, Any]

    @property
    def digests(self) -> dict[str, str]:
        """What tells the rows of each task, which a file beside its own may hold, and lm-eval's version."""
        version = importlib.metadata.version("lm_eval")
        found = {}
        for name, task in self.tasks.items():
            docs = itertools.islice(task.eval_docs, self.limit)
            rows = json.dumps([version, list(docs)], sort_keys=True, default=str)
            found[name] = hashlib.sha256(rows.encode("utf-8", "surrogatepass")).hexdigest()
        return found


@dataclass(frozen=True)
class HarnessResult:
    """The rows of all tasks under one condition, and lm-eval's own results without its samples, as JSON."""

    outcome: Outcome
    raw: dict[str, Any]


def load_tasks(references: Sequence[str], limit: int | None = None) -> HarnessTasks:
    """Load the tasks, groups, tags and patterns of lm-eval, and YAML files of tasks, that `references` name.

    No model is needed. A reference may begin with `lm:`. Raises WsteerError if lm-eval is not installed, if it has no
    such task, if a file is none, if its data are not to be had, or if the task runs code that the model writes.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise WsteerError("--task lm:NAME needs lm_eval: pip install 'wsteer[lm-eval]'")
    check_count("limit", 1 if limit is None else limit)
    references = [reference.removeprefix("lm:") for reference in references]
    files = {reference: Path(reference) for reference in references if reference.endswith(FILES)}
    groups_of_files = {reference: _group(path) for reference, path in files.items()}
    sources: dict[str, str] = {}
    tasks: dict[str, Any] = {}
    groups: dict[str, Any] = {}
    with _quiet(), _numbers_kept():
        _seed()
        manager = _manager(references, groups_of_files)
        for reference in dict.fromkeys(references):
            for name in _names(reference, groups_of_files.get(reference), manager):
                loaded = _loaded(reference, name, manager)
                for task in loaded["tasks"]:
                    if task in sources:
                        raise WsteerError(
                            f"--task lm:{reference}: the task {task} is already there by lm:{sources[task]}; give one "
                            "of the two, or rename one"
                        )
                    sources[task] = reference
                _check_runnable(reference, loaded["tasks"])
                tasks.update(loaded["tasks"])
                groups.update(loaded["groups"])
        numbers = random.getstate(), numpy.random.get_state()
    inside = {name for group in groups.values() for name in group.child_names}
    named = tuple(group for name, group in groups.items() if name not in inside)
    return HarnessTasks(tasks, groups, named, limit, tuple(files.values()), numbers)


class Harness:
    """lm-eval on one subject. Made once, while nothing is applied to the model."""

    def __init__(self, subject: Subject, tasks: HarnessTasks) -> None:
        from wsteer.evaluation.harness.model import HarnessModel  # noqa: PLC0415  imports lm_eval, which is an extra

        self.subject, self.tasks = subject, tasks
        self.templated = subject.loaded.tokenizer.chat_template is not None
        with _quiet():
            self.model = HarnessModel(subject.loaded, subject.batch_size)

    def run(self, condition: Condition, progress: Progress = silent) -> HarnessResult:
        """The rows of all tasks under `condition`, which the caller has applied by `subject.under`.

        Raises WsteerError if lm-eval cannot run a task, or if the model computes no numbers to answer by.
        """
        prompts = self._prompts() if condition.system is not None else None
        results = self.results(condition, progress)
        return HarnessResult(self._outcome(results, condition, prompts), self._raw(results, condition))

    def results(self, condition: Condition, progress: Progress = silent) -> dict[str, Any]:
        """lm-eval's own results under `condition`, which has been applied, with its `samples`.

        Prompts and generation settings are those of `lm-eval run --apply_chat_template`, and so is every number.
        """
        import lm_eval  # noqa: PLC0415  an extra

        with _quiet() as visible, _numbers_kept(), own_generation(self.subject.loaded), self._one_error(condition):
            self._prepare()
            with self.model.under(condition, progress, visible):
                return lm_eval.evaluate(
                    lm=self.model,
                    task_dict={"tasks": dict(self.tasks.tasks), "groups": dict(self.tasks.groups)},
                    limit=self.tasks.limit,
                    bootstrap_iters=0,  # the intervals are ours
                    log_samples=True,
                    system_instruction=condition.system,
                    apply_chat_template=self.templated,
                    fewshot_as_multiturn=self.templated,
                )

    def _prepare(self) -> None:
        """Bring tasks and random numbers into the state in which lm-eval starts."""
        for task in self.tasks.tasks.values():
            if task.get_config("num_fewshot") is None:
                task.set_config(key="num_fewshot", value=0)
            task.set_fewshot_seed(seed=FEWSHOT_SEED)
        random.setstate(self.tasks.numbers[0])
        numpy.random.set_state(self.tasks.numbers[1])
        torch.manual_seed(FEWSHOT_SEED)

    def _prompts(self) -> dict[tuple[str, int], str]:
        """lm-eval's hash of each prompt without a condition's own system prompt, by task and row."""
        from lm_eval.utils import hash_string  # noqa: PLC0415  an extra

        found = {}
        with _quiet(), _numbers_kept():
            self._prepare()
            for name, task in self.tasks.tasks.items():
                task.build_all_requests(
                    limit=self.tasks.limit,
                    apply_chat_template=self.templated,
                    fewshot_as_multiturn=self.templated,
                    chat_template=self.model.apply_chat_template if self.templated else None,
                    tokenizer_name=self.model.tokenizer_name if self.templated else "",
                )
                for request in reversed(task.instances):  # the first of each row stays
                    found[name, request.doc_id] = hash_string(request.arguments[0])
        return found

    def _outcome(
        self, results: Mapping[str, Any], condition: Condition, prompts: Mapping[tuple[str, int], str] | None
    ) -> Outcome:
        inside = {task.task_name for group in self.tasks.named for task in group.get_all_tasks()}
        parts = []
        for name, task in self.tasks.tasks.items():
            samples = results["samples"][name]
            if prompts is not None:
                samples = [{**sample, "prompt_hash": prompts[name, sample["doc_id"]]} for sample in samples]
            parts.append(measured(name, task, samples, results["results"][name], condition.name, name not in inside))
        parts += [pooled(group, parts) for group in self.tasks.named]
        warnings = [warning for part in parts for warning in part.warnings]
        if self.model.cut:
            warnings.append(
                f"{self.model.cut} texts of lm-eval's tasks are longer than the {self.model.max_length} tokens that "
                "the model takes; lm-eval cut their beginnings"
            )
        return Outcome(
            tuple(row for part in parts for row in part.rows),
            tuple(measure for part in parts for measure in part.measures),
            tuple(dict.fromkeys(warnings)),
        )

    def _raw(self, results: Mapping[str, Any], condition: Condition) -> dict[str, Any]:
        """lm-eval's results as its own files have them, without samples, and NaN as null."""
        from lm_eval.utils import handle_non_serializable  # noqa: PLC0415  an extra

        loaded = self.subject.loaded
        more = {
            "config": {
                "model": "hf",
                "model_args": {"pretrained": loaded.checkpoint.name, "dtype": str(loaded.model.dtype)},
                "batch_size": self.subject.batch_size,
                "limit": self.tasks.limit,
                "bootstrap_iters": 0,
                "random_seed": SEED,
                "numpy_seed": FEWSHOT_SEED,
                "torch_seed": FEWSHOT_SEED,
                "fewshot_seed": FEWSHOT_SEED,
            },
            "chat_template": loaded.tokenizer.chat_template,
            "system_instruction": condition.system,
            "fewshot_as_multiturn": self.templated,
            "generation_config": own_settings(loaded).to_diff_dict(),
            "lm_eval_version": importlib.metadata.version("lm_eval"),
            "condition": condition.as_json(),
        }
        kept = {key: value for key, value in results.items() if key != "samples"}
        text = json.dumps({**kept, **more}, default=handle_non_serializable)
        return json.loads(text, parse_constant=lambda _: None)

    @contextlib.contextmanager
    def _one_error(self, condition: Condition) -> Iterator[None]:
        """Turn what lm-eval and the tasks raise in the `with` body into one error, unless memory is short."""
        try:
            yield
        except (Exception, SystemExit) as error:  # a task is a program and can raise anything
            if isinstance(error, WsteerError) or out_of_memory(error):
                raise
            names = ", ".join(list(self.tasks.tasks)[:3]) + (", ..." if len(self.tasks.tasks) > 3 else "")
            raise WsteerError(f"lm-eval cannot run {names} under {condition.label}: {reason(error)}") from error


def _group(path: Path) -> str | None:
    """The group's name that a file of tasks gives, None for a single task; an error if it is no file of tasks."""
    if not path.is_file():
        raise WsteerError(f"--task lm:{path}: there is no such file")
    root = yaml_nodes(path)  # lm-eval's tags, as !function, are not resolved here
    pairs = root.value if isinstance(root, MappingNode) else []
    keys = {key.value: value.value for key, value in pairs if isinstance(key, ScalarNode)}
    if not keys.keys() & {"task", "group", "include"}:
        raise WsteerError(f"--task lm:{path}: it names no `task`; see lm-eval's guide to new tasks")
    return str(keys["group"]) if "group" in keys else None


def _manager(references: Sequence[str], groups: Mapping[str, str | None]) -> Any:
    """lm-eval's finder of tasks; it knows its own, which takes five seconds, only where they may be asked for."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415  an extra

    beside = sorted({str(Path(reference).absolute().parent) for reference, name in groups.items() if name})
    return TaskManager(include_path=beside, include_defaults=bool(beside) or groups.keys() != set(references))


def _names(reference: str, group: str | None, manager: Any) -> list[str]:
    """What lm-eval is to load for a reference: a file, a file's group, or the names that a pattern matches."""
    if reference.endswith(FILES):
        return [group or str(Path(reference).absolute())]
    if names := manager.match_tasks([reference]):
        return list(names)
    near = difflib.get_close_matches(reference, manager.all_tasks, n=3)
    hint = f"; is it {' or '.join(near)}?" if near else "; `lm-eval ls tasks` lists them, a file's name ends in .yaml"
    raise WsteerError(f"--task lm:{reference}: lm-eval has no such task{hint}")


def _loaded(reference: str, name: str, manager: Any) -> dict[str, dict[str, Any]]:
    """The tasks and groups that lm-eval makes of a name, their data read."""
    try:
        with no_long_silence():
            return manager.load([name])
    except WsteerError:
        raise
    except (Exception, SystemExit) as error:  # the user's files, the Hub and lm-eval's tasks can raise anything
        if out_of_memory(error):
            raise
        where = ""
        if isinstance(error, FileNotFoundError) and reference.endswith(FILES):
            where = f"; lm-eval takes data_files from the current folder, {Path.cwd()}, or by their full path"
        if isinstance(error, StopIteration):  # datasets' own, of a file without rows
            where = "; its data may be empty"
        raise WsteerError(f"--task lm:{reference} cannot be loaded: {reason(error)}{where}") from error


def _check_runnable(reference: str, tasks: Mapping[str, Any]) -> None:
    for name, task in tasks.items():
        if getattr(task, "UNSAFE_CODE", False):
            raise WsteerError(f"--task lm:{reference}: {name} runs code that the model writes; wsteer does not")
        if getattr(task, "MULTIMODAL", False):
            raise WsteerError(f"--task lm:{reference}: {name} has images or sounds; give a task of text")


@contextlib.contextmanager
def _quiet() -> Iterator[Callable[[], AbstractContextManager[None]]]:
    """Nothing is printed or logged in the `with` body, except in the context that it gives.

    lm-eval, its tasks and the libraries of their data print, log, and draw bars that cannot be turned off.
    """
    out, err = sys.stdout, sys.stderr

    @contextlib.contextmanager
    def visible() -> Iterator[None]:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            yield

    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            contextlib.redirect_stdout(nowhere),
            contextlib.redirect_stderr(nowhere),
        ):
            yield visible
    finally:
        logging.disable(disabled)


def _seed() -> None:
    """Seed all random numbers as lm-eval does before it loads tasks."""
    random.seed(SEED)
    numpy.random.seed(FEWSHOT_SEED)
    torch.manual_seed(FEWSHOT_SEED)


@contextlib.contextmanager
def _numbers_kept() -> Iterator[None]:
    """After the `with` body random numbers go on as before it."""
    state, numpys = random.getstate(), numpy.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(state)
            numpy.random.set_state(numpys)
