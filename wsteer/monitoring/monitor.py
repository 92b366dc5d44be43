"""Cosines of changes of weights with deltas: one run of `wsteer monitor`, from paths to a folder of results."""

from collections.abc import Sequence
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.opening import check_unchanged
from wsteer.files.pictures import save
from wsteer.files.provenance import RECORD, record, source_entry
from wsteer.files.saving import check_output, new_folder
from wsteer.files.text import write_json
from wsteer.monitoring.compared import Compared
from wsteer.monitoring.items import listed
from wsteer.monitoring.pictures import correlation_picture, part_map, similarity_map, trajectory_picture
from wsteer.monitoring.report import MonitorReport, write_pairs, write_per
from wsteer.monitoring.settings import Settings
from wsteer.monitoring.trajectories import Scores, check_beside, read_scores, write_trajectories
from wsteer.progress import Progress, silent
from wsteer.workers import beside

MOST_DRAWN = 200  # parts of a model in one picture


def monitor(
    deltas: str | Path | Sequence[str | Path],
    output: str | Path,
    of: str | Path | Sequence[str | Path] = (),
    settings: Settings | None = None,
    *,
    force: bool = False,
    progress: Progress = silent,
) -> MonitorReport:
    """Write the cosine of every item of `of` with every one of `deltas` (without `of`: of all pairs of `deltas`).

    Items are delta files, adapters, checkpoints (with a base), training folders, whose checkpoints form a trajectory,
    and Hub ids. Cosines are taken over the whole vectors and, beside it, over the parameters that both change, in
    float64: low-rank changes in rank space, dense ones streamed. Each has its noise floor: one standard deviation of
    the cosine of noise on the same row spaces.

    Raises WsteerError for items of different bases or with a norm of zero, and if no pair has a common parameter.
    """
    settings = settings or Settings()
    deltas, of, output = listed(deltas), listed(of), Path(output)
    if not deltas:
        raise WsteerError("monitor needs one delta or more to compare with")
    check_output(output, force, folder=True, inputs=[*deltas, *of, *settings.read])
    compared = Compared.open(deltas, of, settings)
    scores = read_scores(settings.scores) if settings.scores else None
    check_beside(scores, any(item.step is not None for item in compared.items), "--of")
    with (
        new_folder(output, force) as partial,
        beside(lambda: [item.input.source for item in compared.items]) as sources,
    ):
        report = compared.report(output, settings, progress)
        check_unchanged(file for item in compared.items for file in item.input.files)
        _write(partial, report, settings.per, scores)
        inputs = sources()
        if settings.correlate:
            inputs.append(source_entry("correlate", settings.correlate))
        write_json(partial / RECORD, record("monitor", settings.options, inputs))
    return report


def _write(folder: Path, report: MonitorReport, by: str | None, scores: Scores | None) -> None:
    fields = report.as_json()
    del fields["output"]
    write_json(folder / "similarity.json", fields)
    write_pairs(folder / "similarity.csv", report)
    save(similarity_map(report.similarity, report.groups), folder / "similarity.png", svg=True)
    if report.similarity.partly():
        save(similarity_map(report.similarity, report.groups, shared=True), folder / "similarity-shared.png", svg=True)
    if report.trajectories:
        write_trajectories(folder / "trajectory.csv", report.trajectories)
        save(trajectory_picture(report.trajectories, scores), folder / "trajectory.png", svg=True)
        if partly := [each for each in report.trajectories if each.partly]:
            save(trajectory_picture(partly, scores, shared=True), folder / "trajectory-shared.png", svg=True)
    if report.correlation:
        save(correlation_picture(report.similarity, report.correlation), folder / "correlation.png", svg=True)
    if by is not None:
        write_per(folder / f"similarity-per-{by}.csv", by, report)
        if len(report.per) <= MOST_DRAWN and report.similarity.pairs():
            save(part_map(report.similarity, report.per, by, MOST_DRAWN), folder / f"similarity-per-{by}.png", svg=True)
