"""An experiment's report.html: the paper's findings beside ours, whether they agree, all numbers, and the commands."""

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsteer.demo.cosines import Cosine, Cosines
from wsteer.demo.differences import Chosen, Difference
from wsteer.demo.experiment import MODEL, PICTURES, Experiment
from wsteer.demo.findings import SIMILARITY, Judged, Results, judge
from wsteer.demo.plan import plan
from wsteer.demo.rules import AGREES, CANNOT_TELL, DOES_NOT
from wsteer.demo.standing import LEFT_OUT, RAN, Standing, standing
from wsteer.errors import WsteerError
from wsteer.evaluation.presentation.outputs import PAGE
from wsteer.evaluation.presentation.page import Findings, cells, inline, numbers, rendered
from wsteer.files.provenance import RECORD
from wsteer.files.saving import check_output, new_file
from wsteer.files.text import SURROGATES, escaped, read_json
from wsteer.progress import Progress, silent

PAPER = "https://arxiv.org/html/2511.05408v2"
KINDS = {AGREES: "agrees", DOES_NOT: "not", CANNOT_TELL: "unsure", LEFT_OUT: "out"}  # classes of the page's looks
SECTION = re.compile(r"(?:(?:App\.|Appendix) ?([A-Z])|(\d+))((?:\.\d+)*)")


@dataclass(frozen=True)
class ExperimentReport:
    """What the page `output` says of an experiment's folder; `left_out` are its steps that were, and why."""

    output: str
    experiment: str
    scale: str
    model: str | None
    findings: tuple[Judged, ...]
    left_out: tuple[str, ...]


def write_report(
    experiment: Experiment,
    scale: str,
    folder: str | Path,
    output: str | Path,
    force: bool = False,
    progress: Progress = silent,
) -> ExperimentReport:
    """Judge what stands in an experiment's folder, and write the page `output`. Equal folders give equal bytes.

    Raises WsteerError as `judge` does, and for a folder that is not there.
    """
    folder, output = Path(folder), Path(output)
    if not folder.is_dir():
        raise WsteerError(f"{folder} is no folder; name the one that the experiment ran in")
    check_output(output, force, folder=False)
    model = _model(experiment, scale, folder)
    steps = standing(experiment, scale, folder, model)
    results = Results(folder)
    judged = judge(experiment, scale, folder, results, progress)
    page = _page(experiment, scale, results, output.absolute().parent, model, steps, judged)
    with new_file(output, force) as partial:
        partial.write_text(page, encoding="utf-8", errors=SURROGATES)
    left_out = tuple(f"{each.step.name}: {each.why}" for each in steps if each.state == LEFT_OUT)
    return ExperimentReport(str(output), experiment.name, scale, model, tuple(judged), left_out)


def _page(
    experiment: Experiment,
    scale: str,
    results: Results,
    beside: Path,
    model: str | None,
    steps: Sequence[Standing],
    judged: Sequence[Judged],
) -> str:
    shown = [_step(each) for each in steps]
    return rendered(
        Path(__file__),
        whence=PICTURES.rstrip("/"),
        title=escaped(experiment.title),
        section=links(experiment.section, PAPER),
        scale=scale,
        model=escaped(model or ""),
        about=escaped(experiment.scales[scale].about),
        findings=_findings(judged, results.folder),
        folders=[each for name in _named(steps, judged) if (each := _folder(results, name, beside)) is not None],
        steps=shown,
        left_out=[each for each in shown if each["state"] == LEFT_OUT],
    )


def links(section: str, paper: str) -> list[dict[str, str]]:
    """Sections of the paper, as `4.1.1, App. H.2`, each with its address in the HTML page `paper`, "" for others.

    >>> [each["address"].partition("#")[2] for each in links("4.1.2, App. H.2, Data", PAPER)]
    ['S4.SS1.SSS2', 'A8.SS2', '']
    """
    found = []
    for text in section.split(", "):
        match = SECTION.fullmatch(text.strip())
        address = ""
        if match is not None:
            first = f"A{ord(match[1]) - ord('A') + 1}" if match[1] else f"S{match[2]}"
            parts = match[3].split(".")[1:]
            address = f"{paper}#" + ".".join([first, *(f"{'S' * i}S{each}" for i, each in enumerate(parts, 1))])
        found.append({"text": escaped(text), "address": address})
    return found


# ---- Findings


def _findings(judged: Sequence[Judged], folder: Path) -> list[dict[str, object]]:
    """The findings; a picture of ours that several of them have is there once, and later ones name the first."""
    found: list[dict[str, object]] = []
    first: dict[object, object] = {}
    for number, each in enumerate(judged, 1):
        shown = _finding(each, folder, number)
        same = first.setdefault(shown["ours"], shown["anchor"]) if shown["source"] else shown["anchor"]
        found.append({**shown, "same": same if same != shown["anchor"] else ""})
    return found


def _finding(judged: Judged, folder: Path, number: int) -> dict[str, object]:
    finding, deciding = judged.finding, judged.deciding
    picture = folder / finding.results / f"{finding.picture}.svg"
    return {
        "anchor": f"finding-{number}",
        "says": escaped(finding.says),
        "figures": escaped(finding.figures),
        "plural": re.search(r"\d\D+\d", finding.figures) is not None,
        "section": links(finding.section, _paper(finding.images)),
        "images": json.dumps(finding.images),
        "addresses": [escaped(each) for each in finding.images],
        "axes": escaped(finding.axes),
        "ours": escaped(f"{finding.results}/{picture.name}"),
        "source": inline(picture) if picture.is_file() else "",
        "unseen": escaped("Left out." if judged.verdict == LEFT_OUT else _no_picture(picture)),
        "verdict": _verdict(judged.verdict),
        "decisive": escaped(deciding.decisive) if deciding is not None else "",
        "compared": escaped(deciding.compared) if deciding is not None and deciding.decisive else "",
        "why": escaped(judged.why),
        "rules": [_difference(each) if isinstance(each, Difference) else _cosines(each) for each in judged.rules],
    }


def _paper(images: Sequence[str]) -> str:
    """The HTML page that a picture is of, by its address; without one, that of the paper of wsteer's method."""
    match = re.match(r"https://arxiv\.org/html/[\w.]+", images[0]) if images else None
    return match[0] if match else PAPER


def _no_picture(picture: Path) -> str:
    there = sorted(path.stem for path in picture.parent.glob("*.svg"))
    return f"There is no picture {picture.stem} in {picture.parent.name}; there are {', '.join(there) or 'none'}."


def _verdict(verdict: str) -> dict[str, str]:
    return {"text": verdict, "kind": KINDS[verdict]}


def _difference(rule: Difference) -> dict[str, object]:
    """A rule on a metric, with a line for each side and one for their difference."""
    kept = rule.keep is not None
    heads = ["", "condition", rule.metric, "95% interval", "of", *([rule.keep or "", "95% interval"] if kept else [])]
    lines = [_side(each, kept) for each in (rule.mine, rule.other)]
    shown = cells(rule.mine.estimate) if rule.mine.estimate is not None else {}
    pairs = f"{shown['pairs']} pairs" if shown.get("pairs") else ""
    total = ["difference", "", shown.get("difference", ""), shown.get("difference_interval", ""), pairs]
    return {
        "text": escaped(rule.text),
        "verdict": _verdict(rule.verdict),
        "why": escaped(rule.why),
        "heads": [escaped(each) for each in heads],
        "lines": [*lines, [*total, *["", ""][: 2 * kept]]],
        "texts": 2,  # columns of text, the others are of numbers
        "total": True,
    }


def _side(side: Chosen, kept: bool) -> list[object]:
    found: list[object] = [escaped(side.given), escaped(side.label)]
    for estimate, count in ((side.estimate, True), *([(side.kept, False)] if kept else [])):
        shown = cells(estimate) if estimate is not None else {"value": "no rows", "interval": "", "count": ""}
        found += [shown["value"], shown["interval"], *([shown["count"]] if count else [])]
    return found


def _cosines(rule: Cosines) -> dict[str, object]:
    """A rule on cosines, with a line for each cosine, the largest first."""

    def lines(side: str, cosines: Sequence[Cosine]) -> Iterator[list[str]]:
        for each in sorted(cosines, key=lambda each: -(each.value if each.value is not None else -2)):
            yield [escaped(each.pair), side, _number(each.value, ".4f"), _number(each.floor, ".2g")]

    return {
        "text": escaped(rule.text),
        "verdict": _verdict(rule.verdict),
        "why": escaped(rule.why),
        "heads": ["pair", "side", "cosine", "noise"],
        "lines": [*lines("above", rule.above), *lines("below", rule.below)],
        "texts": 2,
        "total": False,
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


# ---- All numbers


def _named(steps: Sequence[Standing], judged: Sequence[Judged]) -> list[str]:
    """The folders that steps make and findings name."""
    made = [name for each in steps for name in each.step.outputs]
    return list(dict.fromkeys([*made, *(each.finding.results for each in judged)]))


def _folder(results: Results, name: str, beside: Path) -> dict[str, object] | None:
    """All numbers of a folder of eval or monitor; None of another."""
    place, evaluation, table = results.folder / name, results.evaluation(name), results.table(name)
    estimates: list[dict[str, object]] = []
    tables: list[dict[str, object]] = []
    if evaluation is not None:
        found = evaluation.found
        all_found = Findings(found.rows, found.measures, found.conditions, list(evaluation.estimates.values()), {})
        estimates = [numbers(all_found, measure) for measure in found.measures]
        what = f"{len(found.conditions)} conditions, {len(found.measures)} metrics"
    elif table is not None:
        tables = list(_tables(table.found))
        what = f"cosines of {len(table.found['rows'])} items"
    else:
        return None
    file = place / PAGE if (place / PAGE).is_file() else place / f"{Path(SIMILARITY).stem}.csv"
    link = quote(os.fsencode(os.path.relpath(file.absolute(), beside)))
    shown = escaped(f"{name}/{file.name}")
    return {
        **{"name": escaped(name), "what": what, "link": link, "page": shown},
        **{"estimates": estimates, "cosines": tables},
    }


def _tables(found: Mapping[str, Any]) -> Iterator[dict[str, object]]:
    """The cosines of a folder of monitor: of all items, and of each run by training step."""
    yield _table("Cosines", found["rows"], found["columns"], found["cosines"])
    for run in found["trajectories"]:
        steps = [f"step {step}" for step in run["steps"]]
        yield _table(f"Cosines of {run['run']} by training step", steps, run["deltas"], run["cosines"])


def _table(
    title: str, rows: Sequence[str], columns: Sequence[str], cosines: Sequence[Sequence[float | None]]
) -> dict[str, object]:
    lines = [
        {"name": escaped(row), "cells": [_number(value, ".4f") for value in line]}
        for row, line in zip(rows, cosines, strict=True)
    ]
    return {"title": escaped(title), "columns": [escaped(each) for each in columns], "rows": lines}


# ---- Steps, and the model


def _step(each: Standing) -> dict[str, str]:
    return {
        "does": escaped(each.step.command.step.does),
        "section": escaped(each.step.command.step.section),
        "text": escaped(each.step.text),
        "name": escaped(each.step.name),
        "state": each.state,
        "why": escaped(each.why),
        "kind": "" if each.state == RAN else "faint",
    }


def _model(experiment: Experiment, scale: str, folder: Path) -> str | None:
    """The model that the steps had, by the record of the first of them that takes it; None without a record.

    The folder's own record is not asked: a script's folder has none.
    """
    for each in plan(experiment, scale):
        if f"{{{MODEL}}}" in each.command.step.run:
            for output in each.outputs:
                if (folder / output / RECORD).is_file() and (found := _in_record(folder / output / RECORD)):
                    return found
    return None


def _in_record(path: Path) -> str | None:
    inputs = read_json(path).get("inputs")
    for entry in inputs if isinstance(inputs, list) else ():
        if isinstance(entry, Mapping) and entry.get("role") in ("model", "base"):
            name = entry.get("name") or entry.get("path")
            return name if isinstance(name, str) else None
    return None
