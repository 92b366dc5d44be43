"""eval's results, as lines for the terminal."""

from collections.abc import Iterator, Mapping
from typing import Any

from wsteer.cli.output import table

Found = Mapping[str, Any]  # an estimate, a measure or a condition, as results.json has it


def tables(report: Mapping[str, Any]) -> Iterator[str]:
    """For each task a line for each condition: every metric, and its change from the model as it is."""
    by_task: dict[str, list[Found]] = {}
    for measure in report["measures"]:
        by_task.setdefault(measure["task"], []).append(measure)
    places = {(each["task"], each["metric"], each["condition"]): each for each in report["estimates"]}
    compared = len(report["conditions"]) > 1
    for task, measures in by_task.items():
        heads = [head for measure in measures for head in (measure["metric"], *(["change"] if compared else []))]
        rows = []
        for condition in report["conditions"]:
            row = [condition["label"]]
            for measure in measures:
                estimate = places.get((task, measure["metric"], condition["name"]))
                row.append(value_text(estimate, measure["kind"]) if estimate is not None else "")
                if compared:
                    row.append(change_text(estimate, measure["kind"]) if estimate is not None else "")
            rows.append(row)
        yield from table([task, *heads], rows)
        if compared and any(_changed(each) for each in places.values() if each["task"] == task):
            yield "change: from k = 0 on the same rows, 95% interval; * after Holm's correction over the conditions"
        yield ""


def retained_table(report: Mapping[str, Any]) -> Iterator[str]:
    """How much of the whole delta's effect each part has alone, and how much is left without it; for one metric."""
    measures = report["measures"]
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


def value_text(estimate: Found, kind: str) -> str:
    """`75% (30/40, 60-86; 2 abstained)`: value, counts, 95% interval, and what has no value."""
    hidden = ", ".join(f"{count} {why}" for why, count in estimate["unscored"].items())
    if estimate["value"] is None:
        return f"undefined ({hidden or '0/0'})"
    value = _number(estimate["value"], kind) + ("%" if kind == "share" else "")
    counts = f"{estimate['numerator']}/{estimate['denominator']}" if kind == "share" else ""
    ends = [_number(estimate[name], kind) for name in ("low", "high") if estimate[name] is not None]
    interval = ("-" if kind == "share" else " to ").join(ends)  # empty where all rows have one value
    told = "; ".join(filter(None, (", ".join(filter(None, (counts, interval))), hidden)))
    return f"{value} ({told})" if told else value


def change_text(estimate: Found, kind: str) -> str:
    """`+20 (8 to 33) *`: the change in percent or in the metric's unit, its 95% interval, and whether it is one."""
    if not _changed(estimate):
        return ""
    against = estimate["against_base"]
    change, low, high = (_number(against[name], kind) for name in ("difference", "low", "high"))
    sign = "" if change.startswith("-") else "+"
    return f"{sign}{change} ({low} to {high})" + (" *" if against["significant"] else "  ")


def _changed(estimate: Found) -> bool:
    against = estimate["against_base"]
    return against is not None and against["difference"] is not None and against["low"] is not None


def _number(value: float, kind: str) -> str:
    return f"{100 * value:.0f}" if kind == "share" else f"{value:.3g}"
