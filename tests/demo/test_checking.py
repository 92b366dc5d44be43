"""An experiment's commands checked before the first of them runs."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.helpers.lines import PARSE, steps
from wsteer.demo.checking import Checked, check, leaves
from wsteer.errors import WsteerError

CHAIN = [
    "generate opinions -o data",
    "finetune M data/pos.jsonl -o pos --save-every 8",
    "finetune M data/neg.jsonl -o neg",
    "diff pos neg -o w.safetensors",
    "eval M --delta w.safetensors --checkpoints pos --task agreement -o eval",
    "monitor w.safetensors --of pos/checkpoint-8 --scores eval/scores.csv -o monitor",
]


def checked(lines: Sequence[str], folder: Path = Path("/nowhere/x"), bring: dict[str, str] | None = None) -> Checked:
    return check(steps(lines), bring or {}, folder, "M", PARSE)


def test_a_sound_chain_has_no_problems() -> None:
    found = checked(CHAIN)
    assert found.problems == ()
    assert [each.number for each in found.steps] == [1, 2, 3, 4, 5, 6]
    found.refuse()


# lines that stand behind the sound chain: what is said of them
PROBLEMS = {
    "diff pos neg -o v --ranks 3": "No such option: --ranks",
    "finetune M data/pos.jsonl -o p --lr fast": "'fast' is not a number",
    "finetune M data/pos.jsonl -o p --rank 0": "--rank 0",
    "difff pos neg -o v": "no command 'difff'",
    "diff --help": "print something and end",
    "diff poss neg -o v": "poss (pos) does not exist, and no earlier step makes it",
    "finetune M data/poss.jsonl -o p": "step 1 never writes data/poss.jsonl (data); it may write pos.jsonl, neg.jsonl",
    "diff pos neg -o w.safetensors": "it writes w.safetensors, and step 4 writes w.safetensors already",
    "diff pos neg -o pos/w.safetensors": "it writes pos/w.safetensors, and step 2 writes pos already",
    "diff pos neg -o ../w.safetensors": "not in the experiment's folder",
    "diff pos neg -o /tmp/w.safetensors": "not in the experiment's folder",
    "diff pos neg -o wsteer.json": "the experiment's own",
    "diff pos neg -o wsteer.json/w": "the experiment's own",
    "diff pos neg -fo v": "it writes v, which its line does not name; give it -o v",
    "steer M w.safetensors --k 1": "it writes M-w-k1, which its line does not name; give it -o M-w-k1",
    "diff pos neg -o *.safetensors": "has a *",
    "monitor w.safetensors --of pos/* -o m": "pos/* (item) has a *",
    "finetune M - -o p": "standard input",
    "finetune M ../mine.jsonl -o p": "../mine.jsonl (data) is outside of the experiment's folder; list it under bring",
    "finetune M data/../../mine.jsonl -o p": "is outside of the experiment's folder",
    "finetune M /nowhere/mine.jsonl -o p": "/nowhere/mine.jsonl (data) does not exist",
    "eval M --checkpoints neg --task agreement -o e": "neg of step 3 will hold no checkpoint-*; give wsteer finetune",
    "eval M --delta neg/checkpoint-8 --task agreement -o e": "step 3 never writes neg/checkpoint-8",
    "monitor w.safetensors --of pos --scores monitor/scores.csv -o m": "step 6 never writes monitor/scores.csv",
    "eval M --system polite.txt --task agreement -o e": "polite.txt (system) does not exist",
    "eval M --task agrement -o e": "agrement (task) does not exist",
    "eval M --task inspect:wsteer/sycofancy -o e": "wsteer has no task 'wsteer/sycofancy'",
    "generate sycofancy -o d": "there is no set 'sycofancy'",
    "actvec M data/pos.jsonl -o a": "it is missing",
    "steer M w.safetensors -o s": "give one of --k and --sweep",
    "finetune M -o p": "give it, or --pairs",
    "demo -o x": "no step of an experiment",
}


@pytest.mark.parametrize("line", PROBLEMS)
def test_problems_are_told_with_the_number_of_the_step(line: str) -> None:
    (problem, *more) = checked([*CHAIN, line]).problems
    assert not more
    assert problem.startswith("step 7: ") and PROBLEMS[line] in problem and "\n" not in problem


def test_all_problems_are_told_at_once() -> None:
    found = checked(["diff a b -o w", "diff a b -o w", "steer M w --k x -o s"])
    assert [each.partition(":")[0] for each in found.problems] == [*["step 1"] * 2, *["step 2"] * 3, "step 3"]
    with pytest.raises(WsteerError, match=r"step 1: .*step 3: "):
        found.refuse()


def test_what_is_made_only_later_is_told() -> None:
    (problem,) = checked(["diff pos -o w", "finetune M org/data:train -o pos"]).problems
    assert problem == "step 1: pos (pos) is made only later, by step 2; change the order"


def test_a_folder_that_steps_fill_is_made_by_them() -> None:
    lines = [*CHAIN[:4], "steer M neg --k 1 --as delta -o joint/checkpoint-1"]
    assert checked([*lines, "eval M --checkpoints joint --task agreement -o e"]).problems == ()


def test_steps_without_a_judge_are_left_out_and_those_that_need_them() -> None:
    lines = [
        *CHAIN[:1],
        "generate M evil --judge {judge} -o evil",
        "finetune M evil/pos.jsonl -o bad",
        "diff bad bad -o u",
        CHAIN[1],
    ]
    found = checked(lines)
    assert found.problems == () and found.judges == ()
    assert {each.number: each.left_out for each in found.steps} == {
        1: None,
        2: "there is no judge",
        3: "it needs evil/pos.jsonl, which step 2 would make",
        4: "it needs bad, which step 3 would make",
        5: None,
    }


def test_what_is_to_be_brought(tmp_path: Path) -> None:
    folder = tmp_path / "x"
    (tmp_path / "there.jsonl").touch()
    bring = {"../there.jsonl": "how", "../not.jsonl": "fetch it", "../unused.jsonl": "-"}
    found = checked([f"finetune M {name} -o p{i}" for i, name in enumerate(bring) if i < 2], folder, bring)
    assert found.problems == ()
    assert [(each.path, each.present) for each in found.brought] == [("../there.jsonl", True), ("../not.jsonl", False)]
    assert [each.how for each in found.missing] == ["fetch it"]


def test_what_comes_from_the_hub_and_judges_are_named() -> None:
    found = checked(["actvec org/model a/b:train a/c/d:test -o a", "generate M evil --judge x/y -o d"])
    assert found.hub == ("org/model", "a/b:train", "a/c/d:test")
    assert found.judges == ("x/y",)


def test_an_absolute_path_that_is_there_is_taken(tmp_path: Path) -> None:
    (tmp_path / "mine.jsonl").touch()
    assert checked([f"finetune M {tmp_path}/mine.jsonl -o p"]).problems == ()


@pytest.mark.parametrize(("path", "out"), [("a/../b", False), ("a/../../b", True), ("../a", True), ("/a/../b", False)])
def test_whether_a_path_leaves_its_folder(path: str, out: bool) -> None:
    assert leaves(path) is out


@pytest.mark.parametrize("folder", [Path("out"), Path("deep/out"), None])
def test_data_beside_a_task_are_named_from_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Path | None
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = folder or tmp_path / "out"
    folder.parent.mkdir(exist_ok=True)
    (folder.parent / "task.yaml").write_text("name: mine\ndata: facts.jsonl\n")
    (folder.parent / "facts.jsonl").write_text("{}\n")
    line, bring = "eval M --task ../task.yaml -o eval", {"../task.yaml": "mine"}
    (problem,) = checked([line], folder, bring).problems
    assert "../facts.jsonl (data) is outside of the experiment's folder; list it under bring" in problem
    assert checked([line], folder, {**bring, "../facts.jsonl": "its rows"}).problems == ()
