"""Tasks under each condition, the model loaded once: what deltas, prompts and checkpoints change, and at what cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wsteer.deltas.model_input import open_model
from wsteer.errors import WsteerError
from wsteer.evaluation.attribution import By
from wsteer.evaluation.choosing import choose as choose_from
from wsteer.evaluation.choosing import parse_choice
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.gates import Gates
from wsteer.evaluation.inspection.inspection import check_judges
from wsteer.evaluation.inspection.inspection import run as run_inspect
from wsteer.evaluation.methods import Added, open_methods
from wsteer.evaluation.pieces import Pieces
from wsteer.evaluation.presentation.outputs import write_outputs
from wsteer.evaluation.presentation.page import Findings
from wsteer.evaluation.results import EvalReport
from wsteer.evaluation.rows import Outcome, joined, write_rows
from wsteer.evaluation.runners import Runner, Tasks
from wsteer.evaluation.subject import Subject
from wsteer.evaluation.summary import mostly_abstained, summarise, unscored
from wsteer.files.provenance import RECORD, key, record, recordable, source_entry
from wsteer.files.saving import check_output, mark_work, new_folder
from wsteer.files.text import write_json, write_jsonl
from wsteer.models.arguments import check_count, check_run
from wsteer.models.chat import ChatFormat
from wsteer.models.loading import dtype_name, with_template_of
from wsteer.progress import Progress, labelled, silent
from wsteer.steering.combination import check_k
from wsteer.steering.loading import load
from wsteer.steering.rounding import Rounding

ROWS = "rows.jsonl"

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

    A `task` is built in, a YAML file, `lm:` and a task of lm-evaluation-harness, or `inspect:` and a task of inspect.
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
    deltas = [delta] if isinstance(delta, str | Path | Added) else delta
    added = [_with_defaults(each, layers, variant) for each in deltas]
    if not added:
        _check_unused(k=ks, layers=layers, variant=variant, control=controls, calibrate=calibrate, attribute=attribute)
    ks = _checked(ks, calibrate, attribute)
    rule = parse_choice(choose) if choose is not None else None
    gates = Gates(fail_above or {}, fail_below or {})
    output, opened = Path(output), open_model(model)
    tasks = Tasks.of(_texts(task), data, limit)
    for named in (gates, rule):
        if named is not None and tasks.measures is not None:
            named.check_names(tasks.measures)
    if judges and not tasks.inspect:
        raise WsteerError("--judge grades inspect's tasks, and --task names none, as inspect:FILE.py")
    methods = open_methods(
        opened.checkpoint,
        added,
        ks,
        checkpoints=_texts(checkpoints),
        systems=_texts(system),
        controls=_texts(controls),
        positions=positions,
        attribute=attribute,
        seed=seed,
    )
    inputs = [*opened.folders, *methods.paths, *(path for _, path in tasks.files)]
    check_output(output, force, folder=True, inputs=[*inputs, *chat_format.files], resume=resume)
    check_judges(_texts(judges), model)
    loaded = load(opened, device, dtype, chat_format=chat_format)
    for folder in methods.folders:
        loaded = with_template_of(folder, loaded, chat_format)
    settings = {
        "model": key(loaded.entries("model")),
        "rounding": wanted.mode,
        "seed": wanted.seed,
        "dtype": dtype_name(loaded),
    }
    if calibrate is not None:
        methods = methods.at_kl(Subject(loaded, {}, batch_size, seed), settings, tasks.chats(), calibrate, progress)
    conditions = methods.conditions(**settings)
    subject = Subject(loaded, {c.name: delta for c, delta in conditions.items() if delta is not None}, batch_size, seed)
    _check_vectors(subject, list(conditions))
    asked = {"limit": limit, "batch_size": batch_size, **loaded.chat.recorded}
    options = {
        "task": [recordable(each) for each in _texts(task)],
        "data": recordable(data) if data is not None else None,
        "delta": [_recorded(each) for each in added],
        "k": list(ks) if added and calibrate is None else None,
        "positions": positions,
        "checkpoints": [recordable(each) for each in _texts(checkpoints)],
        "system": [recordable(each) for each in _texts(system)],
        "control": _texts(controls),
        "attribute": attribute,
        "calibrate": calibrate,
        "judge": _texts(judges),
        "choose": choose,
        "max_unscored": max_unscored,
        **settings,
        **asked,
    }
    sources = [*loaded.entries("model"), *chat_format.inputs, *(given.source for given in methods.inputs)]
    sources += [source_entry("system", path) for path in methods.files]
    sources += tasks.sources
    weights = [_state(path) for path in opened.checkpoint.shards]
    same = [weights, loaded.model.device.type, record("eval", asked, [])]  # what all pieces depend on
    with new_folder(output, force, key(same), resume) as folder:
        pieces = Pieces(folder)
        pieces.remove_results()
        outcomes = _answered(subject, list(conditions), tasks.runners(subject), pieces, progress)
        if tasks.inspect:
            mark_work(folder)  # its logs are work: inspect goes on behind them
            judged = run_inspect(
                tasks.inspect, subject, list(conditions), _texts(judges), folder, limit=limit, progress=progress
            )
            outcomes.append(judged)
        found = joined(outcomes)
        written = record("eval", options, sources)
        estimates = summarise(found.rows, found.measures, list(conditions))
        choice = choose_from(found.rows, found.measures, list(conditions), rule, seed) if rule is not None else None
        gates.check_names(found.measures)
        findings = Findings(
            found.rows,
            found.measures,
            list(conditions),
            estimates,
            written,
            warnings=(
                *methods.warnings,
                *found.warnings,
                *mostly_abstained(estimates, list(conditions)),
                *(choice.warnings if choice is not None else ()),
            ),
            choice=choice,
            notes=methods.notes,
        )
        write_rows(folder / ROWS, found.rows)
        write_jsonl(folder / "samples.jsonl", found.samples)
        for name, content in found.files.items():
            write_json(folder / name, content)
        write_outputs(folder, findings)
        write_json(folder / RECORD, written)
        pieces.remove()
    lost = tuple(f"{line}; see {output / ROWS}" for line in unscored(estimates, list(conditions), max_unscored))
    return EvalReport(str(output), findings, lost, tuple(gates.failures(estimates, found.measures, list(conditions))))


def _answered(
    subject: Subject,
    conditions: Sequence[Condition],
    runners: Sequence[Runner],
    pieces: Pieces,
    progress: Progress,
) -> list[Outcome]:
    """The outcomes of all tasks that run under one condition after the other; what is finished is read."""
    outcomes = []
    for condition in conditions:
        found = {runner: outcome for runner in runners if (outcome := pieces.read(runner.key, condition)) is not None}
        if len(found) < len(runners):
            with subject.under(condition):
                for runner in runners:
                    if runner not in found:
                        found[runner] = _run(runner, condition, progress)
                        pieces.write(runner.key, condition, found[runner])
        outcomes += [found[runner] for runner in runners]
    return outcomes


def _run(runner: Runner, condition: Condition, progress: Progress) -> Outcome:
    """The outcome of a task under a condition, which warnings and errors name."""
    try:
        found = runner.run(condition, labelled(progress, condition.label))
    except WsteerError as error:
        raise WsteerError(f"{condition.label}: {error}") from error
    return replace(found, warnings=tuple(f"{condition.label}: {warning}" for warning in found.warnings))


def _check_vectors(subject: Subject, conditions: Sequence[Condition]) -> None:
    """Refuse what the model cannot add before any answer: hooks cost nothing to set."""
    for condition in conditions:
        if condition.positions is not None:
            with subject.under(condition):
                pass


def _texts(given: str | Path | Sequence[str | Path]) -> list[str]:
    """What was given as a list of texts: a text or a path alone is one of them."""
    return [str(given)] if isinstance(given, str | Path) else [str(each) for each in given]


def _with_defaults(given: str | Path | Added, layers: Sequence[int] | str | None, variant: str | None) -> Added:
    """What is added, with the layers and the variant of all where it has none of its own."""
    added = given if isinstance(given, Added) else Added(given)
    own = added.layers is not None or added.variant is not None
    return added if own else replace(added, layers=layers, variant=variant)


def _recorded(added: Added) -> dict[str, object]:
    layers = list(added.layers) if isinstance(added.layers, tuple | list) else added.layers
    return {"path": recordable(added.reference), "name": added.name, "layers": layers, "variant": added.variant}


def _state(path: Path) -> tuple[str, int, int]:
    """What tells whether a weight file is as it was when a piece was made, without reading it."""
    found = path.stat()
    return path.name, found.st_size, found.st_mtime_ns


def _check_unused(**options: object) -> None:
    """Refuse options that say what to do with a delta where there is none."""
    for name, value in options.items():
        if value is not None and value != () and value != []:
            raise WsteerError(f"--{name} needs a --delta")


def _checked(ks: float | Sequence[float] | None, calibrate: float | None, attribute: By | None) -> list[float]:
    """The coefficients, of which there is one or more; a number alone is one."""
    if calibrate is not None:
        if ks is not None:
            raise WsteerError("--calibrate finds the k of each delta; leave out --k")
        if attribute is not None:
            raise WsteerError("--attribute compares parts at one k; leave out --calibrate, or give its k with --k")
        if not calibrate > 0 or not math.isfinite(calibrate):
            raise WsteerError(f"calibrate is {calibrate!r}; a KL is a positive number of nats")
    found = [1.0] if ks is None else [ks] if isinstance(ks, int | float) else list(ks)
    if not found:
        raise WsteerError("ks names no k; give one or more, as (-1, 1)")
    for k in found:
        check_k(k)
    return found
