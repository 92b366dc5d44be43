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


def value_text(estimate: Found, kind: str) -> str:
    """`75% (30/40, 60-86; 2 abstained)`: value, counts, 95% interval, and what has no value."""
    hidden = ", ".join(f"{count} {why}" for why, count in estimate["unscored"].items())
    if estimate["value"] is None:
        return f"undefined ({hidden or '0/0'})"
    value, percent = _number(estimate["value"], kind), "%" if kind == "share" else ""
    told = [f"{estimate['numerator']}/{estimate['denominator']}"] if kind == "share" else []
    if estimate["low"] is not None:  # equal values do not tell how far a mean may be off
        low, high = (_number(estimate[name], kind) for name in ("low", "high"))
        told.append(f"{low}-{high}" if kind == "share" else f"{low} to {high}")
    parts = "; ".join(filter(None, (", ".join(told), hidden)))
    return f"{value}{percent} ({parts})" if parts else f"{value}{percent}"


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
