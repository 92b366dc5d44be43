"""What an evaluation writes: results.csv, results.json, scores.csv, pictures and report.html."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from wsteer.evaluation.presentation.page import Findings, page
from wsteer.evaluation.presentation.pictures import write_pictures
from wsteer.files.text import SURROGATES, write_csv, write_json

SCORES = "scores.csv"
RESULTS, PAGE, ROWS, SAMPLES = "results.json", "report.html", "rows.jsonl", "samples.jsonl"
COLUMNS = (
    *("task", "metric", "condition", "method", "k", "layers", "positions", "variant", "control", "part", "step"),
    *(
        "value",
        "low",
        "high",
        "interval",
        "numerator",
        "denominator",
        "n",
        "groups",
        "low_n",
        "abstained",
        "cut",
        "failed",
    ),
    *("difference", "difference_low", "difference_high", "difference_interval", "p", "p_adjusted", "significant"),
    *("pairs", "fixed", "broken", "left_out"),
)


def write_outputs(folder: Path, findings: Findings, title: str = "wsteer eval") -> None:
    """Write results.json, results.csv, the pictures (PNG and SVG) and report.html into `folder`.

    Where checkpoints of a training are compared, there is scores.csv too.
    """
    write_json(folder / RESULTS, results(findings))
    write_csv(folder / "results.csv", COLUMNS, _lines(findings))
    if any(each.step is not None for each in findings.conditions):
        columns, lines = _scores(findings)
        write_csv(folder / SCORES, columns, lines)
    pictures = write_pictures(folder, findings.estimates, findings.measures, findings.conditions)
    write_page(folder / PAGE, findings, pictures, title)


def write_page(path: Path, findings: Findings, pictures: Mapping[str, Path], title: str) -> None:
    """Write the page alone; `pictures` are SVG files by their titles."""
    path.write_text(page(findings, pictures, title), encoding="utf-8", errors=SURROGATES)


def results(findings: Findings) -> dict[str, object]:
    """What results.json holds, and `wsteer report` reads again: conditions, measures, estimates, warnings."""
    return {
        "conditions": [each.as_json() for each in findings.conditions],
        "measures": [asdict(each) for each in findings.measures],
        "estimates": [each.as_json() for each in findings.estimates],
        "retained": [asdict(each) for each in findings.retained],
        "choice": findings.choice.as_json() if findings.choice else None,
        "notes": list(findings.notes),
        "warnings": list(findings.warnings),
    }


def _lines(findings: Findings) -> Iterator[dict[str, object]]:
    """One line for each task, metric and condition; what does not apply is an empty field."""
    conditions = {each.name: each for each in findings.conditions}
    for estimate in findings.estimates:
        condition = conditions[estimate.condition]
        layers = None if condition.layers is None else " ".join(map(str, condition.layers))
        line = {**asdict(condition), **estimate.as_line(), "condition": condition.label, "layers": layers}
        yield {name: line.get(name) for name in COLUMNS}


def _scores(findings: Findings) -> tuple[list[str], list[dict[str, object]]]:
    """The columns and lines of scores.csv: each metric at each step, which `wsteer monitor --scores` reads.

    It draws the first score, so that the first behaviour comes first. The base is step 0, of every run.
    """
    metrics = sorted(findings.measures, key=lambda each: each.role != "behaviour")
    twice = Counter(each.metric for each in metrics)
    names = {each: each.metric if twice[each.metric] == 1 else f"{each.task}.{each.metric}" for each in metrics}
    lines: list[dict[str, object]] = []
    for condition in findings.conditions:
        if condition.step is None and not condition.is_base:
            continue
        run = None if condition.is_base else condition.method
        line: dict[str, object] = {"run": run, "step": condition.step or 0}
        for measure, name in names.items():
            estimate = findings.by_place.get((measure.task, measure.metric, condition.name))
            line[name] = estimate.value if estimate is not None else None
        lines.append(line)
    return ["run", "step", *names.values()], lines
