"""One fine-tune per seed, in one folder: the mean of their deltas depends less on the chance of one seed."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD
from wsteer.files.saving import check_output, mark_work
from wsteer.files.text import read_json, write_json
from wsteer.progress import Note, Progress, labelled, silent, unsaid
from wsteer.training import processes
from wsteer.training.finetune import (
    FinetuneReport,
    RunOptions,
    Sets,
    finetune_once,
    read_sets,
    run_record,
)
from wsteer.training.finished import of_json
from wsteer.training.processes import shared_folder
from wsteer.training.recipe import Recipe
from wsteer.training.restoring import SharedBase
from wsteer.training.rows import Source, parse_sources
from wsteer.training.trainer import sound_state

REPORTS = "reports"  # of finished seeds, for `--resume`; a finished output does not have it


@dataclass(frozen=True)
class SeedsReport:
    """What `finetune_seeds` wrote: `output` holds a folder `seed-N` for each of `seeds`, whose reports are `runs`."""

    output: str
    seeds: tuple[int, ...]
    runs: tuple[FinetuneReport, ...]
    warnings: tuple[str, ...] = ()


def finetune_seeds(
    base: str | Path,
    data: str | Path | Sequence[str | Path],
    output: str | Path,
    recipe: Recipe,
    seeds: Sequence[int],
    *,
    resume: bool = False,
    force: bool = False,
    progress: Progress = silent,
    note: Note = unsaid,
    **options: Any,
) -> SeedsReport:
    """`finetune` once for each seed, into `seed-N` folders of `output`; `options` are those of `RunOptions`.

    A seed's folder has the same bytes as a run of that seed alone.
    """
    check_seeds(seeds)
    sources, given = parse_sources(data), RunOptions(**options)
    shared = given.shared_base(base, recipe)
    return finetune_each(
        shared, base, sources, Path(output), recipe, given, tuple(seeds), resume, force, progress, note
    )


def finetune_each(
    shared: SharedBase,
    base: str | Path,
    sources: Sequence[Source],
    output: Path,
    recipe: Recipe,
    options: RunOptions,
    seeds: tuple[int, ...],
    resume: bool,
    force: bool,
    progress: Progress,
    note: Note,
    chats: Sets | None = None,
    title: str = "",
) -> SeedsReport:
    """`finetune_seeds` on a `shared` base; `chats` and `title` as for `finetune_once`."""
    check_output(output, force, folder=True, inputs=options.read(base, sources), resume=resume)
    chats = chats or read_sets(sources, options)
    record = seeds_record(base, recipe, sources, options, seeds)
    reports = []
    with shared_folder(output, force, record, resume) as partial:
        for seed in seeds:
            folder, kept = partial / f"seed-{seed}", partial / REPORTS / f"seed-{seed}.json"
            finished = kept.exists()
            processes.wait()  # all must look before the first process writes
            if finished:
                with sound_state(kept):
                    report = FinetuneReport(**of_json(read_json(kept), folder))
            else:
                stages, of_seed = labelled(progress, f"seed {seed}"), replace(recipe, seed=seed)
                named = f"{title}-seed-{seed}" if title else ""
                report = finetune_once(
                    shared, base, sources, folder, of_seed, options, True, False, stages, note, chats, named
                )
                _keep(partial, kept, report)
            reports.append(report)
        processes.wait()
        if processes.is_first():
            shutil.rmtree(partial / REPORTS)
            write_json(partial / RECORD, record)
    runs = tuple(replace(each, output=str(output / f"seed-{seed}")) for each, seed in zip(reports, seeds, strict=True))
    warnings = tuple(f"seed {seed}: {text}" for each, seed in zip(runs, seeds, strict=True) for text in each.warnings)
    return SeedsReport(str(output), seeds, runs, warnings)


def check_seeds(seeds: Sequence[int]) -> None:
    """Refuse no seed, and one that stands twice."""
    if not seeds or len(set(seeds)) < len(seeds):
        raise WsteerError(f"--seeds {','.join(map(str, seeds))}: name one seed or more, each once")


def seeds_record(
    base: str | Path, recipe: Recipe, sources: Sequence[Source], options: RunOptions, seeds: Sequence[int]
) -> dict:
    """The record of a folder of seeds; each seed has one of its own."""
    return run_record(open_checkpoint(base), recipe, sources, options, options.dtype, seed=list(seeds))


def _keep(partial: Path, path: Path, report: FinetuneReport) -> None:
    if processes.is_first():
        path.parent.mkdir(exist_ok=True)
        write_json(path, asdict(report))
        mark_work(partial)
