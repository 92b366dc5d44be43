"""generate's results, as lines for the terminal."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.elicitation.answer import AnswersReport
    from wsteer.elicitation.balance import Nuisance
    from wsteer.elicitation.gcd import GcdReport
    from wsteer.elicitation.generate import GenerateReport
    from wsteer.elicitation.shipped_sets import SetReport

MOST_SHOWN = 200  # characters of a prompt or an answer


def trait_lines(report: "GenerateReport", max_new_tokens: int) -> list[str]:
    """How many rows a trait gave, what was dropped, and how the sides compare."""
    cut = f"{report.truncated} cut at {max_new_tokens} tokens"
    if report.dropped_thinking:
        cut += f", {report.dropped_thinking} of them before they answered (dropped)"
    if report.dropped_cut:
        cut += f", {report.dropped_cut} of them in the answer (dropped)"
    judged = []
    if report.pairs is not None:
        dropped = [f"{count} {why.replace('_', ' ')}" for why, count in report.pairs.items() if count and why != "kept"]
        total = sum(report.pairs.values())
        judged = [
            f"the judge kept {report.pairs['kept']} of {total} pairs" + (": " if dropped else "") + ", ".join(dropped)
        ]
    sides = table(
        ["", "pos", "neg", "d"],
        ([each.name, f"{each.pos:.3g}", f"{each.neg:.3g}", _d(each)] for each in report.balance),
    )
    return [
        f"{report.rows_pos} positive rows of {report.mean_tokens_pos:.0f} tokens and {report.rows_neg} negative ones "
        f"of {report.mean_tokens_neg:.0f}, from {report.questions} questions ({report.questions_eval} kept for eval)",
        f"{report.dropped_empty} empty answers dropped, {cut}",
        *judged,
        *(sides if report.balance else ()),
        report.output,
    ]


def gcd_lines(report: "GcdReport") -> list[str]:
    """How many rows of each kind there are."""
    return [
        f"{report.rows_query} questions and {report.rows_correct} right solutions to train on, {report.rows_contrast} "
        f"wrong ones on each side, {report.rows_test} pairs to test with",
        report.output,
    ]


def set_lines(report: "SetReport") -> list[str]:
    """How many rows each file has."""
    return [", ".join(f"{count} rows in {name}" for name, count in report.rows.items()), report.output]


def set_names(sets: Mapping[str, str]) -> list[str]:
    """The names of sets, each with what its rows are."""
    width = max(map(len, sets))
    return [f"{name:{width}}  {rows}" for name, rows in sets.items()]


def _d(nuisance: "Nuisance") -> str:
    """Cohen's d, with a mark where the sides differ."""
    return ("-" if nuisance.d is None else f"{nuisance.d:.2f}") + (" *" if nuisance.differs else "  ")


def answer_lines(report: "AnswersReport", max_new_tokens: int) -> Iterator[str]:
    """The first prompts with an answer under each condition, and how many answers there are."""
    width = max(map(len, report.conditions))
    for _, answers in groupby(report.first, lambda each: each.index):
        for number, each in enumerate(answers):
            if number == 0:
                yield f"prompt: {_short(each.prompt)}"
            end = "" if each.finished else " (cut)"
            yield f"  {each.condition:{width}}  {_short(each.answer)}{end}"
    yield from report.notes
    thinking = f", {report.cut_thinking} of them before they answered" if report.cut_thinking else ""
    count = len(report.conditions)
    under = f"{count} conditions" if count > 1 else report.conditions[0]
    yield (
        f"{report.rows} answers to {report.prompts} prompts under {under}, {report.empty} of them empty, "
        f"{report.truncated} cut at {max_new_tokens} tokens{thinking}"
    )
    yield report.output


def _short(text: str) -> str:
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."
