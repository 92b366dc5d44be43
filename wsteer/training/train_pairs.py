"""Both sides of many named pairs trained on one load of the base, and their differences, in one folder that grows."""

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.deltas.adapters.reading import MUTATING_INITS
from wsteer.deltas.diff import DiffReport, diff
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, source_entry
from wsteer.files.saving import check_free_space, check_input, check_output, growing_folder
from wsteer.files.text import read_json
from wsteer.progress import Note, Progress, labelled, silent, unsaid
from wsteer.training import methods, processes
from wsteer.training.finetune import (
    FinetuneReport,
    RunOptions,
    Sets,
    check_options,
    checked_examples,
    finetune_once,
    loaded_record,
    read_sets,
    run_record,
)
from wsteer.training.finished import REPORTS, Finished, changed, of_json
from wsteer.training.pairs import SIDES, Pair, pairs_of
from wsteer.training.recipe import Recipe
from wsteer.training.restoring import restored
from wsteer.training.rows import Source
from wsteer.training.seeds import SeedsReport, check_seeds, finetune_each, seeds_record
from wsteer.training.trainer import plan, sound_state

W = "w.safetensors"
W_FIELDS = {field.name for field in fields(DiffReport)}


@dataclass(frozen=True)
class PairReport:
    """A pair: what was trained on each side, and w, the difference of the two."""

    name: str
    pos: FinetuneReport | SeedsReport
    neg: FinetuneReport | SeedsReport
    w: DiffReport


@dataclass(frozen=True)
class PairsReport:
    """What `finetune_pairs` wrote; `kept` names the sides that an earlier run had finished, as `evil/pos`."""

    output: str
    pairs: tuple[PairReport, ...]
    kept: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def finetune_pairs(
    base: str | Path,
    pairs: str | Path | Sequence[str | Path],
    output: str | Path,
    recipe: Recipe | None = None,
    *,
    seeds: Sequence[int] | None = None,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
    note: Note = unsaid,
    **options: Any,
) -> PairsReport:
    """`finetune` on both sides of each of the `pairs`, and `diff` of the two.

    `pairs` is a YAML file that names them, or folders, each a pair's, with pos.jsonl and neg.jsonl.

    `output` gets `NAME/pos` and `NAME/neg`, with the bytes of separate runs, and `NAME/w.safetensors`, that of `diff`.
    All data are checked before the first step. The base is loaded once; again only for a method that changes its own
    weights. With `seeds` a side is a folder of seeds, as `finetune_seeds` writes it. With `resume` what is finished in
    `output` stays, and the file may have got more pairs; a side of other data or options is an error, unless `force`
    may train it again. `options` are those of `RunOptions`.
    """
    recipe, given, output = recipe or Recipe(), RunOptions(**options), Path(output)
    if seeds is not None:
        check_seeds(seeds)
    paths = [pairs] if isinstance(pairs, str | Path) else list(pairs)
    named = pairs_of(paths)
    sources = [source for pair in named for side in SIDES for source in pair.sides[side]]
    earlier = _earlier(output, resume, force, [*paths, *given.read(base, sources)])
    check_options(recipe, given)
    sides = _sides(named, read_sets(sources, given))
    warnings = _check_data(sides)
    runs = _Runs(base, recipe, given, tuple(seeds) if seeds is not None else None, progress, note)
    record = runs.folder_record(paths, named)
    if earlier and not force and (change := changed(earlier, record, beside=("pairs",))):
        raise WsteerError(f"{output} was trained otherwise: {change}; name another output with -o")
    needed = {side.label: runs.check(side) for side in progress(sides, "check data")}
    finished = Finished(output, earlier is not None)
    kept = [each.label for each in sides if finished.report(each.label, runs.record(each), force) is not None]
    check_free_space(output, sum(size for label, size in needed.items() if label not in kept))
    with _growing(output, force, record, finished.files(), earlier is not None):
        for pair in named:
            label = f"{pair.name}/{W}"
            to_train = [side for side in sides if side.pair == pair.name and side.label not in kept]
            if to_train and processes.is_first():
                (output / label).unlink(missing_ok=True)  # an interruption must not leave it beside other sides
            for side in to_train:
                with finished.going_on(side.label):
                    finished.keep(side.label, asdict(runs.train(side, output, force)))
            if processes.is_first() and not finished.is_whole(label, W_FIELDS):
                with finished.going_on(label):
                    finished.keep(label, asdict(runs.subtract(output / pair.name)))
    finished = Finished(output, earlier=True)  # the differences too, which the first process alone has made
    reports = tuple(_report(output, pair.name, finished) for pair in named)
    return PairsReport(str(output), reports, tuple(kept), (*warnings, *_warnings(reports)))


@dataclass(frozen=True)
class _Side:
    """The data of one side of a pair."""

    pair: str
    side: str
    sources: tuple[Source, ...]
    chats: Sets

    @property
    def label(self) -> str:
        """The side's folder in the output, as `evil/pos`."""
        return f"{self.pair}/{self.side}"


class _Runs:
    """How each side is checked, trained and recorded, all on one base."""

    def __init__(
        self,
        base: str | Path,
        recipe: Recipe,
        options: RunOptions,
        seeds: tuple[int, ...] | None,
        progress: Progress,
        note: Note,
    ) -> None:
        self.base = base
        self.recipe = recipe
        self.options = options
        self.seeds = seeds
        self.progress = progress
        self.note = note
        self.shared = options.shared_base(base, recipe)

    def folder_record(self, given: Sequence[str | Path], named: Sequence[Pair]) -> dict:
        """The record of the folder that holds all pairs. Folders that were given have their files in each side's."""
        seed = self.recipe.seed if self.seeds is None else list(self.seeds)
        names = [pair.name for pair in named]
        dtype = self.options.dtype
        made = run_record(open_checkpoint(self.base), self.recipe, (), self.options, dtype, seed=seed, pairs=names)
        files = [source_entry("pairs", path) for path in given if not Path(path).is_dir()]
        return {**made, "inputs": [*made["inputs"], *files]}

    def record(self, side: _Side) -> dict:
        """The record of a side's folder."""
        if self.seeds is not None:
            return seeds_record(self.base, self.recipe, side.sources, self.options, self.seeds)
        return loaded_record(self.shared.loaded, self.recipe, side.sources, self.options)

    def check(self, side: _Side) -> int:
        """Check that the model can read a side's rows; the bytes that it and its part of the difference will need."""
        recipe, every = self.recipe, self.options.save_every
        if self.seeds is not None:
            recipe = replace(recipe, seed=self.seeds[0])
        try:
            examples = checked_examples(self.shared.loaded, side.sources, side.chats, recipe, self.options)
        except WsteerError as error:
            raise WsteerError(f"{side.label}: {error}") from error
        steps = plan(examples.train, recipe).steps
        folders = 2 + (steps // every if every else 0)  # the result, the difference, saved steps
        return self.bytes * folders * len(self.seeds or (0,))

    @functools.cached_property
    def bytes(self) -> int:
        """The size of a fine-tune's result, in float32."""
        model, recipe = self.shared.loaded.model, self.recipe
        if recipe.method == "full":
            return 4 * sum(parameter.numel() for parameter in model.parameters())
        folded = recipe.init in MUTATING_INITS  # which take long, and are written as twice the rank
        with restored(model):
            tuned = methods.prepare(self.shared.loaded, self.base, replace(recipe, init=None) if folded else recipe)
            count = sum(parameter.numel() for parameter in methods.trained_parameters(tuned).values())
        return 4 * count * (2 if folded else 1)

    def train(self, side: _Side, output: Path, force: bool) -> FinetuneReport | SeedsReport:
        """Train a side; what is in its place has been found to be replaceable."""
        folder, progress = output / side.label, labelled(self.progress, side.label)
        force = force or folder.exists()

        def note(text: str) -> None:
            self.note(f"{side.label}: {text}")

        given = (self.shared, self.base, side.sources, folder, self.recipe, self.options)
        title = f"{side.pair}-{side.side}"
        if self.seeds is not None:
            return finetune_each(*given, self.seeds, True, force, progress, note, side.chats, title)
        return finetune_once(*given, True, force, progress, note, side.chats, title)

    def subtract(self, folder: Path) -> DiffReport:
        """Write a pair's difference; of checkpoints against the base, so that each side's own change is known."""
        base = self.base if self.recipe.method == "full" else None
        progress = labelled(self.progress, folder.name)
        pos, neg = (folder / side for side in SIDES)
        return diff(pos, neg, folder / W, base=base, force=True, progress=progress)


def _earlier(output: Path, resume: bool, force: bool, inputs: Sequence[str | Path]) -> dict | None:
    """The record of the folder of pairs that `resume` goes on with; None for a new folder, once it may be written."""
    earlier = read_json(output / RECORD) if (output / RECORD).is_file() else {}
    options = earlier.get("options")
    of_pairs = isinstance(options, dict) and "pairs" in options
    if of_pairs and not resume and not force:
        raise WsteerError(
            f"output {output} holds pairs: go on with them, or add pairs, with --resume; --force trains all anew"
        )
    if not (of_pairs and resume):
        check_output(output, force, folder=True, inputs=inputs, resume=resume)
        return None
    for given in inputs:
        check_input(output, Path(given))
    return earlier


def _sides(named: Sequence[Pair], sets: Sets) -> list[_Side]:
    """The sides in order, each with the chats of its sources."""
    read = iter(sets[0])
    return [
        _Side(pair.name, side, pair.sides[side], ([next(read) for _ in pair.sides[side]], sets[1]))
        for pair in named
        for side in SIDES
    ]


def _check_data(sides: Sequence[_Side]) -> list[str]:
    """Refuse a pair of equal sides, whose difference is zero; a warning for each two pairs of the same data."""
    data: dict[str, list[str]] = {}
    for side in sides:
        entries = [(source_entry("data", source.path), source.weight) for source in side.sources]
        known = sorted(f"{entry['sha256'] or entry['path']} {weight:g}" for entry, weight in entries)
        data.setdefault(side.pair, []).append(" ".join(known))
    warnings = []
    seen: dict[tuple[str, ...], str] = {}
    for name, two in data.items():
        if two[0] == two[1]:
            raise WsteerError(f"pair {name} has the same data as pos and as neg, so that their difference is zero")
        if (other := seen.setdefault(tuple(two), name)) != name:
            warnings.append(f"{other} and {name} have the same data: their cosine is 1")
    return warnings


@contextlib.contextmanager
def _growing(output: Path, force: bool, record: dict, names: Sequence[str], resume: bool) -> Iterator[None]:
    """The output folder, which the first process makes."""
    processes.wait()  # all must look before it writes
    with contextlib.ExitStack() as stack:
        if processes.is_first():
            stack.enter_context(growing_folder(output, force, record, names, resume))
        processes.wait()
        yield
        processes.wait()


def _report(output: Path, name: str, finished: Finished) -> PairReport:
    """A pair's report, from those that are kept: of this run, or of an earlier one under another path."""
    with sound_state(output / REPORTS):
        pos, neg = (_of_side(finished.reports[f"{name}/{side}"], output / name / side) for side in SIDES)
        w = DiffReport(**of_json(finished.reports[f"{name}/{W}"], output / name / W))
    return PairReport(name, pos, neg, w)


def _of_side(report: dict[str, Any], folder: Path) -> FinetuneReport | SeedsReport:
    values = of_json(report, folder)
    if "seeds" not in values:
        return FinetuneReport(**values)
    seeds = [FinetuneReport(**of_json(run, folder / Path(run["output"]).name)) for run in report["runs"]]
    return SeedsReport(**{**values, "runs": tuple(seeds)})


def _warnings(reports: Sequence[PairReport]) -> Iterator[str]:
    """The warnings of all parts, each with the part's name."""
    for each in reports:
        for part, report in (("pos", each.pos), ("neg", each.neg), (W, each.w)):
            yield from (f"{each.name}/{part}: {text}" for text in report.warnings)
