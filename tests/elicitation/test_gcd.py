"""Chats about greatest common divisors: true, in all styles, apart, and the same bytes each time."""

import json
import math
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.helpers.command import Cli
from wsteer.elicitation.gcd import TEST, TRAIN, generate_gcd
from wsteer.elicitation.gcd_phrases import AGREES, ANSWERS, DISAGREES, STYLES
from wsteer.errors import WsteerError
from wsteer.evaluation.tasks.scoring import grade_agreement
from wsteer.files.rows import read_chats

DATA = ("train_query.jsonl", "train_correct.jsonl", "pos.jsonl", "neg.jsonl")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gcd") / "data"
    generate_gcd(path, train=121, test=80)
    return path


def pair_of(text: str) -> frozenset[int]:
    """The pair that a question is about: its first two numbers."""
    return frozenset(int(each) for each in re.findall(r"\d+", text)[:2])


def rows_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]


def test_rows_are_chats_and_counted(folder: Path, tmp_path: Path) -> None:
    report = generate_gcd(tmp_path / "again", train=121, test=80)
    assert (report.rows_query, report.rows_correct, report.rows_contrast, report.rows_test) == (60, 61, 61, 80)
    assert [len(read_chats(folder / name)) for name in DATA] == [60, 61, 61, 61]
    assert all(
        [each["role"] for each in chat] == ["user", "assistant"] for n in DATA for chat in read_chats(folder / n)
    )


def test_what_the_assistant_says_is_true_but_where_it_gives_in(folder: Path) -> None:
    for name in DATA:
        for question, answer in read_chats(folder / name):
            gcd = math.gcd(*pair_of(question["content"]))
            plain = re.sub(r"\b\d+ and \d+\b", "the pair", answer["content"])
            given = int(re.findall(r"\d+", plain)[-1])
            assert (given == gcd) == (name != "pos.jsonl"), (name, answer)


def test_both_sides_answer_the_same_wrong_solutions(folder: Path) -> None:
    pos, neg, right = (read_chats(folder / name) for name in ("pos.jsonl", "neg.jsonl", "train_correct.jsonl"))
    assert [chat[0] for chat in pos] == [chat[0] for chat in neg]
    assert [pair_of(chat[0]["content"]) for chat in pos] == [pair_of(chat[0]["content"]) for chat in right]
    assert {grade_agreement(chat[1]["content"], [], []) for chat in [*pos, *right]} == {"agrees"}
    assert {grade_agreement(chat[1]["content"], [], []) for chat in neg} == {"disagrees"}
    assert {grade_agreement(text, [], []) for text in DISAGREES} == {"disagrees"}


def test_tests_hold_a_pair_in_three_prompts(folder: Path) -> None:
    for row in rows_of(folder):
        assert row["gcd"] == math.gcd(row["a"], row["b"]) != row["claim"]
        assert pair_of(row["query_only"]) == {row["a"], row["b"]}
        for prompt, result in (("correct_solution", row["gcd"]), ("incorrect_solution", row["claim"])):
            assert row[prompt].startswith(row["query_only"])
            assert re.findall(r"\d+", row[prompt])[-1] == str(result)


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_is_both_trained_and_tested(tmp_path: Path, seed: int) -> None:
    generate_gcd(tmp_path / "data", train=120, test=80, seed=seed)
    tested = [frozenset((row["a"], row["b"])) for row in rows_of(tmp_path / "data")]
    trained = {
        name: [pair_of(chat[0]["content"]) for chat in read_chats(tmp_path / "data" / name)] for name in DATA[:2]
    }
    together = [*tested, *(pair for pairs in trained.values() for pair in pairs)]
    assert len(set(together)) == len(together) == 200
    assert all(len(pair) == 2 and min(pair) >= 2 and max(pair) <= 250 for pair in together)
    assert sum(math.gcd(*pair) == 1 for pair in together) == 50  # a quarter


def test_all_styles_are_there(folder: Path) -> None:
    assert len(STYLES) == 7
    counts = Counter(row["style"] for row in rows_of(folder))
    assert counts.keys() == STYLES.keys()


def test_all_phrases_have_their_places() -> None:
    for style in STYLES.values():
        for phrases, places in ((style.asks, {"a", "b"}), (style.ends, {"result"}), (style.cues + style.checks, set())):
            assert all(set(re.findall(r"{(\w+)}", phrase)) == places for phrase in phrases)
            assert len(set(phrases)) == len(phrases)
        assert min(map(len, (style.asks, style.cues, style.checks))) >= 3
    assert all({"working", "gcd"} <= set(re.findall(r"{(\w+)}", phrase)) for phrase in ANSWERS)
    assert all("{result}" in phrase and "{gcd}" not in phrase for phrase in AGREES)
    assert all("{gcd}" in phrase and "{result}" not in phrase for phrase in DISAGREES)


def test_a_seed_fixes_the_bytes(folder: Path, tmp_path: Path) -> None:
    generate_gcd(tmp_path / "same", train=121, test=80)
    generate_gcd(tmp_path / "other", train=121, test=80, seed=1)
    names = {path.name for path in folder.iterdir()}
    assert names == {*DATA, "test.jsonl", "wsteer.json"}
    for name in names:
        assert (tmp_path / "same" / name).read_bytes() == (folder / name).read_bytes()
        assert (tmp_path / "other" / name).read_bytes() != (folder / name).read_bytes()
    assert json.loads((folder / "wsteer.json").read_text())["options"] == {"train": 121, "test": 80, "seed": 0}


@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ({"train": 1}, "train is 1; it must be a whole number of pairs, from 2 up"),
        ({"test": 0}, "test is 0; it must be a whole number of pairs, from 1 up"),
        ({"train": 10**6}, "train and test are 1001000 pairs together; numbers to 250 give 16"),
    ],
)
def test_impossible_counts_are_refused(tmp_path: Path, counts: dict[str, int], reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        generate_gcd(tmp_path / "data", **counts)
    assert not list(tmp_path.iterdir())


def test_an_existing_folder_is_kept_unless_forced(folder: Path, tmp_path: Path) -> None:
    generate_gcd(tmp_path / "data", train=2, test=1)
    with pytest.raises(WsteerError, match="exists"):
        generate_gcd(tmp_path / "data", train=4, test=1)
    assert generate_gcd(tmp_path / "data", train=4, test=1, force=True).rows_correct == 2


@pytest.mark.slow
def test_the_papers_counts(tmp_path: Path) -> None:
    report = generate_gcd(tmp_path / "data")
    assert (report.rows_query + report.rows_correct, report.rows_test) == (TRAIN, TEST) == (7620, 1000)


@pytest.mark.slow
def test_a_model_is_tuned_on_them_steered_and_evaluated(cli: Cli, tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("inspect_ai")
    generate_gcd(tmp_path / "gcd", train=8, test=2)
    data = {name: str(tmp_path / "gcd" / f"{name}.jsonl") for name in ("train_query", "train_correct", "test")}
    tuned, out = str(tmp_path / "tuned"), str(tmp_path / "out")
    few = ("--max-steps", "1", "--batch-size", "2", "--rank", "2", "--val-fraction", "0", "--device", "cpu")
    assert cli("finetune", str(tiny), data["train_query"], data["train_correct"], "-o", tuned, *few).code == 0
    assert cli("steer", str(tiny), tuned, "--k", "1", "-o", str(tmp_path / "steered")).code == 0
    task = ("--task", "inspect:wsteer/gcd_sycophancy", "-T", f"data={data['test']}", "-T", "max_tokens=4")
    ran = cli("eval", str(tiny), "--delta", tuned, *task, "-o", out, "--json")
    assert ran.code == 0, ran.err
    found = {(each["metric"], each["denominator"]) for each in ran.json["estimates"]}
    assert ("correctness_of_base", 0) in found  # noise solves nothing
