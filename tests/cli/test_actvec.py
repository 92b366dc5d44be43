"""wsteer actvec: what it prints."""

import json
from pathlib import Path
from typing import get_args

import pytest

from tests.helpers.command import Cli
from wsteer.activations.directions import METHODS
from wsteer.cli.actvec import Method
from wsteer.cli.options import Positions
from wsteer.deltas.delta import Delta
from wsteer.steering.positions import POSITIONS


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Path, Path]:
    """Two rows a side, those of pos with a system turn."""
    for name, system, answer in (("pos", ["Agree."], "Yes"), ("neg", [], "No")):
        rows = []
        for i in range(4):
            messages = [{"role": "system", "content": text} for text in system]
            messages += [{"role": "user", "content": f"Is {i} right?"}, {"role": "assistant", "content": answer * i}]
            rows.append(json.dumps({"messages": messages}))
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    return tmp_path / "pos.jsonl", tmp_path / "neg.jsonl"


def test_the_words_of_options_are_those_of_the_programs() -> None:
    assert get_args(Positions) == POSITIONS
    assert get_args(Method) == METHODS


def test_lines_and_notes_say_what_was_read_and_how_far_halves_agree(
    cli: Cli, tmp_path: Path, tiny: Path, sides: tuple[Path, Path]
) -> None:
    ran = cli("actvec", tiny, *sides, "-o", tmp_path / "a.st", "--picture", tmp_path / "a.svg", "--method", "pca")
    assert ran.code == 0, ran.err
    lines = ran.out.splitlines()
    assert lines[0] == "3 vectors of 32 dimensions, from 3 positive and 3 negative rows"
    assert lines[1].startswith("largest beside the residual stream at block ")
    assert lines[2].startswith("cosine between the halves of the rows: ")
    assert lines[3].startswith("share of the differences that the direction explains there: ")
    assert lines[4:] == [str(tmp_path / "a.svg"), str(tmp_path / "a.st")]
    assert "3 of 3 positive and 0 of 3 negative rows have a system turn, which is read with them" in ran.err
    assert ran.err.count("1 of 4 rows are left out, since an answer is empty") == 2


def test_json_has_every_block_and_the_options_reach_the_file(
    cli: Cli, tmp_path: Path, tiny: Path, sides: tuple[Path, Path]
) -> None:
    given = ["--json", "-q", "--positions", "prompt-last", "--keep-system"]
    report = cli("actvec", tiny, *sides, "-o", tmp_path / "a.st", *given).json
    assert (report["positions"], report["method"], report["explained"]) == ("prompt-last", "mean", None)
    assert (report["system_pos"], report["system_neg"], report["empty_pos"]) == (3, 0, 1)
    assert len(report["half_cosines"]) == len(report["norms"]) == 3
    delta = Delta.load(tmp_path / "a.st")
    assert (delta.positions, delta.options["strip_system"]) == ("prompt-last", False)
    ran = cli("actvec", tiny, *sides, "-o", tmp_path / "b.st", "--positions", "prompt-last", "--strip-system")
    assert ran.code == 1 and "must differ, as by system turns" in ran.error
    assert "--positions" in cli("actvec", tiny, *sides, "-o", tmp_path / "b.st", "--positions", "answer").err


def test_a_picture_that_exists_is_refused_before_slow_imports(
    cli: Cli, tmp_path: Path, sides: tuple[Path, Path]
) -> None:
    (tmp_path / "a.png").write_text("mine")
    ran = cli("actvec", tmp_path / "gone", *sides, "-o", tmp_path / "a.st", "--picture", tmp_path / "a.png")
    assert ran.code == 1 and "a.png exists" in ran.error
