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
from wsteer.training.finetune import FinetuneReport, RunOptions, finetune_once, read_sets, run_record
from wsteer.training.processes import shared_folder
from wsteer.training.recipe import Recipe
from wsteer.training.rows import parse_sources
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
    if not seeds or len(set(seeds)) < len(seeds):
        raise WsteerError(f"--seeds {','.join(map(str, seeds))}: name one seed or more, each once")
    output, sources, given = Path(output), parse_sources(data), RunOptions(**options)
    check_output(output, force, folder=True, inputs=given.read(base, sources), resume=resume)
    chats = read_sets(sources, given)
    record = run_record(open_checkpoint(base), recipe, sources, given, given.dtype, seed=list(seeds))
    reports = []
    with shared_folder(output, force, record, resume) as partial:
        for seed in seeds:
            folder, kept = partial / f"seed-{seed}", partial / REPORTS / f"seed-{seed}.json"
            finished = kept.exists()
            processes.wait()  # all must look before the first process writes
            if finished:
                with sound_state(kept):
                    report = FinetuneReport(**read_json(kept))
            else:
                stages, of_seed = labelled(progress, f"seed {seed}"), replace(recipe, seed=seed)
                report = finetune_once(base, sources, folder, of_seed, given, True, False, stages, note, chats)
                _keep(partial, kept, report)
            reports.append(report)
        processes.wait()
        if processes.is_first():
            shutil.rmtree(partial / REPORTS)
            write_json(partial / RECORD, record)
    runs = tuple(replace(each, output=str(output / f"seed-{seed}")) for each, seed in zip(reports, seeds, strict=True))
    warnings = tuple(f"seed {seed}: {text}" for each, seed in zip(runs, seeds, strict=True) for text in each.warnings)
    return SeedsReport(str(output), tuple(seeds), runs, warnings)


def _keep(partial: Path, path: Path, report: FinetuneReport) -> None:
    if processes.is_first():
        path.parent.mkdir(exist_ok=True)
        write_json(path, asdict(report))
        mark_work(partial)
