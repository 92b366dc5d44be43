"""What wsteer monitor found, as lines for the terminal."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.monitoring.correlation import Correlation
    from wsteer.monitoring.project import ProjectionReport
    from wsteer.monitoring.projections import Projection
    from wsteer.monitoring.report import Controls, MonitorReport
    from wsteer.monitoring.similarity import Similarity
    from wsteer.monitoring.trajectories import Trajectory
    from wsteer.monitoring.watch import WatchReport
    from wsteer.monitoring.watch_shift import ShiftReport

WIDEST = 10  # columns of a table on the terminal; of a wider one only the largest cosines are shown
LARGEST = 20  # how many of them
MOST_SHARED = 4  # pairs whose shares by part are shown
SHOWN_STEPS = 12  # steps of a trajectory; a longer one is thinned, with its last step kept


def result_lines(report: "MonitorReport") -> list[str]:
    """The table with its floor, then trajectories, then the path."""
    lines = [*cosine_table(report.similarity), *_shared_table(report.similarity), *_floor_lines(report.similarity)]
    if report.controls:
        lines += ["", *_control_lines(report.controls, report.similarity)]
    for ceiling in report.ceilings:
        again = ", ".join(f"{name} {c:.3f}" for name, c in zip(ceiling.items, ceiling.cosines, strict=True))
        lines.append(f"ceiling of {ceiling.delta}: {ceiling.mean:.3f} ({again})")
    if report.correlation:
        lines.append(_correlation_line(report.correlation, bool(report.similarity.partly())))
    lines += _share_lines(report)
    for each in report.trajectories:
        lines += ["", *trajectory_lines(each)]
    return [*lines, "", report.output]


def cosine_table(found: "Similarity") -> list[str]:
    """Cosines, with a star on those above the floor; of a wide table only the largest."""
    if len(found.columns) <= WIDEST:
        rows = [
            [name, *(_starred(found, i, j) for j in range(len(found.columns)))] for i, name in enumerate(found.rows)
        ]
        return table(["cosine", *found.columns], rows)
    sizes = {pair: abs(cosine) for pair in found.pairs() if (cosine := found.cosines[pair[0]][pair[1]]) is not None}
    pairs = sorted(sizes, key=lambda pair: -sizes[pair])[:LARGEST]
    beside = ["over shared "] if found.partly() else []
    rows = [
        [
            f"{found.rows[i]} · {found.columns[j]}",
            _starred(found, i, j),
            *(_starred(found, i, j, shared=True) for _ in beside),
        ]
        for i, j in pairs
    ]
    return table([f"largest of {len(found.pairs())} pairs", "cosine ", *beside], rows)


def _shared_table(found: "Similarity") -> list[str]:
    """Where they differ, the cosines over the parameters that both change; a wide table has them beside its own."""
    partly = set(found.partly())
    if not partly or len(found.columns) > WIDEST:
        return []
    same = {frozenset((found.row_items[i], found.column_items[j])) for i, j in partly}
    rows = []
    for i, name in enumerate(found.rows):
        differs = [frozenset((found.row_items[i], column)) in same for column in found.column_items]
        if any(differs):
            cells = [_starred(found, i, j, shared=True) if differs[j] else "" for j in range(len(found.columns))]
            rows.append([name, *cells])
    header = ["over shared", *found.columns]
    return ["", *table(header, rows), "over the parameters that both change, where they hold less than 99% of a norm"]


def _starred(found: "Similarity", i: int, j: int, shared: bool = False) -> str:
    value = (found.cosines_shared if shared else found.cosines)[i][j]
    return "" if value is None else f"{value:.3f}" + ("*" if found.above[i][j] else " ")


def _floor_lines(found: "Similarity") -> list[str]:
    floors = [floor for row in found.floor for floor in row if floor is not None]
    if not floors:
        return []
    low, high = f"{min(floors):.2g}", f"{max(floors):.2g}"
    spread = low if low == high else f"{low} to {high}"
    return ["", f"* above the noise floor (Holm's test at 5%); one standard deviation of noise is {spread}"]


def _control_lines(controls: "Controls", found: "Similarity") -> list[str]:
    rows = [
        [name, *map(_number, cosines)]
        for names, matrix in ((found.rows, controls.rows), (found.columns, controls.columns))
        for name, cosines in zip(names, matrix, strict=True)
    ]
    seen = list(dict.fromkeys(map(tuple, rows)))
    beyond = [stands for i, j in found.pairs() if (stands := controls.beyond[i][j]) is not None]
    if not beyond:
        return ["no control can be compared: none, besides the pairs' own items, shares a parameter with them"]
    return [
        *table(["with controls", *controls.names], seen),
        f"{sum(beyond)} of {len(beyond)} cosines are larger than all of their items' cosines with controls",
    ]


def _correlation_line(found: "Correlation", partly: bool) -> str:
    told = [("", found.rho, found.p), (", over shared parameters ", found.rho_shared, found.p_shared)][: 1 + partly]
    values = "".join(
        f"{name}rho undefined" if rho is None else f"{name}rho {rho:.3f} (p {p:.2g})" for name, rho, p in told
    )
    orders = f"all {found.orders} orders" if found.exact else f"{found.orders} orders"
    return f"rank correlation of {found.pairs} cosines with --correlate: {values}, {orders} of the items"


def _share_lines(report: "MonitorReport") -> list[str]:
    """Each part's share of a pair's dot product, for few pairs; the largest of many parts."""
    found, pairs = report.similarity, report.similarity.pairs()
    if not report.per or not pairs or len(pairs) > MOST_SHARED:
        return []
    shares = {name: [part.shares_of_dots[i][j] for i, j in pairs] for name, part in report.per.items()}
    largest = sorted(shares, key=lambda name: -max(abs(share or 0.0) for share in shares[name]))[:LARGEST]
    rows = [
        [name, *("" if share is None else f"{share:.1%}" for share in values)]
        for name, values in shares.items()
        if name in largest
    ]
    left = f"; the {LARGEST} largest of {len(shares)}" if len(shares) > LARGEST else ""
    return [
        "",
        *table(["share of dot product", *(f"{found.rows[i]} · {found.columns[j]}" for i, j in pairs)], rows),
        f"a pair's shares sum to 100%; what works against it is negative, so that others may be above{left}",
    ]


def trajectory_lines(each: "Trajectory") -> list[str]:
    """Cosines by step, and the first step at which each delta's cosine leaves the floor."""
    every = -(-len(each.steps) // SHOWN_STEPS)
    shown = list(zip(each.steps, each.cosines, strict=True))[::-1][::every][::-1]
    rows = [[str(step), *map(_number, cosines)] for step, cosines in shown]
    left = [f"{delta} {'never' if step is None else f'at step {step}'}" for delta, step in each.leaves_floor.items()]
    return [
        f"{each.run}, by training step:",
        *table(["step", *each.deltas], rows),
        f"leaves the floor: {', '.join(left)}",
    ]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def watch_lines(report: "WatchReport") -> list[str]:
    """The trajectory as far as it was measured, and the path."""
    seen = trajectory_lines(report.trajectory) if report.trajectory else ["no checkpoint was seen"]
    return [*seen, report.output]


def projection_lines(report: "ProjectionReport") -> list[str]:
    """Mean projections with their intervals, of a few blocks spread over the depth; trajectories; and the path."""
    from wsteer.monitoring.projections import ends

    found = report.projections
    lines = [*_projection_table(ends(found)), "", f"means with 95% intervals; all {_blocks(found)} are in the files"]
    lines += _beyond_controls(found)
    return [*lines, *_step_lines(found), report.output]


def watch_shift_lines(report: "ShiftReport") -> list[str]:
    """The projections by step as far as they were measured, and the path."""
    return [*(_step_lines(report.projections) or ["no checkpoint was seen"]), report.output]


def _projection_table(found: "Sequence[Projection]") -> list[str]:
    from wsteer.monitoring.projections import ROWS_OF, shown_blocks

    shown = shown_blocks(found)
    keys = dict.fromkeys((each.model, each.data, each.delta) for each in found)
    values = {(each.model, each.data, each.delta, each.block): each for each in found}
    first = {(each.model, each.data, each.delta): each for each in found[::-1]}
    rows = []
    for model, data, delta in keys:
        each = first[model, data, delta]
        of = data if model is None else f"{model} minus base, {ROWS_OF[each.positions].format(data)}"
        cells = (_mean(values.get((model, data, delta, block))) for block in shown)
        rows.append([of, each.vector, *cells])
    return table(["projection", "delta", *(f"block {block}" for block in shown)], rows)


def _blocks(found: "Sequence[Projection]") -> str:
    count = len({each.block for each in found})
    return f"{count} block" + ("s" if count > 1 else "")


def _beyond_controls(found: "Sequence[Projection]") -> list[str]:
    """How many shifts are larger, at their block, than those on all controls."""
    shifts = [each for each in found if each.model is not None]
    controls: dict[tuple[object, ...], float] = {}
    for each in shifts:
        if each.control:
            key = (each.model, each.data, each.block)
            controls[key] = max(controls.get(key, 0.0), abs(each.mean))
    if not controls:
        return []
    compared = [each for each in shifts if not each.control and (each.model, each.data, each.block) in controls]
    beyond = sum(abs(each.mean) > controls[each.model, each.data, each.block] for each in compared)
    return [f"{beyond} of {len(compared)} shifts are larger than those on all controls at their block"]


def _step_lines(found: "Sequence[Projection]") -> list[str]:
    """A table of each run and data set: mean shifts by training step, of a few blocks, without those on controls.

    One of many steps is thinned.
    """
    from wsteer.monitoring.projections import ROWS_OF, by_step, shown_blocks

    lines: list[str] = []
    steps = [each for each in by_step(found) if not each.control]
    shown = shown_blocks(steps)
    for run, data in dict.fromkeys((each.run, each.data) for each in steps):
        own = [each for each in steps if (each.run, each.data) == (run, data) and each.block in shown]
        values = {(each.step, (each.delta, each.block)): f"{each.mean:.3g}" for each in own}
        columns = list(dict.fromkeys((each.delta, each.block) for each in own))
        measured = list(dict.fromkeys(each.step for each in own))
        every = -(-len(measured) // SHOWN_STEPS)
        rows = [[str(step), *(values[step, column] for column in columns)] for step in measured[::-1][::every][::-1]]
        header = ["step", *(f"{delta}, block {block}" for delta, block in columns)]
        of = ROWS_OF[own[0].positions].format(data)
        lines += ["", f"{run} minus base, {of}, by training step:", *table(header, rows)]
    return [*lines, ""] if lines else []


def _mean(each: "Projection | None") -> str:
    if each is None:
        return ""
    return f"{each.mean:.3g}" if each.low is None else f"{each.mean:.3g} ({each.low:.3g} to {each.high:.3g})"
