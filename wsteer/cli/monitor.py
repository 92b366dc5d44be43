"""wsteer monitor: which way a change of weights points, beside a noise floor."""

from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsteer.cli.options import (
    Batch,
    Config,
    Device,
    DeviceOption,
    Dtype,
    DtypeOption,
    Exclude,
    Force,
    Include,
    Json,
    Layers,
    Quiet,
    argument,
    option,
    parse_batch_size,
    parse_layers,
    parse_named,
    parse_numbers,
)
from wsteer.cli.output import Printer, table
from wsteer.saving import check_output

if TYPE_CHECKING:
    from wsteer.monitoring.comparing import Settings
    from wsteer.monitoring.gates import Failure
    from wsteer.monitoring.projections import Projection, ProjectionReport
    from wsteer.monitoring.report import MonitorReport
    from wsteer.monitoring.similarity import Similarity
    from wsteer.monitoring.trajectories import Trajectory
    from wsteer.monitoring.watching import WatchReport

WIDEST = 10  # columns of a table on the terminal; a wider one is shown as its largest cosines
LARGEST = 20  # of those
SHOWN_BLOCKS = 4
GATE_FAILED = 3


class Part(str, Enum):
    """Values of --per."""

    layer = "layer"
    module = "module"
    parameter = "parameter"


def monitor(
    deltas: Annotated[list[str], argument("DELTA", help="Deltas, or other changes of weights, to compare with.")],
    output: Annotated[Path, option("--output", "-o", help="Folder to write.", metavar="DIR")],
    of: Annotated[
        list[str] | None,
        option(
            "--of",
            help="Deltas, adapters, checkpoints, training folders to compare. Without: all pairs of DELTA.",
            metavar="ITEM...",
        ),
    ] = None,
    base: Annotated[
        str | None, option("--base", help="Model that checkpoints were tuned from.", metavar="BASE")
    ] = None,
    controls: Annotated[
        list[str] | None,
        option("--controls", help="Deltas of no interest: cosines with them tell what is usual.", metavar="FILE..."),
    ] = None,
    ceiling: Annotated[
        list[str] | None,
        option("--ceiling", help="A DELTA made again, of another seed or half the data; repeat.", metavar="NAME=FILE"),
    ] = None,
    centre: Annotated[
        list[str] | None,
        option("--centre", help="Remove the mean of these deltas before comparing.", metavar="FILE..."),
    ] = None,
    per: Annotated[Part | None, option("--per", help="Also one table for each such part of the model.")] = None,
    layers: Layers = None,
    include: Include = None,
    exclude: Exclude = None,
    group: Annotated[
        list[str] | None,
        option("--group", help="Draw the items whose name matches together; repeat.", metavar="NAME=GLOB"),
    ] = None,
    scores: Annotated[
        Path | None, option("--scores", help="CSV of step and score, drawn with trajectories.", metavar="FILE")
    ] = None,
    fail_above: Annotated[
        list[str] | None,
        option("--fail-above", help="Exit with 3 if a cosine with DELTA is larger; repeat.", metavar="DELTA=X"),
    ] = None,
    fail_below: Annotated[
        list[str] | None,
        option("--fail-below", help="Exit with 3 if a cosine with DELTA is smaller; repeat.", metavar="DELTA=X"),
    ] = None,
    watch: Annotated[bool, option("--watch", help="Follow the training folder --of as checkpoints appear.")] = False,
    until_step: Annotated[
        int | None, option("--until-step", help="End --watch at this step.", min=1, metavar="N")
    ] = None,
    interval: Annotated[
        float, option("--interval", help="Seconds between looks of --watch.", min=0.1, metavar="SECONDS")
    ] = 10.0,
    shift: Annotated[
        list[str] | None,
        option("--shift", help="Models tuned from BASE: project what tuning shifts.", metavar="MODEL..."),
    ] = None,
    batch_size: Batch = "auto",
    device: DeviceOption = Device.auto,
    dtype: DtypeOption = Dtype.auto,
    force: Force = False,
    json: Json = False,
    quiet: Quiet = False,
    config: Config = None,
) -> None:
    """Write the cosines of changes of weights with deltas, beside the noise floor, as tables and heat maps.

    With data sets as ITEMs (JSONL, or org/name:split) and activation DELTAs: project the answers on the vectors.

    Example: wsteer monitor w.safetensors --of run1/ --of run2/ -o monitor/
    """
    check_output(output, force, folder=True)  # before seconds of imports
    from wsteer.combining import Selection
    from wsteer.monitoring.comparing import Settings
    from wsteer.monitoring.items import is_data

    settings = Settings(
        base=base,
        controls=controls or (),
        ceiling=_lists(parse_named(ceiling or [], "--ceiling")),
        centre=centre or (),
        selection=Selection(parse_layers(layers), include, exclude),
        per=per and per.value,
        groups=dict(parse_named(group or [], "--group")),
        scores=scores,
        fail_above=_bounds(fail_above or [], "--fail-above"),
        fail_below=_bounds(fail_below or [], "--fail-below"),
    )
    printer = Printer(json, quiet)
    if shift or any(map(is_data, of or ())):
        run = {"batch_size": parse_batch_size(batch_size, 16), "device": device.value, "dtype": dtype.value}
        _project(printer, deltas, of or [], output, settings, shift or [], force, run)
    elif watch:
        _watch(printer, deltas, of or [], output, settings, until_step, interval, force)
    else:
        _compare(printer, deltas, of or [], output, settings, force)


def _compare(
    printer: Printer, deltas: list[str], of: list[str], output: Path, settings: "Settings", force: bool
) -> None:
    from wsteer.monitoring.comparing import monitor as run

    report = run(deltas, output, of, settings, force=force, track=printer.track)
    for note in report.notes:
        printer.note(note)
    printer.result(report.as_json(), result_lines(report))
    _fail(printer, report.failures)


def _watch(
    printer: Printer,
    deltas: list[str],
    of: list[str],
    output: Path,
    settings: "Settings",
    until_step: int | None,
    interval: float,
    force: bool,
) -> None:
    if len(of) != 1:
        raise typer.BadParameter("one training folder is needed: --of RUN", param_hint="--watch")
    from wsteer.monitoring.watching import watch as run

    report = run(
        deltas, of[0], output, settings, until_step=until_step, interval=interval, force=force, say=printer.note
    )
    printer.result(report, watch_lines(report))
    _fail(printer, report.failures)
    if report.interrupted:
        raise typer.Exit(130)


def _project(
    printer: Printer,
    deltas: list[str],
    of: list[str],
    output: Path,
    settings: "Settings",
    shift: list[str],
    force: bool,
    run: dict[str, object],
) -> None:
    from wsteer.monitoring.items import is_data
    from wsteer.monitoring.projections import project

    others = [item for item in of if not is_data(item)]
    if others or not of:
        what = f"{others[0]} is no data set" if others else "--shift needs data sets, whose prompts are read"
        raise typer.BadParameter(f"{what}; give JSONL files or org/name:split", param_hint="--of")
    if settings.base is None:
        raise typer.BadParameter("the model that reads the data sets is needed", param_hint="--base")
    layers = settings.selection.layers
    report = project(deltas, of, settings.base, output, shift, layers=layers, force=force, track=printer.track, **run)
    printer.result(report, projection_lines(report))


def _fail(printer: Printer, failures: Sequence["Failure"]) -> None:
    if failures:
        for failure in failures:
            printer.failure(f"gate failed: {failure.text}")
        raise typer.Exit(GATE_FAILED)


def _lists(pairs: list[tuple[str, str]]) -> dict[str, list[str]]:
    lists: dict[str, list[str]] = {}
    for name, value in pairs:
        lists.setdefault(name, []).append(value)
    return lists


def _bounds(values: list[str], name: str) -> dict[str, float]:
    return {key: parse_numbers([value], name)[0] for key, value in parse_named(values, name)}


def result_lines(report: "MonitorReport") -> list[str]:
    """The table with its floor, then trajectories, then the path."""
    lines = [*cosine_table(report.similarity), *_floor_lines(report.similarity)]
    if report.controls:
        lines += ["", *_control_lines(report)]
    for ceiling in report.ceilings:
        again = ", ".join(f"{name} {c:.3f}" for name, c in zip(ceiling.items, ceiling.cosines, strict=True))
        lines.append(f"ceiling of {ceiling.delta}: {ceiling.mean:.3f} ({again})")
    for each in report.trajectories:
        lines += ["", *trajectory_lines(each)]
    return [*lines, "", report.output]


def cosine_table(found: "Similarity") -> list[str]:
    """Cosines, starred where they stand above the floor; of a wide table the largest alone."""
    if len(found.columns) <= WIDEST:
        rows = [
            [name, *(_starred(found, i, j) for j in range(len(found.columns)))] for i, name in enumerate(found.rows)
        ]
        return table(["cosine", *found.columns], rows)
    pairs = sorted(found.pairs(), key=lambda pair: -abs(found.cosines[pair[0]][pair[1]]))[:LARGEST]
    rows = [[f"{found.rows[i]} · {found.columns[j]}", _starred(found, i, j)] for i, j in pairs]
    return table([f"largest of {len(found.pairs())} pairs", "cosine "], rows)


def _starred(found: "Similarity", i: int, j: int) -> str:
    return f"{found.cosines[i][j]:.3f}" + ("*" if found.above[i][j] else " ")


def _floor_lines(found: "Similarity") -> list[str]:
    floors = [floor for row in found.floor for floor in row if floor is not None]
    if not floors:
        return []
    spread = f"{min(floors):.2g}" + (f" to {max(floors):.2g}" if max(floors) > min(floors) else "")
    return ["", f"* above the noise floor (Holm's test at 5%); one standard deviation of noise is {spread}"]


def _control_lines(report: "MonitorReport") -> list[str]:
    controls, found = report.controls, report.similarity
    rows = [
        [name, *(f"{cosine:.3f}" for cosine in cosines)]
        for names, matrix in ((found.rows, controls.rows), (found.columns, controls.columns))
        for name, cosines in zip(names, matrix, strict=True)
    ]
    seen = list(dict.fromkeys(map(tuple, rows)))
    pairs = found.pairs()
    beyond = sum(controls.beyond[i][j] for i, j in pairs)
    return [
        *table(["with controls", *controls.names], seen),
        f"{beyond} of {len(pairs)} cosines are larger than all of their items' cosines with controls",
    ]


def trajectory_lines(each: "Trajectory") -> list[str]:
    """Cosines by step, and where each delta's first leaves the floor."""
    rows = [
        [str(step), *(f"{cosine:.3f}" for cosine in cosines)]
        for step, cosines in zip(each.steps, each.cosines, strict=True)
    ]
    left = [f"{delta} {'never' if step is None else f'at step {step}'}" for delta, step in each.leaves_floor.items()]
    return [
        f"{each.run}, by training step:",
        *table(["step", *each.deltas], rows),
        f"leaves the floor: {', '.join(left)}",
    ]


def watch_lines(report: "WatchReport") -> list[str]:
    """The trajectory that was seen, and the path."""
    seen = trajectory_lines(report.trajectory) if report.trajectory else ["no checkpoint was seen"]
    return [*seen, report.output]


def projection_lines(report: "ProjectionReport") -> list[str]:
    """Mean projections with their intervals, of a few blocks spread over the depth, and the path."""
    blocks = sorted({each.block for each in report.projections})
    step = max(1, -(-len(blocks) // SHOWN_BLOCKS))
    shown = blocks[step // 2 :: step]
    header = ["projection", "delta", *(f"block {block}" for block in shown)]
    keys = dict.fromkeys((each.model, each.data, each.delta) for each in report.projections)
    values = {(each.model, each.data, each.delta, each.block): each for each in report.projections}
    rows = [
        [
            f"{data}" if model is None else f"{model} minus base, prompts of {data}",
            delta,
            *(_mean(values.get((model, data, delta, block))) for block in shown),
        ]
        for model, data, delta in keys
    ]
    return [
        *table(header, rows),
        "",
        f"means with 95% intervals; all {len(blocks)} blocks are in the files",
        report.output,
    ]


def _mean(each: "Projection | None") -> str:
    if each is None:
        return ""
    return f"{each.mean:.3g}" if each.low is None else f"{each.mean:.3g} ({each.low:.3g} to {each.high:.3g})"
