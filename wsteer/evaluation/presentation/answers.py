"""One question's answers side by side: the data that a page's script shows."""

from collections.abc import Mapping, Sequence

from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, Row, by_condition
from wsteer.evaluation.summary import Estimate
from wsteer.files.text import escaped

MOST_ANSWER, MOST_INPUT = 2000, 1500  # characters of a text that a page holds
MOST_CHARACTERS = 8_000_000  # of all texts of a page, and what its cells take
CELL = 16  # characters that a cell takes beside its texts


class Texts:
    """Texts that are held once, by their number."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number of a text, which is kept."""
        if text not in self._numbers:
            self._numbers[text] = len(self.all)
            self.all.append(text)
        return self._numbers[text]

    def cost(self, text: str) -> int:
        """The characters that it would add."""
        return 0 if text in self._numbers else len(text)


def sides(
    rows: Sequence[Row],
    measures: Sequence[Measure],
    conditions: Sequence[Condition],
    found: Mapping[tuple[str, str, str], Estimate],
) -> dict[str, object]:
    """Per metric the questions, and each one's value, reason and answer under each condition.

    Equal texts are held once, long ones cut. What exceeds `MOST_CHARACTERS` is left out: of each metric the
    questions stay that the conditions make worst.
    """
    table = by_condition(rows)
    texts = Texts()
    names = [each.name for each in conditions]
    base = next((i for i, each in enumerate(conditions) if each.is_base), None)
    metrics = []
    left = MOST_CHARACTERS
    for number, measure in enumerate(measures):
        columns = [table.get((measure.task, measure.metric, name), {}) for name in names]
        questions, taken = _questions(columns, base, measure, texts, left // (len(measures) - number))
        left -= taken
        effects = [_effect(found.get((measure.task, measure.metric, name))) for name in names]
        metrics.append(
            {
                "task": escaped(measure.task),
                "metric": escaped(measure.metric),
                "kind": measure.kind,
                "better": measure.better,
                "effects": effects,
                "total": len(dict.fromkeys(id for column in columns for id in column)),
                "questions": questions,
            }
        )
    labels = [escaped(each.label) for each in conditions]
    return {"conditions": labels, "base": -1 if base is None else base, "metrics": metrics, "texts": texts.all}


def _effect(estimate: Estimate | None) -> float:
    """How far a metric moves from the base, in either direction."""
    compared = estimate.against_base if estimate else None
    return abs(compared.difference) if compared and compared.difference is not None else 0.0


def _questions(
    columns: Sequence[Mapping[str, Row]], base: int | None, measure: Measure, texts: Texts, budget: int
) -> tuple[list[dict[str, object]], int]:
    """The questions of one metric that fit into `budget` characters, the worst first, and what they take."""
    ids = list(dict.fromkeys(id for column in columns for id in column))
    worst = {id: regressions([column.get(id) for column in columns], base, measure) for id in ids}
    places = {id: place for place, id in enumerate(ids)}
    found: list[dict[str, object]] = []
    taken = 0
    for id in sorted(ids, key=lambda id: (-worst[id], places[id])):
        cells = [column.get(id) for column in columns]
        shown = [(row.value, _cut(row.answer, MOST_ANSWER), escaped(row.why)) if row else None for row in cells]
        input = next((row.input for row in cells if row is not None and row.input), "")
        question = _cut(input, MOST_INPUT, end=True)
        cost = texts.cost(question) + sum(CELL + texts.cost(cell[1]) for cell in shown if cell)
        if taken + cost > budget:
            break
        taken += cost
        found.append(
            {
                "id": escaped(id)[:200],
                "place": places[id],
                "worst": worst[id],
                "input": texts.number(question),
                "cells": [(cell[0], texts.number(cell[2]), texts.number(cell[1])) if cell else None for cell in shown],
            }
        )
    return found, taken


def regressions(cells: Sequence[Row | None], base: int | None, measure: Measure) -> float:
    """How much worse than the base the conditions make a question: of a share their number, else the sum."""
    start = cells[base] if base is not None else None
    if start is None or start.value is None:
        return 0.0
    sign = -1.0 if measure.better == "lower" or measure.kind == "perplexity" else 1.0
    losses = [sign * (start.value - cell.value) for cell in cells if cell is not None and cell.value is not None]
    return float(round(sum(max(loss, 0.0) for loss in losses), 9))


def _cut(text: str, most: int, end: bool = False) -> str:
    """At most that many characters, from the beginning or the end, with a word on what is left out."""
    if len(text) <= most:
        return escaped(text)
    left = f"[{len(text) - most} characters more]"
    return f"{left} {escaped(text[-most:])}" if end else f"{escaped(text[:most])} {left}"
