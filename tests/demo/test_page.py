"""The report: verdicts and numbers that are those of the folder, one file that fetches nothing, texts stay texts."""

import base64
import hashlib
import json
import re
from dataclasses import asdict
from html import unescape as html_unescape
from pathlib import Path

import pytest

from tests.helpers.experiments import STEPS, evaluated, experiment, monitored
from wsteer.cli.demo_tables import finding_lines
from wsteer.demo.experiment import Experiment
from wsteer.demo.page import PAPER, links, write_report
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure
from wsteer.files.provenance import is_page
from wsteer.files.text import write_json

BASE, UP, A = Condition("base"), Condition("w", 1.0, delta="d"), Condition("a@12", 1.0, delta="a")
KEPT, RIGHT = Measure("facts", "kept"), Measure("facts", "accuracy")
IMAGE = f"{PAPER}/x2.png"
HOSTILE = "<script>alert(1)</script><!--</script><img src=x onerror=alert(1)>\u202e\x1b[2J\u2028&amp;\"'"
SVG = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="10" height="10"/>'
JUDGED = {"does": "How it sounds", "section": "4", "run": "wsteer eval {model} --judge {judge} -o tone"}
RULES = [
    {"metric": "kept", "more": "w", "than": "a@{block}", "keep": "accuracy", "within": 0.5},
    {"metric": "accuracy", "less": "w k=1", "than": "base"},
]
FINDINGS = (
    {"rules": RULES[:1], "images": [IMAGE]},
    {"name": "g", "says": "It costs.", "figures": "14", "rules": RULES, "picture": "curves"},
    {"name": "c", "says": "Close.", "figures": "8", "results": "monitor", "picture": "similarity"}
    | {"rules": [{"above": ["evil ~ w"], "below": ["french ~ w"]}]},
    {"name": "t", "says": "It sounds so.", "figures": "15", "results": "tone", "rules": RULES[:1]},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    run = tmp_path / "run"
    values = {KEPT: [[0] * 20, [1] * 20, [0] * 18 + [1] * 2], RIGHT: [[1, 0] * 10, [0, 1] * 10, [1, 0] * 10]}
    place = evaluated(run, [BASE, UP, A], values)
    (place / "tradeoff.svg").write_text(SVG)
    (place / "report.html").write_text("x")
    (monitored(run, {("evil", "w"): 0.5, ("french", "w"): 0.0}) / "similarity.svg").write_text(SVG)
    (run / "pos").mkdir()
    write_json(run / "pos" / "wsteer.json", {"inputs": [{"role": "base", "name": "tiny-1"}]})
    return run


@pytest.fixture
def own(tmp_path: Path) -> Experiment:
    return experiment(tmp_path, *FINDINGS, steps=[*STEPS, JUDGED])


def text_of(html: str) -> str:
    """The words of a page, without tags and with single spaces."""
    return " ".join(re.sub(r"<[^>]*>", " ", html.partition("<body>")[2]).split())


def part(html: str, number: int) -> str:
    """The section of one finding."""
    return re.findall(r'<section class="finding".*?</section>', html, flags=re.S)[number - 1]


def test_the_page_has_each_finding_with_its_verdict_and_numbers(own: Experiment, folder: Path) -> None:
    report = write_report(own, "small", folder, folder / "report.html")
    html = (folder / "report.html").read_text()
    words = text_of(html)
    assert (report.model, report.experiment, report.scale) == ("tiny-1", "own", "small")
    assert [each.verdict for each in report.findings] == ["agrees", "cannot tell at this size", "agrees", "left out"]
    assert "Section 4.1 of the paper · small scale · tiny-1" in words and "Small." in words
    for each in report.findings:
        assert f'<span class="mark {KINDS[each.verdict]}">{each.verdict}</span>' in html
    first = part(html, 1)
    told = report.findings[0].rules[0]
    assert told.decisive in text_of(f"<body>{html}") and told.decisive.startswith("+90.0 (")
    # the metric of both sides and what they keep, with intervals and counts, and the difference
    cells = [
        [re.sub("<.*?>", "", each) for each in re.findall(r"<t[hd].*?</t[hd]>", row)] for row in first.split("<tr")
    ]
    assert ["w", "w k=1", "100.0%", "83.9% to 100.0%", "20/20", "50.0%", "29.9% to 70.1%"] in cells
    assert ["a@12", "a@12 k=1", "10.0%", "2.8% to 30.1%", "2/20", "50.0%", "29.9% to 70.1%"] in cells
    assert any(row[:3] == ["difference", "", "+90.0"] and row[4] == "20 pairs" for row in cells)
    assert "Rule: kept: more under w than under a@12; of a method" in text_of(f"<body>{first}")
    assert "is above 0." in first


KINDS = {"agrees": "agrees", "does not": "not", "cannot tell at this size": "unsure", "left out": "out"}


def test_the_papers_side_has_a_link_and_a_box_that_loads_nothing_by_itself(own: Experiment, folder: Path) -> None:
    write_report(own, "small", folder, folder / "report.html")
    html = (folder / "report.html").read_text()
    first, second = part(html, 1), part(html, 2)
    assert f'section <a href="{PAPER}#S4.SS1.SSS1">4.1.1</a>' in first and "Figures 2, 13" in first
    assert json.loads(html_unescape(re.search('data-images="(.*?)"', first)[1])) == [IMAGE]
    assert 'type="button" hidden>Show it, from arxiv.org' in first and f'<a href="{IMAGE}" rel="noreferrer">' in first
    assert "names no picture of the paper" in second and "Figure 14" in second
    assert first.count("up: kept") == 3  # under both pictures alike, and for those who do not see ours
    assert re.findall('src="(.*?)"', html) == [SOURCE, SOURCE]


SOURCE = f"data:image/svg+xml;base64,{base64.b64encode(SVG.encode()).decode()}"


def test_a_browser_loads_pictures_of_arxiv_and_runs_the_pages_own_script_alone(own: Experiment, folder: Path) -> None:
    write_report(own, "small", folder, folder / "report.html")
    html = (folder / "report.html").read_text()
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', html)[1]
    digests = {}
    for tag in ("style", "script"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", html, flags=re.S)
        digests[tag] = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data: https://arxiv.org; style-src 'sha256-{digests['style']}'; "
        f"script-src 'sha256-{digests['script']}'"
    )
    assert not re.search(r"(?:\s(?:style|on\w+)=|<link|@import|url\()", html)


def test_a_picture_that_is_not_there_is_told_with_those_that_are(own: Experiment, folder: Path) -> None:
    write_report(own, "small", folder, folder / "report.html")
    assert "There is no picture curves in eval; there are tradeoff." in part((folder / "report.html").read_text(), 2)


def test_what_is_left_out_is_named_with_the_reason(own: Experiment, folder: Path) -> None:
    report = write_report(own, "small", folder, folder / "report.html")
    html = (folder / "report.html").read_text()
    why = "there is no judge: never graded by the model under test"
    assert report.left_out == (f"eval -> tone: {why}",)
    words = text_of(html)
    assert f"eval -&gt; tone How it sounds: {why}" in words
    assert f"How it sounds: {why}." in text_of(f"<body>{part(html, 4)}")
    assert "How it sounds section 4 left out wsteer eval tiny-1" in words


def test_all_numbers_of_each_folder_and_links_to_its_own_page(own: Experiment, folder: Path, tmp_path: Path) -> None:
    write_report(own, "small", folder, folder / "report.html")
    write_report(own, "small", folder, tmp_path / "elsewhere.html")
    html, other = ((place).read_text() for place in (folder / "report.html", tmp_path / "elsewhere.html"))
    assert '<a href="eval/report.html">eval/report.html</a>' in html
    assert '<a href="run/eval/report.html">eval/report.html</a>' in other
    assert '<a href="monitor/similarity.csv">' in html
    words = text_of(html)
    for text in ("facts: kept (share)", "facts: accuracy (share)", "evil 0.5000", "french 0.0000"):
        assert text in words
    assert html.count("<th>a@12 k=1</th>") == 2


def test_trajectories_are_among_the_numbers(tmp_path: Path) -> None:
    run = {"run": "sport", "steps": [8, 24], "deltas": ["w"], "cosines": [[0.1], [None]], "floor": [[0.01], [None]]}
    monitored(tmp_path / "run", {("evil", "w"): 0.5}, runs=[run])
    rules = [{"above": ["evil ~ w"], "below": ["sport step 8 ~ w"]}]
    own = experiment(tmp_path, {"results": "monitor", "rules": rules})
    write_report(own, "small", tmp_path / "run", tmp_path / "page.html")
    words = text_of((tmp_path / "page.html").read_text())
    assert "Cosines of sport by training step w step 8 0.1000 step 24" in words
    assert "evil ~ w above 0.5000 0.01 sport step 8 ~ w below 0.1000 0.01" in words


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    conditions = [BASE, Condition(HOSTILE, 1.0, delta="d")]
    measure = Measure(HOSTILE, HOSTILE)
    evaluated(tmp_path / "run", conditions, {measure: [[0] * 20, [1] * 20]})
    monitored(tmp_path / "run", {(HOSTILE, "w"): 0.5, ("french", "w"): 0.0})
    found = {"name": HOSTILE, "says": HOSTILE, "section": HOSTILE, "figures": HOSTILE, "axes": HOSTILE}
    own = experiment(
        tmp_path,
        {**found, "images": [f'https://arxiv.org/"{HOSTILE}'], "rules": [MORE]},
        {**found, "results": "monitor", "rules": [{"above": [f"{HOSTILE} ~ w"], "below": ["french ~ w"]}]},
        steps=[{"does": HOSTILE, "section": HOSTILE, "run": "wsteer generate '<img src=x>' --judge {judge} -o data"}],
        title=HOSTILE,
        section=HOSTILE,
        small={"model": "m", "about": HOSTILE},
    )
    report = write_report(own, "small", tmp_path / "run", tmp_path / "page.html")
    assert [each.verdict for each in report.findings] == ["agrees", "agrees"]
    html = (tmp_path / "page.html").read_text()
    assert html.count("<script") == html.count("</script") == 1 and "<img" not in html
    assert not re.search("[\u202e\x1b\u2028]", html) and "onerror=alert(1)>" not in html
    images = html_unescape(re.search('data-images="(.*?)"', html)[1])
    assert json.loads(images) == [f'https://arxiv.org/"{HOSTILE}']


MORE = {"metric": HOSTILE, "more": f"{HOSTILE} k=1", "than": "base"}


def test_equal_folders_give_equal_bytes_and_a_page_is_replaced_by_force_alone(own: Experiment, folder: Path) -> None:
    page = folder / "report.html"
    write_report(own, "small", folder, page)
    first = page.read_bytes()
    assert is_page(page)
    with pytest.raises(WsteerError, match="exists"):
        write_report(own, "small", folder, page)
    write_json(folder / "wsteer.json", {"command": "demo", "inputs": [{"role": "model", "path": "other"}]})
    write_report(own, "small", folder, page, force=True)
    assert page.read_bytes() == first  # also in the folder of a run, whose record a script's folder lacks
    page.write_text("mine")
    with pytest.raises(WsteerError, match="not a delta file, report"):
        write_report(own, "small", folder, page, force=True)
    assert page.read_text() == "mine"


def test_a_slip_leaves_nothing_and_an_empty_folder_has_nothing_but_what_is_left_out(tmp_path: Path) -> None:
    rule = {"metric": "kept", "more": "v", "than": "base"}
    evaluated(tmp_path / "run", [BASE, UP], {KEPT: [[0], [1]]})
    with pytest.raises(WsteerError, match="no condition or method 'v'"):
        write_report(experiment(tmp_path, {"rules": [rule]}), "small", tmp_path / "run", tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
    with pytest.raises(WsteerError, match="is no folder"):
        write_report(experiment(tmp_path, {"rules": [rule]}), "small", tmp_path / "none", tmp_path / "page.html")
    (tmp_path / "empty").mkdir()
    report = write_report(experiment(tmp_path, {"rules": [rule]}), "small", tmp_path / "empty", tmp_path / "page.html")
    assert [each.verdict for each in report.findings] == ["left out"] and report.model is None
    assert "No step has made results yet." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("section", "anchors"),
    [
        ("3", ["S3"]),
        ("4.1.1, App. E", ["S4.SS1.SSS1", "A5"]),
        ("Appendix I.3", ["A9.SS3"]),
        ("4.3, Data", ["S4.SS3", ""]),
    ],
)
def test_sections_have_the_papers_anchors(section: str, anchors: list[str]) -> None:
    assert [each["address"].partition("#")[2] for each in links(section, PAPER)] == anchors


def test_the_terminal_has_figure_verdict_and_the_number_that_decides(own: Experiment, folder: Path) -> None:
    report = write_report(own, "small", folder, folder / "report.html")
    lines = list(finding_lines(report))
    rows = [" ".join(line.split()) for line in lines]
    assert json.loads(json.dumps(asdict(report), allow_nan=False))["findings"][0]["verdict"] == "agrees"  # for --json
    number = report.findings[0].rules[0].decisive
    assert rows[0] == "figure finding agrees here? the number that decides"
    assert rows[1] == f"2, 13 f agrees {number} kept, w k=1 minus a@12 k=1"
    assert rows[3] == "8 c agrees +0.5 (noise 0.01) the nearest cosines, above minus below"
    assert rows[4] == "15 t left out"
    assert lines[-2:] == [
        "left out, eval -> tone: there is no judge: never graded by the model under test",
        str(folder / "report.html"),
    ]


def test_a_picture_that_findings_share_is_in_the_page_once(tmp_path: Path) -> None:
    found = experiment(tmp_path, *({"name": name, "rules": RULES[1:]} for name in "abc"))
    place = evaluated(tmp_path, [BASE, UP], {KEPT: [[0] * 4, [1] * 4], RIGHT: [[1] * 4, [0] * 4]})
    (place / "tradeoff.svg").write_text(SVG)
    html = Path(write_report(found, "small", tmp_path, tmp_path / "report.html").output).read_text()
    assert html.count(base64.b64encode(SVG.encode()).decode()) == 1 and html.count("<img") == 1
    assert html.count('data-same="finding-1"') == html.count('<a href="#finding-1">an earlier finding</a>') == 2
