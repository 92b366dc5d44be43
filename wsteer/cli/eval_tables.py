"""eval's results, as lines for the terminal."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wsteer.cli.output import table

Found = Mapping[str, Any]  # an estimate, a measure or a condition, as results.json has it
WIDTH = 120  # columns of the widest table, where more than one metric would be in it


def tables(report: Mapping[str, Any]) -> Iterator[str]:
    """For each task a line for each condition: every metric, and its change from the model as it is.

    Metrics that have no place beside the others within `WIDTH` columns are in tables of their own.
    """
    by_task: dict[str, list[Found]] = {}
    for measure in report["measures"]:
        by_task.setdefault(measure["task"], []).append(measure)
    places = {(each["task"], each["metric"], each["condition"]): each for each in report["estimates"]}
    labels = [each["label"] for each in report["conditions"]]
    for task, measures in by_task.items():
        shown: list[list[str]] = []  # columns of the table so far
        for measure in measures:
            found = [places.get((task, measure["metric"], each["name"])) for each in report["conditions"]]
            columns = [[measure["metric"], *(value_text(each, measure["kind"]) for each in found)]]
            if len(labels) > 1:
                columns.append(["change", *(change_text(each, measure["kind"]) for each in found)])
            if shown and _width([[task, *labels], *shown, *columns]) > WIDTH:
                yield from _lines([[task, *labels], *shown])
                shown = []
            shown += columns
        yield from _lines([[task, *labels], *shown])
    if any(_changed(each) for each in places.values()):
        yield "change: from k = 0 on the same rows, of shares in percentage points, with 95% interval; * is"
        yield "significant at 5% by Holm's correction over the conditions"
        yield ""


def retained_table(report: Mapping[str, Any]) -> Iterator[str]:
    """How much of the whole delta's effect each part has alone, and how much is left without it; for one metric."""
    if not report["retained"]:
        return
    measures = report["measures"]
    if not measures:  # as of a task of lm-eval whose only metric is no mean
        return
    measure = next((each for each in measures if each["role"] == "behaviour"), measures[0])
    conditions = {each["name"]: each for each in report["conditions"]}
    found: dict[str, dict[str, str]] = {}
    for each in report["retained"]:
        condition = conditions[each["condition"]]
        if (each["task"], each["metric"]) == (measure["task"], measure["metric"]):
            side, part = condition["part"].split(" ", 1)
            found.setdefault(part, {})[condition["control"] or side] = _retained_text(each)
    if found:
        columns = {"keep": "alone", "drop": "all but it", "random": "random of its norm"}
        yield from table(
            [f"share of the change of {measure['metric']}", *columns.values()],
            ([part, *(cells.get(column, "") for column in columns)] for part, cells in found.items()),
        )
        yield ""


def _retained_text(each: Found) -> str:
    if each["value"] is None:
        return "undefined"
    return f"{100 * each['value']:.0f}% ({100 * each['low']:.0f} to {100 * each['high']:.0f})"


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in columns) - 2


def _lines(columns: Sequence[Sequence[str]]) -> Iterator[str]:
    """A table of columns, each of which begins with its head, and an empty line."""
    head, *rows = zip(*columns, strict=True)
    yield from table(head, rows)
    yield ""


def value_text(estimate: Found | None, kind: str) -> str:
    """`75% (30/40, 60-86; 2 abstained)`: value, counts, 95% interval, and what has no value."""
    if estimate is None:
        return ""
    counts: dict[str, int] = {}
    for why, count in estimate["unscored"].items():
        short = why if why in ("abstained", "cut") else "failed"  # the reason may be a long text of a judge's
        counts[short] = counts.get(short, 0) + count
    hidden = ", ".join(f"{count} {why}" for why, count in counts.items())
    if estimate["value"] is None:
        return f"undefined ({hidden or '0/0'})"
    told = _number(estimate["value"], kind) + ("%" if kind == "share" else "")
    beside = [f"{estimate['numerator']}/{estimate['denominator']}"] if kind == "share" else []
    if estimate["low"] is not None:  # one row alone has no interval of a mean
        low, high = (_number(estimate[name], kind) for name in ("low", "high"))
        beside.append(f"{low}-{high}" if kind == "share" else f"{low} to {high}")
    shown = "; ".join(filter(None, (", ".join(beside), hidden)))
    return f"{told} ({shown})" if shown else told


def change_text(estimate: Found | None, kind: str) -> str:
    """`+20 (8 to 33) *`: the change in points or in the metric's unit, its 95% interval, and whether it is one."""
    if estimate is None or not _changed(estimate):
        return ""
    against = estimate["against_base"]
    change, low, high = (_number(against[name], kind) for name in ("difference", "low", "high"))
    sign = "" if change.startswith("-") or change == "0" else "+"
    return f"{sign}{change} ({low} to {high})" + (" *" if against["significant"] else "  ")


def _changed(estimate: Found) -> bool:
    against = estimate["against_base"]
    return against is not None and against["difference"] is not None and against["low"] is not None


def _number(value: float, kind: str) -> str:
    text = f"{100 * value:.0f}" if kind == "share" else f"{value:.3g}"
    return "0" if text == "-0" else text
