"""report.html: one file, without a network: what was run, pictures, tables, answers side by side."""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jinja2 import FileSystemLoader, StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from markupsafe import Markup

from wsteer.evaluation.attribution import Retained, retained
from wsteer.evaluation.choosing import Choice
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.presentation.answers import sides
from wsteer.evaluation.presentation.sweeps import best_blocks
from wsteer.evaluation.rows import Measure, Row
from wsteer.evaluation.summary import Comparison, Estimate
from wsteer.files.provenance import PAGE_MARK
from wsteer.files.text import escaped


@dataclass(frozen=True)
class Findings:
    """All that an evaluation found, for its files and its page.

    `record` is that of `wsteer.json`, `choice` what --choose found; `notes` and `warnings` are lines for the user.
    """

    rows: Sequence[Row]
    measures: Sequence[Measure]
    conditions: Sequence[Condition]
    estimates: Sequence[Estimate]
    record: Mapping[str, object]
    warnings: Sequence[str] = ()
    choice: Choice | None = None
    notes: Sequence[str] = ()

    @cached_property
    def retained(self) -> list[Retained]:
        """What the parts of a delta keep of its effect."""
        return retained(self.rows, self.measures, self.conditions)

    @cached_property
    def by_place(self) -> dict[tuple[str, str, str], Estimate]:
        """The estimates by (task, metric, name of the condition)."""
        return {(each.task, each.metric, each.condition): each for each in self.estimates}


def page(findings: Findings, pictures: Mapping[str, Path], title: str) -> str:
    """The page as HTML. `pictures` are SVG files by their titles, which the page holds.

    Nothing of the rows, the record or the names is taken for HTML: texts are escaped, marks of direction and control
    characters shown as such, and a browser runs no script but the page's own, whose digest the page names.
    """
    return rendered(
        Path(__file__),
        title=escaped(title),
        summary=escaped(_summary(findings)),
        choice=_choice(findings),
        notes=[escaped(line) for line in findings.notes],
        warnings=[escaped(line) for line in findings.warnings],
        pictures=[{"title": escaped(name), "source": inline(path)} for name, path in pictures.items()],
        best=[escaped(each.text) for each in best_blocks(findings.by_place, findings.conditions, findings.measures)],
        tables=[numbers(findings, measure) for measure in findings.measures],
        run=list(_run(findings.record)),
        data=Markup(in_script(sides(findings.rows, findings.measures, findings.conditions, findings.by_place))),
    )


def rendered(file: Path, **values: object) -> str:
    """The template beside a Python file filled with values, as a page: one file, with the looks and script beside it.

    Other pages have this one's looks before their own.
    """
    script, template = (file.with_suffix(end).read_text(encoding="utf-8") for end in (".js", ".html"))
    looks = dict.fromkeys((Path(__file__).with_suffix(".css"), file.with_suffix(".css")))
    style = "".join(path.read_text(encoding="utf-8") for path in looks)
    environment = ImmutableSandboxedEnvironment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        loader=FileSystemLoader(Path(__file__).parent),  # the parts that pages have in common
    )
    shown = environment.from_string(template).render(
        **values,
        script=Markup(script),
        script_hash=_digest(script),
        style=Markup(style),
        style_hash=_digest(style),
    )
    return f"{PAGE_MARK}\n{shown}\n"


def in_script(value: object) -> str:
    """JSON for a <script>: no text in it can end the element or begin a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _digest(text: str) -> Markup:
    """A text's sha256 as a content security policy names it."""
    return Markup(f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}")


def inline(path: Path) -> str:
    """An SVG file as the source of an image, in which a browser runs nothing."""
    return f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _summary(findings: Findings) -> str:
    tasks = list(dict.fromkeys(each.task for each in findings.measures))
    others = sum(not each.is_base for each in findings.conditions)
    return f"{len(findings.rows)} rows; {others} conditions beside the base; tasks: {', '.join(tasks) or 'none'}"


def _choice(findings: Findings) -> dict[str, object] | None:
    """What --choose found: the rule, the condition, its constraints and its estimates on the rows held out."""
    choice = findings.choice
    if choice is None:
        return None
    checks = [
        {
            "text": escaped(each.constraint),
            "chosen_on": "undefined" if each.chosen_on is None else f"{each.chosen_on:.4g}",
            "held_out": "undefined" if each.held_out is None else f"{each.held_out:.4g}",
            "holds": "holds" if each.holds else "does not hold",
        }
        for each in choice.checks
    ]
    held_out = [
        {"label": escaped(f"{each.task}: {each.metric}"), "kind": "", **cells(each)} for each in choice.held_out
    ]
    return {
        "text": escaped(choice.text),
        "label": escaped(choice.label or "none"),
        "why": escaped(choice.why),
        "checks": checks,
        "rows": held_out,
    }


def _run(record: Mapping[str, object]) -> list[tuple[str, str]]:
    """The record as lines of a table: (name, value)."""
    lines = [("command", str(record.get("command", ""))), ("wsteer", str(record.get("wsteer_version", "")))]
    for part in ("options", "versions"):
        values = record.get(part)
        if isinstance(values, Mapping):
            for name, value in values.items():
                if value is not None:
                    told = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)
                    lines.append((f"--{name.replace('_', '-')}" if part == "options" else name, told))
    inputs = record.get("inputs")
    for entry in inputs if isinstance(inputs, Sequence) else ():
        if isinstance(entry, Mapping):
            digest = entry.get("sha256")
            told = f"{entry.get('path')}" + (f" (sha256 {str(digest)[:12]})" if digest else "")
            lines.append((f"input: {entry.get('role')}", told))
    return [(escaped(name), escaped(value)) for name, value in lines]


def numbers(findings: Findings, measure: Measure) -> dict[str, object]:
    """One metric's table: a row for each condition that has it."""
    rows = []
    chosen = findings.choice.condition if findings.choice else None
    for condition in findings.conditions:
        estimate = findings.by_place.get((measure.task, measure.metric, condition.name))
        if estimate is not None:
            kind = "base" if condition.is_base else "chosen" if condition.name == chosen else ""
            rows.append({"label": escaped(condition.label), "kind": kind, **cells(estimate)})
    told = [measure.kind, measure.unit, f"{measure.better} is better" if measure.better else "", measure.role or ""]
    return {"title": escaped(f"{measure.task}: {measure.metric} ({', '.join(filter(None, told))})"), "rows": rows}


def cells(estimate: Estimate) -> dict[str, object]:
    """An estimate as texts: a share in percent, its difference in points; all other numbers as they are."""
    share = estimate.numerator is not None  # a share with graded values is a mean
    unscored = ", ".join(f"{count} {escaped(why)}" for why, count in estimate.unscored.items())
    shown: dict[str, object] = {
        "value": "undefined" if estimate.value is None else _number(estimate.value, share),
        "interval": _interval(estimate.low, estimate.high, share),
        "count": f"{estimate.numerator}/{estimate.denominator}" if share else str(estimate.n),
        "low_n": estimate.low_n,
        "unscored": unscored,
    }
    compared = estimate.against_base
    if compared is None:
        return shown | dict.fromkeys(("difference", "difference_interval", "p", "pairs", "fixed", "broken"), "")
    return shown | {
        "difference": "" if compared.difference is None else _number(compared.difference, share, signed=True),
        "difference_interval": _interval(compared.low, compared.high, share, signed=True),
        "p": "" if compared.p is None else f"{compared.p:.2g}" + ("*" if compared.significant else ""),
        "pairs": _pairs(compared),
        "fixed": "" if compared.fixed is None else compared.fixed,
        "broken": "" if compared.broken is None else compared.broken,
    }


def _pairs(compared: Comparison) -> str:
    """The pairs, and of rows without a partner those whose prompts differ: there something else was asked."""
    differ = compared.left_out.get("prompt", 0)
    return f"{compared.pairs} ({differ} prompts differ)" if differ else str(compared.pairs)


def _number(value: float, share: bool, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{100 * value:{sign}.1f}" + ("" if signed else "%") if share else f"{value:{sign}.4g}"


def _interval(low: float | None, high: float | None, share: bool, signed: bool = False) -> str:
    if low is None or high is None:
        return ""
    return f"{_number(low, share, signed)} to {_number(high, share, signed)}"
