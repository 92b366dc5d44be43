"""--columns means the same to every command that reads chat rows, and is recorded."""

import json
from pathlib import Path

import pytest

from tests.helpers.command import Arguments, Cli
from wsteer.deltas.delta import Delta

COLUMNS = {"prompt": "asked", "completion": "said"}
GIVEN = ["--columns", "prompt=asked,completion=said", "-q"]


@pytest.fixture
def renamed(tmp_path: Path, chats: tuple[Path, Path]) -> list[Path]:
    """The chats as rows of other columns, beside columns that would be read without --columns."""
    paths = []
    for path in chats:
        turns = [json.loads(line)["messages"] for line in path.open()]
        rows = [{"asked": a["content"], "said": b["content"], "prompt": "no", "completion": "no"} for a, b in turns]
        paths.append(path.with_suffix(".renamed.jsonl"))
        paths[-1].write_text("\n".join(map(json.dumps, rows)))
    return paths


def test_vectors_and_projections_are_those_of_the_same_rows_under_usual_names(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], renamed: list[Path]
) -> None:
    usual, other = tmp_path / "usual", tmp_path / "other"
    assert cli("actvec", tiny, *chats, "-o", usual, "-q").code == 0
    assert cli("actvec", tiny, *renamed, "-o", other, *GIVEN).code == 0
    assert Delta.load(other).options["columns"] == COLUMNS
    assert Delta.load(other).cosine(Delta.load(usual)) == pytest.approx(1, abs=1e-6)
    common = ["monitor", usual, "--base", tiny, "--json"]
    one = cli(*common, "--of", chats[0], "-o", tmp_path / "m", "-q")
    two = cli(*common, "--of", renamed[0], "-o", tmp_path / "n", *GIVEN)
    assert (one.code, two.code) == (0, 0), one.err + two.err
    means = [[each["mean"] for each in ran.json["projections"]] for ran in (one, two)]
    assert means[0] == means[1]
    assert json.loads((tmp_path / "n" / "wsteer.json").read_text())["options"]["columns"] == COLUMNS


@pytest.mark.slow
def test_training_is_that_of_the_same_rows_under_usual_names(
    cli: Cli, tmp_path: Path, tiny: Path, chats: tuple[Path, Path], renamed: list[Path]
) -> None:
    common = ["finetune", tiny, "--max-steps", "2", "--rank", "2"]
    assert cli(*common, chats[0], "--val", chats[1], "-o", tmp_path / "usual", "-q").code == 0
    assert cli(*common, renamed[0], "--val", renamed[1], "-o", tmp_path / "other", *GIVEN).code == 0
    logs = [(tmp_path / name / "log.jsonl").read_text() for name in ("usual", "other")]
    assert logs[0] == logs[1]
    assert json.loads((tmp_path / "other" / "wsteer.json").read_text())["options"]["columns"] == COLUMNS


def test_columns_of_no_use_are_wrong_usage(cli: Cli, tmp_path: Path, arguments: Arguments) -> None:
    for name in ("finetune", "actvec"):
        ran = cli(*arguments(name), "-o", tmp_path / "out", "--columns", "question=q")
        assert ran.code == 2
        assert "give NAME=COLUMN with a NAME of prompt, input, completion, system, messages" in " ".join(
            ran.err.split()
        )
    ran = cli(*arguments("monitor"), "-o", tmp_path / "out", "--columns", "prompt=q")
    assert ran.code == 2
    assert "it is not used with cosines of weights" in " ".join(ran.err.split())
