"""wsteer monitor with data sets: projections on activation vectors, once or as a run grows."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from wsteer.cli.monitor_tables import projection_lines, watch_shift_lines
from wsteer.cli.output import Printer
from wsteer.cli.values import refuse_unused

if TYPE_CHECKING:
    from wsteer.monitoring.project import Projecting
    from wsteer.monitoring.settings import Settings


def project(
    printer: Printer,
    deltas: list[str],
    of: list[str],
    output: Path,
    settings: "Settings",
    shift: list[str],
    force: bool,
    running: dict[str, Any],
    watching: dict[str, Any] | None,
) -> None:
    """Refuse options of `wsteer monitor` that do not apply, then project data sets, or watch the shift of a run.

    `running` are the options of how models run; `watching` those of --watch, if it is given.
    """
    from wsteer.monitoring.items import is_data
    from wsteer.monitoring.project import Projecting
    from wsteer.monitoring.project import project as program

    others = [item for item in of if not is_data(item)]
    if others or not of:
        what = f"{others[0]} is no data set" if others else "--shift needs data sets, whose prompts are read"
        raise typer.BadParameter(f"{what}; give JSONL files or org/name[/config]:split", param_hint="--of")
    if settings.base is None:
        raise typer.BadParameter("the model that reads the data sets is needed", param_hint="--base")
    unused = {name: getattr(settings, name) for name in ("ceiling", "centre", "per", "correlate")}
    refuse_unused({**unused, "group": settings.groups}, "projections of data sets")
    for name in ("include", "exclude"):
        if getattr(settings.selection, name) is not None:
            raise typer.BadParameter("projections choose by --layers alone; leave it out", param_hint=f"--{name}")
    if not shift:
        refuse_unused({"positions": running["positions"], "scores": settings.scores}, "projections without --shift")
    own = Projecting(
        controls=settings.controls,
        layers=settings.selection.layers,
        scores=settings.scores,
        fail_above=settings.fail_above,
        fail_below=settings.fail_below,
        **{name: value for name, value in running.items() if value is not None},
    )
    if watching is not None:
        _watch_shift(printer, deltas, of, output, settings.base, own, shift, force, watching)
        return
    report = program(deltas, of, settings.base, output, shift, own, force=force, progress=printer.progress)
    for note in report.notes:
        printer.note(note)
    printer.result(report, projection_lines(report))
    printer.gates(report.failures)


def _watch_shift(
    printer: Printer,
    deltas: list[str],
    of: list[str],
    output: Path,
    base: str | Path,
    settings: "Projecting",
    shift: list[str],
    force: bool,
    watching: dict[str, Any],
) -> None:
    if len(shift) != 1:
        raise typer.BadParameter("one training folder is needed: --shift RUN", param_hint="--watch")
    from wsteer.monitoring.watch_shift import watch_shift

    report = watch_shift(
        deltas,
        of,
        base,
        shift[0],
        output,
        settings,
        **watching,
        force=force,
        note=printer.note,
        progress=printer.progress,
    )
    for note in report.notes:
        printer.note(note)
    printer.result(report, watch_shift_lines(report))
    printer.gates(report.failures)
    if report.interrupted:
        raise typer.Exit(130)
