"""Tasks under each condition, the model loaded once: what deltas, prompts and checkpoints change, and at what cost."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os.path import isfile  # a Path raises for a text that is too long for a name
from pathlib import Path

from wsteer.deltas.model_input import open_model
from wsteer.errors import WsteerError
from wsteer.evaluation.choosing import parse_choice
from wsteer.evaluation.compared import Added, By, Compared, texts
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.gates import Gates
from wsteer.evaluation.inspection.inspection import check_judges
from wsteer.evaluation.inspection.inspection import run as run_inspect
from wsteer.evaluation.methods import open_methods, placed
from wsteer.evaluation.pieces import Pieces
from wsteer.evaluation.presentation.outputs import ROWS, SAMPLES, write_outputs
from wsteer.evaluation.results import Criteria, EvalReport
from wsteer.evaluation.rows import Outcome, joined, write_rows
from wsteer.evaluation.runners import Runner, Tasks
from wsteer.evaluation.subject import Subject, common_settings
from wsteer.files.provenance import RECORD, key, record, recordable, source_entry
from wsteer.files.saving import check_output, mark_work, new_folder
from wsteer.files.text import write_json, write_jsonl
from wsteer.models.arguments import check_count, check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import with_template_of
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.loading import load
from wsteer.steering.rounding import Rounding

BATCH_SIZE = 32  # rows that run at once by default


def evaluate(
    model: str | Path,
    output: str | Path,
    task: str | Sequence[str],
    *,
    delta: str | Path | Added | Sequence[str | Path | Added] = (),
    ks: float | Sequence[float] | None = None,
    layers: Sequence[int] | str | None = None,
    variant: str | None = None,
    positions: str = "response",
    checkpoints: str | Path | Sequence[str | Path] = (),
    system: str | Sequence[str] = (),
    controls: str | Sequence[str] = (),
    attribute: By | None = None,
    calibrate: float | None = None,
    judges: str | Sequence[str] = (),
    task_args: Mapping[str, object] | None = None,
    choose: str | None = None,
    fail_below: Mapping[str, float] | None = None,
    fail_above: Mapping[str, float] | None = None,
    max_unscored: float = 0.05,
    data: str | Path | None = None,
    limit: int | None = None,
    template: str | Path | None = None,
    template_args: Mapping[str, object] | None = None,
    date: str | None = None,
    batch_size: int = BATCH_SIZE,
    device: str = "auto",
    dtype: str = "auto",
    rounding: str = "auto",
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
) -> EvalReport:
    """Evaluate `model` on tasks as it is, and under every condition that the other options name.

    A `task` is built in, a YAML file, `lm:` and a task of lm-evaluation-harness, or `inspect:` and a task of inspect,
    which gets those of the `task_args` (by `NAME`, or `TASK.NAME` for one task alone) that it takes.
    Each `delta` is added k times for every k of `ks`; it is a path, or `Added`, which may give it a name, layers or a
    variant of its own. `checkpoints` are training folders, whose checkpoints are evaluated each; `system` are texts or
    files of system prompts; `controls` ("random", "shuffled") are added like every delta. With a change of weights the
    answers equal those of a checkpoint that `steer` writes with that k, rounding and seed, bit for bit.

    The folder `output` gets rows.jsonl, of which all else is computed, results.json and .csv, pictures and report.html.
    Finished pieces of an interrupted run stay, and with `resume` the run goes on behind them.
    """
    wanted = Rounding(rounding, seed)
    check_run(batch_size, device, dtype)
    check_count("limit", 1 if limit is None else limit)
    chat_format = ChatFormat(template, template_args, date)
    compared = Compared.of(delta, ks, layers, variant, checkpoints, system, controls, positions, attribute, calibrate)
    judged_by = texts(judges)
    criteria = Criteria(
        parse_choice(choose) if choose is not None else None,
        Gates(fail_above or {}, fail_below or {}),
        max_unscored,
        seed,
    )
    output, opened = Path(output), open_model(model)
    tasks = Tasks.of(texts(task), data, limit, task_args or {})
    if judged_by and not tasks.inspect:
        raise WsteerError("--judge grades inspect's tasks, and --task names none, as inspect:FILE.py")
    if tasks.measures is not None:
        criteria.check_names(tasks.measures)
    compared = placed(compared, opened.checkpoint)
    methods = open_methods(opened.checkpoint, compared, seed)
    inputs = [*opened.folders, *methods.paths, *(path for _, path in tasks.files), *chat_format.files]
    check_output(output, force, folder=True, inputs=inputs, resume=resume)
    check_judges(judged_by, model)
    loaded = load(opened, device, dtype, chat_format=chat_format)
    for folder in methods.folders:
        loaded = with_template_of(folder, loaded, chat_format)
    settings = common_settings(loaded, wanted)
    if calibrate is not None:
        methods = methods.at_kl(Subject(loaded, {}, batch_size, seed), settings, tasks.chats(), calibrate, progress)
    added = methods.conditions(**settings)
    conditions = list(added)
    subject = Subject(loaded, {c.name: delta for c, delta in added.items() if delta is not None}, batch_size, seed)
    subject.check_vectors(conditions)
    asked = {"limit": limit, "batch_size": batch_size, **loaded.chat.recorded}
    options = {
        "task": [recordable(each) for each in texts(task)],
        "data": recordable(data) if data is not None else None,
        **compared.recorded,
        "task_args": {
            name: recordable(value) if isinstance(value, str) and isfile(value) else value
            for name, value in (task_args or {}).items()
        },
        "judge": judged_by,
        "choose": choose,
        "max_unscored": max_unscored,
        **settings,
        **asked,
    }
    sources = [*loaded.entries("model"), *chat_format.inputs, *(given.source for given in methods.inputs)]
    sources += [*(source_entry("system", path) for path in methods.files), *tasks.sources]
    weights = [_state(path) for path in opened.checkpoint.shards]
    same = [weights, loaded.model.device.type, record("eval", asked, [])]  # what all pieces depend on
    with new_folder(output, force, key(same), resume) as folder:
        pieces = Pieces(folder)
        pieces.remove_results()
        found = joined(
            [
                *_answered(subject, conditions, tasks.runners(subject), pieces, progress),
                *_inspected(subject, conditions, tasks, judged_by, folder, progress),
            ]
        )
        written = record("eval", options, sources)
        findings = criteria.findings(found, conditions, written, methods.warnings, methods.notes)
        write_rows(folder / ROWS, found.rows)
        write_jsonl(folder / SAMPLES, found.samples)
        for name, content in found.files.items():
            write_json(folder / name, content)
        write_outputs(folder, findings)
        write_json(folder / RECORD, written)
        pieces.remove()
    return criteria.report(output, findings)


def _answered(
    subject: Subject,
    conditions: Sequence[Condition],
    runners: Sequence[Runner],
    pieces: Pieces,
    progress: Progress,
) -> list[Outcome]:
    """The outcomes of all tasks that run under one condition after the other; what is finished is read."""
    outcomes = []
    warned: dict[str, list[str]] = {}  # the conditions of each warning
    for condition in conditions:
        found = {runner: outcome for runner in runners if (outcome := pieces.read(runner.key, condition)) is not None}
        if len(found) < len(runners):
            with subject.under(condition):
                for runner in runners:
                    if runner not in found:
                        found[runner] = _run(runner, condition, progress)
                        pieces.write(runner.key, condition, found[runner])
        for runner in runners:
            outcomes.append(replace(found[runner], warnings=()))
            for warning in found[runner].warnings:
                warned.setdefault(warning, []).append(condition.label)
    every = len(conditions)
    said = (text if len(labels) == every else f"{', '.join(labels)}: {text}" for text, labels in warned.items())
    return [*outcomes, Outcome((), (), tuple(said))]


def _inspected(
    subject: Subject,
    conditions: Sequence[Condition],
    tasks: Tasks,
    judges: Sequence[str],
    folder: Path,
    progress: Progress,
) -> list[Outcome]:
    """The outcome of inspect's tasks, which run under all conditions at once; inspect goes on behind its logs."""
    if not tasks.inspect:
        return []
    mark_work(folder)
    return [
        run_inspect(
            tasks.inspect,
            subject,
            conditions,
            judges,
            folder,
            task_args=tasks.task_args,
            limit=tasks.limit,
            progress=progress,
        )
    ]


def _run(runner: Runner, condition: Condition, progress: Progress) -> Outcome:
    """The outcome of a task under a condition, which errors name."""
    try:
        return runner.run(condition, labelled(progress, condition.label))
    except WsteerError as error:
        raise WsteerError(f"{condition.label}: {error}") from error


def _state(path: Path) -> tuple[str, int, int]:
    """What tells whether a weight file is as it was when a piece was made, without reading it."""
    found = path.stat()
    return path.name, found.st_size, found.st_mtime_ns
