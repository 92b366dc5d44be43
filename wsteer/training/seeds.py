"""One fine-tune a seed, side by side in one folder: their mean delta is less of one seed's chance."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from wsteer.checkpoints.checkpoint import open_checkpoint
from wsteer.errors import WsteerError
from wsteer.files.provenance import RECORD, record, source_entry
from wsteer.files.saving import check_output
from wsteer.files.text import read_json, write_json
from wsteer.progress import Track, labelled, silent
from wsteer.training import processes
from wsteer.training.finetune import FinetuneReport, finetune
from wsteer.training.processes import shared_folder
from wsteer.training.recipe import Recipe
from wsteer.training.rows import parse_source

REPORTS = "reports"  # of the seeds that are done, for a run that goes on; not there in a finished output


@dataclass(frozen=True)
class SeedsReport:
    """What `finetune_seeds` wrote: `output` holds a folder `seed-N` for each of `seeds`, told of by `runs`."""

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
    track: Track = silent,
    **options: object,
) -> SeedsReport:
    """`finetune` once for each seed, into `seed-N` folders of `output`; `options` are those of `finetune`.

    A seed's folder has the bytes that a run of that seed alone would have.
    """
    if not seeds or len(set(seeds)) < len(seeds):
        raise WsteerError(f"--seeds {','.join(map(str, seeds))}: name one seed or more, each once")
    output = Path(output)
    sources = [parse_source(each) for each in ([data] if isinstance(data, str | Path) else data)]
    check_output(output, force, folder=True, inputs=[base, *(source.path for source in sources)])
    inputs = [{"role": "base", **open_checkpoint(base).identity}]
    inputs += [{**source_entry("data", source.path), "weight": source.weight} for source in sources]
    told = {
        name: value for name, value in options.items() if name in ("dtype", "load_in", "strip_system", "max_length")
    }
    settings = {**asdict(recipe), "lr": list(recipe.rates), "seed": list(seeds), **told}
    recorded = record("finetune", settings, inputs)
    runs = []
    with shared_folder(output, force, recorded, resume) as partial:
        for seed in seeds:
            folder, kept = partial / f"seed-{seed}", partial / REPORTS / f"seed-{seed}.json"
            finished = kept.exists()
            processes.wait()  # all have looked before the first one writes
            if finished:
                run = FinetuneReport(**read_json(kept))
            else:
                shown = labelled(track, f"seed {seed}")
                run = finetune(base, data, folder, replace(recipe, seed=seed), resume=True, track=shown, **options)
                _keep(kept, run)
            runs.append(run)
        processes.wait()
        if processes.rank() == 0:
            shutil.rmtree(partial / REPORTS)
            write_json(partial / RECORD, recorded)
    runs = tuple(replace(run, output=str(output / f"seed-{seed}")) for run, seed in zip(runs, seeds, strict=True))
    warnings = tuple(f"seed {seed}: {text}" for run, seed in zip(runs, seeds, strict=True) for text in run.warnings)
    return SeedsReport(str(output), tuple(seeds), runs, warnings)


def _keep(path: Path, run: FinetuneReport) -> None:
    if processes.rank() == 0:
        path.parent.mkdir(exist_ok=True)
        write_json(path, asdict(run))
