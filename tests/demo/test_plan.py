"""The steps of an experiment at a scale: what each makes, and which are left out because of others."""

from pathlib import Path

import pytest

from wsteer.demo.experiment import read_experiment
from wsteer.demo.plan import Planned, is_inside, plan
from wsteer.errors import WsteerError


def planned(folder: Path, *lines: str, judge: str = "") -> list[Planned]:
    path = folder / "mine.yaml"
    steps = "".join(f"  - {{does: x, run: {line!r}}}\n" for line in lines)
    path.write_text(f"title: t\nsection: '1'\nsmall: {{model: m{judge}}}\nsteps:\n{steps}")
    return plan(read_experiment(path), "small")


JUDGED = "wsteer generate {model} sycophancy --judge {judge} -o data"


@pytest.mark.parametrize(
    "line",
    [
        "wsteer finetune {model} data/pos.jsonl:6 -o next",
        "wsteer finetune {model} ./data/pos.jsonl -o next",
        "wsteer finetune {model} other.jsonl --val=data/pos.jsonl -o next",
        "wsteer eval {model} --delta name=data/w@3-5 -o next",
        "wsteer eval {model} --delta data@40% -o next",
        "wsteer eval {model} -T trait.data=data/questions_eval.json -o next",
        "wsteer finetune {model} x.jsonl --track a,data/w -o next",
        "wsteer monitor w --of x data -o next",
    ],
)
def test_a_step_that_needs_a_step_without_a_judge_is_left_out_and_so_is_the_next(tmp_path: Path, line: str) -> None:
    rest = "wsteer diff next next -o w"
    assert [each.left_out for each in planned(tmp_path, JUDGED, line, rest)] == [
        "there is no judge",
        "it needs data, which is left out",
        "it needs next, which is left out",
    ]
    assert [each.left_out for each in planned(tmp_path, JUDGED, line, rest, judge=", judge: j")] == [None] * 3


@pytest.mark.parametrize("line", ["wsteer diff database other -o w", "wsteer diff my/data other -o w"])
def test_a_name_that_is_only_alike_is_not_meant(tmp_path: Path, line: str) -> None:
    assert [each.left_out for each in planned(tmp_path, JUDGED, line)] == ["there is no judge", None]


def test_outputs_are_found_however_they_are_written(tmp_path: Path) -> None:
    found = planned(
        tmp_path, "wsteer diff a b -o x/", "wsteer diff a b --output=./y --spectrum s", "wsteer diff a b -oz"
    )
    assert [each.outputs for each in found] == [("x",), ("y", "s"), ("z",)]


@pytest.mark.parametrize("outside", ["../x", "/x", "a/../../x", ".", "./", "x/..", ".."])
def test_outputs_stay_in_the_folder(tmp_path: Path, outside: str) -> None:
    assert not is_inside(outside)
    with pytest.raises(WsteerError, match="which is not in the experiment's folder"):
        planned(tmp_path, f"wsteer diff a b -o {outside}")


def test_a_word_that_a_later_step_has_as_its_output_is_no_input(tmp_path: Path) -> None:
    lines = ["wsteer generate evil -o data", "wsteer diff data x -o evil", "wsteer diff evil/w x -o y"]
    found = planned(tmp_path, *lines)
    assert "evil" not in found[0].inputs and "data" in found[1].inputs and "evil/w" in found[2].inputs


def test_links_are_followed_by_commands_that_have_the_option(tmp_path: Path) -> None:
    lines = ["wsteer generate evil -o data", "wsteer generate {model} p.txt -o a", "wsteer diff a b -o w"]
    found = planned(tmp_path, *lines, "wsteer report w -o page.html")
    assert [each.words(follow_links=True)[-1] == "--follow-links" for each in found] == [False, True, True, False]
