"""The page: nothing in it is taken for HTML, nothing is fetched, the data of its answers are whole."""

import base64
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.evaluations import MEASURES, conditions, rows
from wsteer.evaluation.choosing import choose, parse_choice
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.presentation import answers
from wsteer.evaluation.presentation.page import Findings, in_script, page
from wsteer.evaluation.rows import ABSTAINED, OUTSIDE, Measure, Row
from wsteer.evaluation.summary import summarise
from wsteer.files.provenance import is_page

RECORD = {
    "command": "eval",
    "options": {"k": [0, 1], "limit": None, "task": "agreement"},
    "inputs": [{"role": "delta", "path": "w.safetensors", "sha256": "ab" * 32}],
    "versions": {"torch": "2"},
    "wsteer_version": "9.8.7",
}
HOSTILE = "<script>alert(1)</script><!--</script><img src=x onerror=alert(1)>\u202e\x1b[2J\u2028&amp;\"'"


def findings(found: Sequence[Row], measures: Sequence[Measure], chosen: Sequence[Condition], **more) -> Findings:
    return Findings(found, measures, chosen, summarise(found, measures, chosen), RECORD, **more)


def data_of(html: str) -> Mapping:
    (data,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', html, flags=re.S)
    return json.loads(data)


def two(values: Sequence[tuple[float | None, float | None]], **measure) -> tuple[list[Row], Measure, list[Condition]]:
    """Rows of the base and of one condition, by (value under the base, under the condition)."""
    chosen = [Condition(BASE), Condition("w", 1.0, delta="w")]
    found = [
        Row(
            "t",
            "m",
            each.name,
            f"q{i}",
            pair[side],
            "" if pair[side] is not None else ABSTAINED,
            input=f"Question {i}?",
        )
        for side, each in enumerate(chosen)
        for i, pair in enumerate(values)
    ]
    return found, Measure("t", "m", **measure), chosen


def test_the_page_tells_what_was_run_and_found() -> None:
    chosen = conditions(2)
    html = page(
        findings(rows(chosen, 30), MEASURES, chosen, warnings=["take <care>"], notes=["a & b"]), {}, "wsteer eval"
    )
    for text in (
        "--task",
        "agreement",
        "w.safetensors (sha256 abababababab)",
        "9.8.7",
        "take &lt;care&gt;",
        "a &amp; b",
    ):
        assert text in html
    assert "--limit" not in html
    for each in chosen:
        assert f"<th>{each.label}</th>" in html


def test_differences_counts_and_reasons_are_in_the_table() -> None:
    found, measure, chosen = two([(1, 0)] * 3 + [(0, 1), (1, 1), (0, None)], better="higher")
    html = page(findings(found, [measure], chosen), {}, "t")
    (line,) = re.findall(r"<tr><th>w k=1</th>(.*?)</tr>", html)
    cells = [re.sub(r"<.*?>", "", cell).strip() for cell in re.findall(r"<td.*?>(.*?)</td>", line)]
    assert cells[0] == "40.0%" and cells[2] == "2/5 few" and cells[3] == "-40.0"
    assert cells[6:] == ["5", "1", "3", "1 abstained"]


def test_a_choice_is_shown_with_its_constraints() -> None:
    chosen = conditions(8)
    found = rows(chosen, 48)
    choice = choose(found, MEASURES, chosen, parse_choice("min agreement s.t. lo(accuracy) > -0.4"))
    assert choice.label is not None
    html = page(findings(found, MEASURES, chosen, choice=choice), {}, "t")
    assert f"<code>min agreement s.t. lo(accuracy) &gt; -0.4</code>: <strong>{choice.label}</strong>" in html
    assert f'<tr class="chosen"><th>{choice.label}</th>' in html
    assert "On the rows held out" in html


def test_hostile_texts_stay_texts() -> None:
    chosen = [Condition(BASE), Condition(HOSTILE, 1.0, delta="w")]
    found = [Row(HOSTILE, HOSTILE, each.name, HOSTILE, 1.0, input=HOSTILE, answer=HOSTILE) for each in chosen]
    spoilt = replace(
        findings(found, [Measure(HOSTILE, HOSTILE, unit=HOSTILE)], chosen), warnings=[HOSTILE], notes=[HOSTILE]
    )
    html = page(replace(spoilt, record={**RECORD, "options": {HOSTILE: HOSTILE}}), {}, HOSTILE)
    assert (
        html.count("<script") == html.count("</script") == 2 and "<img" not in html and "onerror=alert(1)>" not in html
    )
    assert not re.search("[\u202e\x1b\u2028]", html)
    data = data_of(html)
    assert "</script>" in data["texts"][data["metrics"][0]["questions"][0]["input"]]


def test_json_in_a_script_cannot_end_it() -> None:
    text = in_script({"a": "</script><!--&"})
    assert not re.search("[<>&]", text)
    assert json.loads(text) == {"a": "</script><!--&"}


def test_a_browser_runs_the_pages_own_script_alone_and_fetches_nothing() -> None:
    found, measure, chosen = two([(1, 0)])
    html = page(findings(found, [measure], chosen), {}, "t")
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', html)
    script = html.rpartition("<script>")[2].partition("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy.startswith("default-src 'none'; img-src data:;") and f"script-src 'sha256-{digest}'" in policy
    assert not re.search(r"(src|href)=[\"'](?!data:|#)", html) and "http" not in html.partition("<body>")[2]


def test_pictures_are_in_the_page(tmp_path: Path) -> None:
    (tmp_path / "p.svg").write_bytes(b"<svg/>")
    found, measure, chosen = two([(1, 0)])
    html = page(findings(found, [measure], chosen), {'A "title"': tmp_path / "p.svg"}, "t")
    assert 'src="data:image/svg+xml;base64,PHN2Zy8+" alt="A &#34;title&#34;"' in html


def test_the_answers_hold_each_value_once_per_condition() -> None:
    found, measure, chosen = two([(1, 1), (1, 0), (None, 1)], better="higher")
    data = data_of(page(findings(found, [measure], chosen), {}, "t"))
    assert data["conditions"] == ["base", "w k=1"] and data["base"] == 0
    (metric,) = data["metrics"]
    assert (metric["task"], metric["metric"], metric["kind"], metric["better"]) == ("t", "m", "share", "higher")
    by_id = {each["id"]: each for each in metric["questions"]}
    assert [each["id"] for each in metric["questions"]] == ["q1", "q0", "q2"]  # the worst first
    assert (by_id["q1"]["worst"], by_id["q0"]["worst"], by_id["q1"]["place"]) == (1, 0, 1)
    assert [cell[0] for cell in by_id["q2"]["cells"]] == [None, 1]
    assert data["texts"][by_id["q2"]["cells"][0][1]] == ABSTAINED


@pytest.mark.parametrize(
    "better, kind, worst", [("higher", "share", 1), ("lower", "share", 1), (None, "share", 1), ("lower", "mean", 0.5)]
)
def test_a_regression_is_a_change_for_the_worse(better: str | None, kind: str, worst: float) -> None:
    values = (1.0, 0.0) if better != "lower" else (0.0, 1.0) if kind == "share" else (0.25, 0.75)
    found, measure, _ = two([values], better=better, kind=kind)
    assert answers.regressions(found, 0, measure) == worst
    assert answers.regressions(found[::-1], 0, measure) == 0
    assert answers.regressions(found, None, measure) == 0


def test_long_texts_are_cut_and_say_so() -> None:
    found, measure, chosen = two([(1, 0)])
    long = [replace(row, input="i" * 5000 + "end", answer="a" * 100_000) for row in found]
    texts = data_of(page(findings(long, [measure], chosen), {}, "t"))["texts"]
    assert f"{'a' * answers.MOST_ANSWER} [98000 characters more]" in texts
    assert any(text.startswith("[3503 characters more]") and text.endswith("end") for text in texts)


def test_what_a_page_cannot_hold_leaves_the_worst(monkeypatch: pytest.MonkeyPatch) -> None:
    found, measure, chosen = two([(1, 1)] * 20 + [(1, 0)] * 3, better="higher")
    monkeypatch.setattr(answers, "MOST_CHARACTERS", 300)
    (metric,) = answers.sides(found, [measure], chosen, {})["metrics"]  # type: ignore[misc]
    assert metric["total"] == 23
    assert 3 <= len(metric["questions"]) < 10
    assert [each["worst"] for each in metric["questions"][:4]] == [1, 1, 1, 0]


def test_rows_outside_of_a_metric_are_no_failures_in_the_table() -> None:
    found, measure, chosen = two([(1, 1)] * 3)
    outside = [replace(found[0], id="out", group="out", value=None, why=OUTSIDE), *found]
    html = page(findings(outside, [measure], chosen), {}, "t")
    assert "outside" not in html.partition('<h2 id="side">')[0]


@pytest.mark.slow
def test_a_page_of_many_answers_stays_small() -> None:
    chosen = conditions(25)
    html = page(findings(rows(chosen, 48, prompts=4), MEASURES, chosen), {}, "t")
    assert len(html) < 3_000_000


def test_equal_findings_give_equal_pages_that_force_may_replace(tmp_path: Path) -> None:
    found, measure, chosen = two([(1, 0)])
    html = page(findings(found, [measure], chosen), {}, "t")
    assert html == page(findings(found, [measure], chosen), {}, "t")
    (tmp_path / "page.html").write_text(html)
    (tmp_path / "other.html").write_text("<!doctype html>\n<p>mine")
    assert is_page(tmp_path / "page.html") and not is_page(tmp_path / "other.html") and not is_page(tmp_path / "none")
