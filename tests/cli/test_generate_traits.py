"""generate's options for traits, as typed, and what the terminal shows."""

import json
from pathlib import Path

import pytest

from tests.helpers.traits import TRAIT
from wsteer.cli.generate import PROMPTS, mode_of
from wsteer.cli.generate import TRAIT as MODE
from wsteer.cli.generate_tables import trait_lines
from wsteer.cli.main import main
from wsteer.elicitation.balance import Nuisance
from wsteer.elicitation.generate import GenerateReport


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["generate", *map(str, arguments)])
    return int(ended.value.code or 0)


def test_our_own_traits_are_listed(capsys: pytest.CaptureFixture) -> None:
    assert run("--list-traits") == 0
    assert capsys.readouterr().out.split() == ["evil", "french", "hallucination", "sycophancy"]


def test_a_name_of_ours_is_a_trait_unless_there_is_such_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert (mode_of("m", "evil"), mode_of("m", "other"), mode_of("m", "x.json")) == (MODE, PROMPTS, MODE)
    (tmp_path / "evil").write_text("A prompt.")
    assert mode_of("m", "evil") == PROMPTS


@pytest.mark.parametrize(
    "options", [["--judge", "x/y"], ["--keep-system"], ["--drop-cut"], ["--all-questions"], ["--assistant", "evil"]]
)
def test_options_of_traits_are_refused_for_prompts(
    tmp_path: Path, capsys: pytest.CaptureFixture, options: list[str]
) -> None:
    assert run("m", "prompts.txt", "-o", tmp_path / "x.jsonl", *options) == 2
    assert "no meaning" in capsys.readouterr().err


@pytest.mark.slow
def test_json_has_the_balance_and_its_warnings(tmp_path: Path, tiny: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "trait.json").write_text(json.dumps(TRAIT))
    options = ["--samples", 1, "--max-new-tokens", 4, "--all-questions", "--device", "cpu", "--json"]
    assert run(tiny, tmp_path / "trait.json", "-o", tmp_path / "data", *options) == 0
    printed = capsys.readouterr()
    report = json.loads(printed.out)
    assert {"name", "pos", "neg", "d", "differs"} == set(report["balance"][0])
    assert (report["pairs"], report["dropped_cut"], report["questions_eval"]) == (None, 0, 0)
    assert ("warning: pos and neg differ" in printed.err) == any(each["differs"] for each in report["balance"])


def test_the_terminal_shows_pairs_by_reason_and_the_sides() -> None:
    report = GenerateReport(
        output="data",
        rows_pos=3,
        rows_neg=3,
        questions=2,
        questions_eval=2,
        dropped_empty=1,
        dropped_thinking=0,
        dropped_cut=4,
        truncated=5,
        mean_tokens_pos=20.0,
        mean_tokens_neg=9.5,
        pairs={"kept": 3, "no_answer": 5, "refused": 0, "neg_from_50": 2},
        balance=(Nuisance("length in tokens", 20.0, 9.5, 1.25, True), Nuisance("refusals", 0.0, 0.0, None, False)),
        warnings=(),
    )
    assert trait_lines(report, 60)[1:] == [
        "1 empty answers dropped, 5 cut at 60 tokens, 4 of them in the answer (dropped)",
        "the judge kept 3 of 10 pairs: 5 no answer, 2 neg from 50",
        "                  pos  neg       d",
        "length in tokens   20  9.5  1.25 *",
        "refusals            0    0     -",
        "data",
    ]
