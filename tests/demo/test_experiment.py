"""The file of an experiment: what may stand in it, and the one line that says what is wrong."""

import shlex
from pathlib import Path

import pytest
import yaml

from wsteer.demo.experiment import Experiment, commands, read_experiment, shipped
from wsteer.errors import WsteerError

FINDING = {
    "name": "steering",
    "says": "It steers.",
    "section": "4",
    "figures": 2,
    "axes": "up: more",
    "results": "eval",
    "picture": "tradeoff",
    "rules": [{"metric": "agreement", "more": "w", "than": "base"}],
}
WHOLE = {
    "title": "A title",
    "section": "4.1",
    "small": {"about": "smaller", "model": "tiny", "tune": "--lr 5e-4 --max-steps 3", "k": 1.5, "n": 10},
    "paper": {"model": "org/large", "tune": "", "k": 1, "n": 1, "judge": "org/judge", "size": {"parameters": 7.6e9}},
    "bring": {"../rows.jsonl": "fetch it"},
    "steps": [
        {"does": "trains", "section": "3", "run": "wsteer finetune {model} ../rows.jsonl -o pos {tune}"},
        {"does": "asks", "only": "small", "rows": 3, "length": 9, "run": "wsteer eval {model} --k={k} --limit {n}"},
        {"does": "judges", "gate": True, "run": "wsteer eval {model} --judge {judge} -T 'x={\"a\": 1}' -o judged"},
    ],
    "findings": [FINDING],
}


def written(folder: Path, **changes: object) -> Path:
    path = folder / "mine.yaml"
    kept = {key: value for key, value in {**WHOLE, **changes}.items() if value is not None}
    path.write_text(yaml.safe_dump(kept, sort_keys=False))
    return path


@pytest.fixture
def whole(tmp_path: Path) -> Experiment:
    return read_experiment(written(tmp_path))


def test_every_part_is_read(whole: Experiment) -> None:
    assert (whole.name, whole.title, whole.section) == ("mine", "A title", "4.1")
    assert whole.scales["small"].about == "smaller" and whole.scales["paper"].size == {"parameters": 7.6e9}
    assert whole.bring == {"../rows.jsonl": "fetch it"}
    assert [(step.only, step.gate, step.rows, step.length) for step in whole.steps] == [
        (None, False, (), None),
        ("small", False, (3,), 9),
        (None, True, (), None),
    ]
    assert whole.findings[0].figures == "2"


def test_places_are_filled_and_steps_of_another_scale_are_not_there(whole: Experiment) -> None:
    assert [each.text for each in commands(whole, "small")] == [
        "wsteer finetune tiny ../rows.jsonl -o pos --lr 5e-4 --max-steps 3",
        "wsteer eval tiny --k=1.5 --limit 10",
        "wsteer eval tiny --judge '{judge}' -T 'x={\"a\": 1}' -o judged",
    ]
    assert [each.missing for each in commands(whole, "small")] == [None, None, "judge"]
    paper = commands(whole, "paper")
    assert [each.missing for each in paper] == [None, None]
    assert paper[1].words == ("eval", "org/large", "--judge", "org/judge", "-T", 'x={"a": 1}', "-o", "judged")


@pytest.mark.parametrize(
    "model", ["/a b/c", "it's", "--force", "$(rm -rf x)", 'x" y', "a;b", "{tune}", "\\", "new\nline"]
)
def test_a_model_is_one_word_whatever_is_in_it(whole: Experiment, model: str) -> None:
    assert commands(whole, "small", model)[0].words[1] == model


def test_shipped_experiments_are_read_by_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain").mkdir()
    assert "chain" in shipped()
    for name in shipped():
        assert read_experiment(name).name == name


STEP = WHOLE["steps"][0]
WRONG: dict[str, tuple[dict[str, object], str]] = {
    "no title": ({"title": None}, "the file lacks title"),
    "title of a number": ({"title": 3}, "title is no text; put it in quotes"),
    "section of a number": ({"section": 4.1}, "section is no text"),
    "no scale": ({"small": None, "paper": None}, "a table small or paper"),
    "unknown key": ({"middle": {}}, "the file has no 'middle'; it may have bring, findings"),
    "scale without a model": ({"small": {"tune": ""}}, "small lacks model"),
    "scale that is a list": ({"small": ["model"]}, "small must be a table"),
    "value that is a list": ({"small": {**WHOLE["small"], "k": [1]}}, "k of small is no text"),
    "value that is true": ({"small": {**WHOLE["small"], "k": True}}, "k of small is no text"),
    "size of a text": ({"small": {**WHOLE["small"], "size": {"blocks": "3"}}}, "size of small has numbers alone"),
    "bring of a list": ({"bring": ["../x"]}, "bring must be a table"),
    "bring without how": ({"bring": {"../x": None}}, "bring ../x is no text"),
    "steps of a table": ({"steps": {}}, "steps must be a list"),
    "no steps": ({"steps": []}, "steps is empty"),
    "step without a command": ({"steps": [{"does": "x"}]}, "step 1 lacks run"),
    "step with an unknown key": ({"steps": [{**STEP, "when": "x"}]}, "step 1 has no 'when'"),
    "step of an unknown scale": ({"steps": [{**STEP, "only": "large"}]}, "only of step 1 is a scale"),
    "gate of a text": ({"steps": [{**STEP, "gate": "yes"}]}, "gate of step 1 is true or false"),
    "rows of none": ({"steps": [{**STEP, "rows": 0}]}, "rows of step 1 is a whole number"),
    "rows of a task of none": ({"steps": [{**STEP, "rows": [3, 0]}]}, "rows of step 1 is a whole number"),
    "rows of no task": ({"steps": [{**STEP, "rows": []}]}, "rows of step 1 is a whole number"),
    "length of a half": ({"steps": [{**STEP, "length": 1.5}]}, "length of step 1 is a whole number"),
    "place without a value": ({"steps": [{**STEP, "run": "wsteer diff {other}"}]}, "a place {other}"),
    "open quote": ({"steps": [{**STEP, "run": "wsteer diff 'a"}]}, "is no line of a shell"),
    "another program": ({"steps": [{**STEP, "run": "rm -rf x"}]}, "does not begin with wsteer"),
    "no command": ({"steps": [{**STEP, "run": "wsteer"}]}, "does not begin with wsteer"),
    "finding without rules": ({"findings": [{**FINDING, "rules": []}]}, "has no rules"),
    "finding that lacks": ({"findings": [{"name": "x"}]}, "a finding lacks axes"),
    "findings of a table": ({"findings": {"a": 1}}, "findings must be a list"),
    "images of a text": ({"findings": [{**FINDING, "images": "x"}]}, "must be a list"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_line_with_the_file(tmp_path: Path, name: str) -> None:
    changes, told = WRONG[name]
    path = written(tmp_path, **changes)
    with pytest.raises(WsteerError) as error:
        read_experiment(path)
    assert told in str(error.value) and str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "- a", "title: [", "title: a\ntitle: b", "!!python/object:os.system x", "a: *b"])
def test_what_is_no_experiment_at_all_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(WsteerError, match=r"x\.yaml"):
        read_experiment(tmp_path / "x.yaml")


def test_names_that_are_none_and_scales_that_a_file_lacks_are_told(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match="there is no experiment 'nosuch': there are chain"):
        read_experiment("nosuch")
    with pytest.raises(WsteerError, match=r"nosuch\.yaml"):
        read_experiment(tmp_path / "nosuch.yaml")
    with pytest.raises(WsteerError, match="has no scale 'paper'; it has small"):
        commands(read_experiment(written(tmp_path, paper=None)), "paper")


@pytest.mark.parametrize(
    ("line", "mark"),
    [
        ("wsteer diff a b -o w | tee log", "|"),
        ("wsteer diff a b -o w>log", ">"),
        ("wsteer diff a b -o w; ls", ";"),
        ("wsteer diff a b -o w && ls", "&"),
        ("wsteer diff a b -o $OUT", "$O"),
        ('wsteer diff a b -o "x${OUT}"', "${"),
        ('wsteer diff a b -o "$(date)"', "$("),
        ("wsteer diff a b -o `date`", "`"),
        ('wsteer eval m --system "it\'s" -o $x', "$x"),
    ],
)
def test_what_only_a_shell_would_do_is_refused(tmp_path: Path, line: str, mark: str) -> None:
    with pytest.raises(WsteerError, match="and commands run without a shell") as error:
        read_experiment(written(tmp_path, steps=[{**STEP, "run": line}]))
    assert f"has {mark!r}" in str(error.value)


@pytest.mark.parametrize(
    "line",
    [
        "wsteer diff a b --include '(q|k)_proj$' -o w",
        'wsteer diff a b --include "(q|k)_proj$" -o w',
        r'wsteer eval m --system "a \$x; it costs 3$ & more" -o e',
        r"wsteer diff a\&b c -o w",
        "wsteer eval m --system \"it's\" --task 'a;b' -o e",
    ],
)
def test_quoted_text_may_have_a_shells_marks(tmp_path: Path, line: str) -> None:
    found = read_experiment(written(tmp_path, steps=[{**STEP, "run": line}]))
    assert commands(found, "small")[0].words == tuple(shlex.split(line)[1:])
