"""What wsteer monitor found, as lines for the terminal."""

from typing import TYPE_CHECKING

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.monitoring.correlation import Correlation
    from wsteer.monitoring.project import Projection, ProjectionReport
    from wsteer.monitoring.report import Controls, MonitorReport
    from wsteer.monitoring.similarity import Similarity
    from wsteer.monitoring.trajectories import Trajectory
    from wsteer.monitoring.watch import WatchReport

WIDEST = 10  # columns of a table on the terminal; of a wider one only the largest cosines are shown
LARGEST = 20  # how many of them
MOST_SHARED = 4  # pairs whose shares by part are shown
SHOWN_BLOCKS = 4
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
