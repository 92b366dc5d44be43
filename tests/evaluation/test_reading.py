"""Logs of several programs read as one evaluation, and the page that `wsteer report` writes of them."""

import json
import shutil
import sys
import zipfile
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from tests.helpers.evaluations import MEASURES, conditions, rows
from tests.helpers.others_logs import inspect_logs, lm_run
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.reading import read
from wsteer.evaluation.rows import Row, write_rows
from wsteer.evaluation.summary import summarise
from wsteer.files.text import read_json, write_json


def ours(folder: Path, chosen: list[Condition], found: list[Row]) -> Path:
    """A folder of `wsteer eval`: what `report` reads of it."""
    folder.mkdir()
    listed = {"conditions": [each.as_json() for each in chosen], "measures": [asdict(each) for each in MEASURES]}
    write_json(folder / "results.json", {**listed, "estimates": []})
    write_rows(folder / "rows.jsonl", found)
    return folder


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Files of lm-eval of a base and of two k."""
    lm_run(tmp_path / "lm" / "base", {"pretrained": "org/m"}, (True, True, False))
    lm_run(tmp_path / "lm" / "k1", {"pretrained": "org/m", "peft": "sweep/k1"}, (True, False, False))
    lm_run(tmp_path / "lm" / "k-1", {"pretrained": "org/m", "peft": "sweep/k-1"}, (True, True, True))
    return tmp_path / "lm"


def test_a_folder_of_lm_eval_is_a_sweep(sweep: Path) -> None:
    found = read([sweep])
    assert [each.label for each in found.conditions] == ["base", "sweep k=-1", "sweep k=1"]
    estimates = {e.condition: e for e in summarise(found.rows, found.measures, found.conditions) if e.metric == "acc"}
    values = [estimates[each.name].numerator for each in found.conditions]
    assert values == [2, 3, 1]
    compared = estimates[found.conditions[2].name].against_base
    assert compared is not None and (compared.pairs, compared.broken) == (3, 1)
    assert len(found.files) == 6


@pytest.mark.slow
def test_logs_of_inspect_and_files_of_lm_eval_are_one_comparison(sweep: Path, tmp_path: Path) -> None:
    logs = inspect_logs(
        tmp_path / "i", {"vllm/org/m": (True, False, False), "vllm/org/m:sweep/k1": (True, True, False)}
    )
    found = read([tmp_path / "i" / "logs", sweep])
    assert [each.label for each in found.conditions] == ["base", "sweep k=1", "sweep k=-1"]
    mine = [row for row in found.rows if row.metric == "includes"]
    assert [(row.id, row.group, row.value) for row in mine[:3]] == [
        *(("q0.1", "q0", 1.0), ("q1.1", "q1", 0.0), ("q2.1", "q2", 0.0)),
    ]
    estimates = summarise(found.rows, found.measures, found.conditions)
    (compared,) = [e.against_base for e in estimates if e.metric == "includes" and e.against_base]
    assert (compared.pairs, compared.fixed) == (3, 1)
    again = read([*logs, sweep])
    assert again.rows == found.rows


@pytest.mark.slow
def test_samples_that_a_server_did_not_draw_are_a_warning(tmp_path: Path) -> None:
    inspect_logs(tmp_path, {"openai-api/local/w/k1": (True,) * 6, "openai-api/local/m": (True,) * 6}, epochs=2)
    found = read([tmp_path / "logs"])
    assert [warning.partition(":")[0] for warning in found.warnings] == ["w k=1", "m"]
    for warning in found.warnings:
        assert "cities asks each sample 2 times, and all answers to one are equal" in warning
        assert warning.endswith("let the task set a temperature, and whatever serves the model heed it")


@pytest.mark.slow
def test_an_unfinished_log_counts_with_a_warning_unless_another_is_whole(tmp_path: Path) -> None:
    inspect_logs(tmp_path / "done", {"vllm/m": (True, True, True)})
    cut = {"status": "cancelled"}
    inspect_logs(tmp_path / "cut", {"vllm/m": (True, False), "vllm/m:s/k1": (True, False)}, **cut)
    found = read([tmp_path / "cut" / "logs", tmp_path / "done" / "logs"])
    assert [(row.condition == found.conditions[0].name, row.value) for row in found.rows] == [
        *((False, 1.0), (False, 0.0), (True, 1.0), (True, 1.0), (True, 1.0)),
    ]
    assert found.warnings == (
        "0.eval ended before it was done and is left out: 0.eval has the task whole",
        "1.eval ended before it was done: the rows that were scored are reported",
    )


def test_folders_of_eval_are_merged_and_the_shared_base_counts_once(tmp_path: Path) -> None:
    chosen = conditions(8)
    made = rows(chosen, 6)
    halves = [[chosen[0], *chosen[1:5]], [chosen[0], *chosen[5:]]]
    folders = [
        ours(tmp_path / str(i), half, [row for row in made if row.condition in {each.name for each in half}])
        for i, half in enumerate(halves)
    ]
    found = read(folders)
    assert list(found.conditions) == chosen
    assert sorted(found.rows, key=repr) == sorted(made, key=repr)
    assert found.measures == MEASURES
    together = tmp_path / "together"
    together.mkdir()
    for folder in folders:
        shutil.copytree(folder, together / folder.name)
    assert read([together]).rows == found.rows


def test_other_rows_of_one_condition_and_other_bases_are_refused(tmp_path: Path) -> None:
    chosen = conditions(1)
    one = ours(tmp_path / "one", chosen, rows(chosen, 6))
    two = ours(tmp_path / "two", chosen, rows(chosen, 6, seed=1))
    with pytest.raises(WsteerError, match=r"/one and .*/two both hold agreement under one condition"):
        read([one, two])
    other = [Condition("base", model="another"), Condition("w", 2.0, "another", "w")]
    three = ours(tmp_path / "three", other, rows(other, 6))
    with pytest.raises(WsteerError, match=r"different bases .model: another, m."):
        read([one, three])


def test_two_runs_of_lm_eval_of_one_condition_are_refused(tmp_path: Path) -> None:
    for name, rights in (("one", (True, False)), ("two", (False, True))):
        lm_run(tmp_path / name, {"pretrained": "m"}, rights)
    with pytest.raises(WsteerError, match="both hold capitals under one condition"):
        read([tmp_path / "one", tmp_path / "two"])


def bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("header.json", bytes(200_000_000))


BAD = {
    "missing": (lambda path: path / "none.eval", "does not exist"),
    "an empty folder": (lambda path: path, "holds no log"),
    "a text": (lambda path: _written(path / "notes.txt", "x"), "is no log: give"),
    "JSON of another kind": (lambda path: _written(path / "x.json", "{}"), "is no log: give"),
    "broken JSON": (lambda path: _written(path / "x.json", '{"eval": '), "is no log: give"),
    "a damaged log": (lambda path: _written(path / "x.eval", "PK\x03\x04 no zip"), "cannot be read as a log"),
    "an empty log": (lambda path: _written(path / "x.eval", ""), "cannot be read as a log"),
    "a log that unfolds": (lambda path: (bomb(path / "x.eval"), path / "x.eval")[1], "unpacks to 200 MB"),
    "another results.json": (
        lambda path: (_written(path / "rows.jsonl", ""), _written(path / "results.json", '{"conditions": [1]}'), path)[
            2
        ],
        "is not what wsteer eval of this version writes",
    ),
}


def _written(path: Path, content: str) -> Path:
    path.write_text(content)
    return path


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("value", "1"),
        ("value", True),
        ("value", None),
        ("value", [1]),
        ("value", 10**400),
        ("id", 5),
        ("group", None),
        ("answer", 5),
        ("weight", -1),
        ("weight", "1"),
        ("finished", "yes"),
    ],
    ids=lambda each: str(each)[:20],
)
def test_a_row_of_another_form_is_refused(tmp_path: Path, name: str, value: object) -> None:
    chosen = conditions(1)
    folder = ours(tmp_path / "one", chosen, rows(chosen, 6))
    lines = (folder / "rows.jsonl").read_text().splitlines(keepends=True)
    changed = json.dumps({**json.loads(lines[0]), name: value}) + "\n"
    (folder / "rows.jsonl").write_text("".join([changed, *lines[1:]]))
    with pytest.raises(WsteerError, match=r"rows.jsonl:1 is no row of an evaluation"):
        read([folder])


@pytest.mark.parametrize(
    ("name", "value"), [("kind", "median"), ("role", "x"), ("better", "x"), ("unit", 5), ("task", 3), ("more", 1)]
)
def test_a_measure_of_another_form_is_refused(tmp_path: Path, name: str, value: object) -> None:
    chosen = conditions(1)
    folder = ours(tmp_path / "one", chosen, rows(chosen, 6))
    found = json.loads((folder / "results.json").read_text())
    found["measures"][0][name] = value
    (folder / "results.json").write_text(json.dumps(found))
    with pytest.raises(WsteerError, match="is not what wsteer eval of this version writes"):
        read([folder])


def test_a_row_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    chosen = conditions(1)
    made = rows(chosen, 6)
    folder = ours(tmp_path / "one", chosen, [*made, made[0]])
    with pytest.raises(WsteerError, match=r"the row 'q0.0' of agreement, agreement is there twice"):
        read([folder])
    run = lm_run(tmp_path / "lm", {"pretrained": "m"})
    (samples,) = run.glob("samples_*.jsonl")
    samples.write_text(samples.read_text() + samples.read_text())
    with pytest.raises(WsteerError, match="has the row 0 again"):
        read([run])


def test_a_log_without_rows_is_told(sweep: Path) -> None:
    (samples,) = (next(path for path in sorted(sweep.iterdir()) if path.is_dir())).glob("samples_*.jsonl")
    samples.write_text("")
    found = read([sweep])
    assert any("holds no rows with scores" in warning for warning in found.warnings)


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_log_is_one_line(tmp_path: Path, cli: Cli, name: str) -> None:
    made, says = BAD[name]
    ran = cli("report", made(tmp_path), "-o", tmp_path / "page.html", "-q")
    assert (ran.code, ran.out) == (1, "")
    assert says in ran.error
    assert not (tmp_path / "page.html").exists()


def test_a_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with pytest.raises(WsteerError, match=r"needs inspect_ai: pip install 'wsteer.inspect.'"):
        read([_written(tmp_path / "x.eval", "")])


@pytest.mark.slow
def test_the_page_is_the_same_each_time_and_names_no_place(sweep: Path, tmp_path: Path, cli: Cli) -> None:
    ran = cli("report", sweep, "-o", tmp_path / "a.html", "-q")
    assert ran.code == 0, ran.err
    assert ran.out.splitlines()[0].split() == ["capitals", "acc", "change", "answer_margin", "change"]
    assert "sweep k=1" in ran.out and ran.out.splitlines()[-1] == str(tmp_path / "a.html")
    again = cli("report", sweep, "-o", tmp_path / "b.html", "--json", "-q").json
    assert [each["label"] for each in again["conditions"]] == ["base", "sweep k=-1", "sweep k=1"]
    page = (tmp_path / "a.html").read_text()
    assert page == (tmp_path / "b.html").read_text()
    assert str(tmp_path) not in page
    assert "data:image/svg+xml" in page and "Paris" in page


def test_the_base_can_be_named(tmp_path: Path, cli: Cli) -> None:
    for name in ("one", "two"):
        lm_run(tmp_path / name, {"pretrained": name})
    ran = cli("report", tmp_path / "one", tmp_path / "two", "-o", tmp_path / "x.html", "-q")
    assert ran.error == "which model is the base is not told; name one with --base: one, two"
    found = read([tmp_path / "one", tmp_path / "two"], base="two")
    assert [each.label for each in found.conditions] == ["base", "one"]


@pytest.mark.parametrize(
    ("part", "wrong"),
    [
        ("conditions", {"k": "1"}),
        ("conditions", {"method": None}),
        ("conditions", {"layers": ["1"]}),
        ("conditions", {"step": True}),
        ("conditions", {"system": 3}),
        ("measures", {"kind": "median"}),
        ("measures", {"task": ["t"]}),
        ("measures", {"better": 1}),
        ("measures", {"role": "both"}),
    ],
)
def test_results_that_are_damaged_are_one_line(tmp_path: Path, part: str, wrong: dict[str, object]) -> None:
    chosen = conditions(2)
    folder = ours(tmp_path / "out", chosen, rows(chosen))
    results = read_json(folder / "results.json")
    results[part][-1].update(wrong)
    write_json(folder / "results.json", results)
    with pytest.raises(WsteerError, match="is not what wsteer eval of this version writes"):
        read([folder])
