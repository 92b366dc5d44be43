"""An experiment's commands as a user would type them, one after the other in its folder, which grows."""

import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.checkpoints.architecture import read_config
from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.demo import chain
from wsteer.demo.checking import Checked, Parse, check
from wsteer.demo.commands import OWN, TEXT, Parsed, uses_of
from wsteer.demo.estimates import Estimates, estimate
from wsteer.demo.experiment import SHIPPED, Experiment, commands
from wsteer.demo.finished import Finished, adopt, inside, is_experiment, read_finished, write_record
from wsteer.demo.memory import peak_memory, reset_peak, return_memory
from wsteer.demo.model import check_model, resolved, without_fetching
from wsteer.demo.plan import REPORT, Planned, model_of, plan
from wsteer.errors import Interrupted, WsteerError
from wsteer.files.provenance import RECORD, listed_files, record, recordable, source_entry
from wsteer.files.saving import check_output, growing_folder
from wsteer.progress import Note, Progress, silent, unsaid

RAN, UNCHANGED, LEFT_OUT = "ran", "unchanged", "left out"
# runs one command, given as arguments and as typed text; whether its gate may fail
Execute = Callable[[list[str], str, bool], None]


@dataclass(frozen=True)
class Done:
    """A step, and what became of it: it ran, was unchanged, or was left out, and `why`."""

    does: str
    command: str
    outcome: str
    why: str = ""
    seconds: float = 0.0
    peak_memory_gb: float = 0.0


@dataclass(frozen=True)
class DemoReport:
    """What an experiment did; `report` is its page, `chain` what the plain chain shows instead."""

    output: str
    experiment: str
    scale: str
    model: str
    steps: tuple[Done, ...]
    report: str | None
    chain: chain.Chain | None
    seconds: float
    peak_memory_gb: float


def demo(
    experiment: Experiment,
    scale: str,
    output: Path,
    execute: Execute,
    parse: Parse,
    model: str | None = None,
    follow_links: bool = False,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
    note: Note = unsaid,
    failed: Note = unsaid,
    foreseen: Callable[[Checked, Estimates], None] | None = None,
) -> DemoReport:
    """Run the experiment's commands in the folder `output`, with `model` instead of the file's.

    `execute` runs one command, `parse` reads a command line without running it; the commands are checked by it first.
    `resume` goes on in a folder that is there: only steps whose command, inputs or outputs changed run again. `failed`
    is told which step it was that failed, before its error is passed on; `foreseen` gets the estimates before any runs.
    """
    start = time.perf_counter()
    checked, estimates = dry_run(experiment, scale, output, parse, model)
    checked.refuse()
    if checked.missing:
        told = "; ".join(f"{os.path.normpath(output / each.path)}: {each.how}" for each in checked.missing)
        raise WsteerError(
            f"{experiment.name} needs data that do not come with wsteer; put there, and run again: {told}"
        )
    finished = _opened(output, resume, force, [experiment.path, *([] if model is None else [model])])
    finished.named = _named_by(parse)
    model = resolved(model_of(experiment, scale, model), progress)
    read_config(open_checkpoint(model))  # one that cannot be had is told before the folder is made
    if foreseen is not None:
        foreseen(checked, estimates)
    steps = plan(experiment, scale, model)
    source: dict[str, object] = {"role": "model", "path": recordable(model)}
    inputs = [source, source_entry("experiment", experiment.path)]
    own = {**record("demo", {"experiment": experiment.name, "scale": scale}, inputs), "steps": finished.entries}
    files = listed_files(output) - {RECORD} if output.exists() and not force else set()
    with growing_folder(output, force, own, sorted(files), resume), inside(output):
        if others := finished.others(steps):
            note(f"no step makes {', '.join(others)} any more; it is left as it is")
        run = _Run(steps, own, finished, execute, follow_links, note, failed)
        done = tuple(run.step(number) for number in range(1, len(steps) + 1))
    is_chain = experiment.name == chain.NAME and experiment.path.parent == SHIPPED
    return DemoReport(
        output=str(output),
        experiment=experiment.name,
        scale=scale,
        model=model,
        steps=done,
        report=str(output / REPORT) if experiment.findings else None,
        chain=chain.read_chain(output) if is_chain else None,
        seconds=round(time.perf_counter() - start, 1),
        peak_memory_gb=max([_peak_gb(), *(each.peak_memory_gb for each in done)]),
    )


def dry_run(
    experiment: Experiment, scale: str, output: Path, parse: Parse, model: str | None = None
) -> tuple[Checked, Estimates]:
    """The experiment's commands checked, and what they will need; nothing runs, and nothing is fetched."""
    name = without_fetching(model_of(experiment, scale, model))
    check_model(name)
    checked = check(commands(experiment, scale, name), experiment.bring, output, name, parse)
    stated = experiment.scales[scale].size if model is None else {}
    return checked, estimate(checked, output, name, stated, gpu=scale == "paper")


def _named_by(parse: Parse) -> Callable[[Planned], list[str]]:
    """What names a step's inputs as its command has them, also those that only a file of pairs or a task names."""
    parsed: dict[tuple[str, ...], Parsed] = {}

    def named(step: Planned) -> list[str]:
        words = step.command.words
        if words not in parsed:
            parsed[words] = parse(words, Path())
        return [each.name for each in uses_of(parsed[words], Path()).inputs if each.kind not in (OWN, TEXT)]

    return named


@dataclass(frozen=True)
class _Run:
    """The steps of one run, in the experiment's folder, with what is told of them."""

    steps: Sequence[Planned]
    record: dict
    finished: Finished
    execute: Execute
    follow_links: bool
    note: Note
    failed: Note

    def step(self, number: int) -> Done:
        """Run a step, unless it is left out, or nothing has changed since it ended."""
        step = self.steps[number - 1]
        where = f"step {number} of {len(self.steps)}"
        text = as_typed(step.command.words)
        if step.left_out is not None:
            self.note(f"{where} is left out, {step.name}: {step.left_out}")
            return Done(step.command.step.does, text, LEFT_OUT, step.left_out)
        try:
            if self.finished.is_unchanged(step):
                self.note(f"{where} is unchanged, {step.name}")
                return Done(step.command.step.does, text, UNCHANGED)
            self.note(f"{where}: {step.command.step.does}")
            return self._ran(step, where)
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted in {where}, {step.name}: go on with the same command and --resume"
            ) from None
        except BaseException:
            self.failed(f"{where} failed, {step.name}; once it is mended, go on with the same command and --resume")
            raise

    def _ran(self, step: Planned, where: str) -> Done:
        start = time.perf_counter()
        reset_peak()
        words = [*step.words(self.follow_links), *self.finished.options(step)]
        self.finished.begin(step)
        write_record(self.record, self.finished)
        self.execute(words, as_typed(words), step.command.step.gate)
        return_memory()
        self.finished.end(step)
        write_record(self.record, self.finished)
        seconds, peak = round(time.perf_counter() - start, 1), _peak_gb()
        self.note(f"{where} took {seconds} s, peak memory {peak} GB")
        return Done(step.command.step.does, as_typed(step.command.words), RAN, "", seconds, peak)


def _opened(output: Path, resume: bool, force: bool, inputs: Sequence[str | Path]) -> Finished:
    """What is finished in the folder, for `resume`; else nothing, once the folder may be made."""
    is_ours = is_experiment(output)
    if resume and (is_ours or output.exists()):
        return read_finished(output)
    if is_ours and not force:
        raise WsteerError(
            f"output {output} exists and holds an experiment: go on with --resume, replace it with --force, or name "
            "another with -o"
        )
    if is_ours:
        adopt(output)
    check_output(output, force, folder=True, inputs=inputs)
    return Finished()


def as_typed(words: Sequence[str]) -> str:
    """The command as one would type it, the home folder as `~`."""
    home = str(Path.home())
    typed = [shlex.quote(word) for word in words]
    return " ".join(
        ["wsteer", *("~" + word.removeprefix(home) if word.startswith(home + "/") else word for word in typed)]
    )


def _peak_gb() -> float:
    return round(peak_memory() / 1e9, 2)
