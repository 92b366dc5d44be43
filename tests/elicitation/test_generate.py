"""Contrastive data from a trait file."""

import json
from pathlib import Path

import pytest

from tests.helpers.judge import Reply, judge
from tests.helpers.thinking import KINDS, save_thinking_model, say
from tests.helpers.traits import TRAIT
from wsteer.elicitation.generate import generate
from wsteer.elicitation.pairs import REASONS
from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats, read_placed_chats
from wsteer.files.text import read_csv


@pytest.fixture
def trait(tmp_path: Path) -> Path:
    path = tmp_path / "trait.json"
    path.write_text(json.dumps(TRAIT))
    return path


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_every_question_meets_every_instruction_samples_times(tmp_path: Path, tiny: Path, trait: Path) -> None:
    report = generate(tiny, trait, tmp_path / "data", samples=3, max_new_tokens=6, device="cpu")
    kept = json.loads((tmp_path / "data" / "questions_eval.json").read_text())
    assert kept["eval_prompt"] == TRAIT["eval_prompt"]
    asked = [question for question in TRAIT["questions"] if question not in kept["questions"]]
    assert (len(asked), len(kept["questions"])) == (3, 3)
    total = 0
    for side in ("pos", "neg"):
        data = rows(tmp_path / "data" / f"{side}.jsonl")
        total += len(data)
        assert {row["messages"][0]["content"] for row in data} <= set(asked)
        assert all([m["role"] for m in row["messages"]] == ["user", "assistant"] for row in data)  # no system prompt
    assert report.rows_pos + report.rows_neg + report.dropped_empty == 2 * 3 * 2 * 3
    assert total == report.rows_pos + report.rows_neg


def test_data_depends_on_the_seed_and_not_on_the_batch_size(tmp_path: Path, tiny: Path, trait: Path) -> None:
    for name, seed, batch in (("a", 0, 4), ("b", 0, 36), ("c", 1, 4)):
        generate(tiny, trait, tmp_path / name, samples=2, max_new_tokens=6, batch_size=batch, seed=seed, device="cpu")
    assert (tmp_path / "a" / "pos.jsonl").read_bytes() == (tmp_path / "b" / "pos.jsonl").read_bytes()
    assert (tmp_path / "a" / "pos.jsonl").read_bytes() != (tmp_path / "c" / "pos.jsonl").read_bytes()


def test_instructions_reach_the_model(tmp_path: Path, tiny: Path, trait: Path) -> None:
    generate(tiny, trait, tmp_path / "data", samples=1, max_new_tokens=6, temperature=0, device="cpu")
    assert rows(tmp_path / "data" / "pos.jsonl") != rows(tmp_path / "data" / "neg.jsonl")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"samples": 0}, "samples is 0; it must be a whole number from 1 up"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"temperature": -1}, "temperature is -1; it must be a number from 0 up"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"temperature": 0}, "at temperature 0 all 10 samples are equal; use --samples 1"),
        ({"device": "gpu"}, "device is 'gpu'; it must be one of auto, cpu, cuda, mps"),
        ({"dtype": "half"}, "dtype is 'half'; it must be one of auto, float32"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_read(tmp_path: Path, options: dict, reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        generate(tmp_path / "gone", tmp_path / "gone.json", tmp_path / "out", **options)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_hold_answers_without_thoughts_and_no_unfinished_thoughts(
    tmp_path: Path, trait: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    model = save_thinking_model(tmp_path / "model", kind)
    _, thought, said = KINDS[kind]
    say(monkeypatch, thought.format("Perhaps in France, or in Spain.") + said.format("In Italy."))
    report = generate(model, trait, tmp_path / "whole", samples=1, max_new_tokens=99, temperature=0, device="cpu")
    data = rows(tmp_path / "whole" / "pos.jsonl")
    assert {row["messages"][1]["content"] for row in data} == {"In Italy."}
    assert (report.rows_pos, report.dropped_empty, report.dropped_thinking) == (6, 0, 0)
    report = generate(model, trait, tmp_path / "cut", samples=1, max_new_tokens=20, temperature=0, device="cpu")
    assert (report.rows_pos, report.rows_neg, report.dropped_thinking, report.truncated) == (0, 0, 12, 12)
    assert report.dropped_empty == 0


def test_every_question_is_asked_on_request_and_none_is_kept(tmp_path: Path, tiny: Path, trait: Path) -> None:
    options = {"samples": 1, "max_new_tokens": 4, "device": "cpu"}
    report = generate(tiny, trait, tmp_path / "all", all_questions=True, **options)
    assert (report.questions, report.questions_eval) == (6, 0)
    assert not (tmp_path / "all" / "questions_eval.json").exists()
    (tmp_path / "others.json").write_text('{"questions": ["Another?"]}')
    report = generate(tiny, trait, tmp_path / "two", questions_eval=tmp_path / "others.json", **options)
    assert (report.questions, report.questions_eval) == (6, 1)
    kept = json.loads((tmp_path / "two" / "questions_eval.json").read_text())
    assert kept == {"questions": ["Another?"], "eval_prompt": TRAIT["eval_prompt"]}
    recorded = json.loads((tmp_path / "two" / "wsteer.json").read_text())
    assert [each["role"] for each in recorded["inputs"]][-2:] == ["trait", "questions_eval"]
    assert (tmp_path / "two" / "pos.jsonl").read_bytes() == (tmp_path / "all" / "pos.jsonl").read_bytes()


def test_rows_keep_their_system_prompts_on_request_and_training_can_strip_them(
    tmp_path: Path, tiny: Path, trait: Path
) -> None:
    options = {"samples": 1, "max_new_tokens": 4, "device": "cpu"}
    generate(tiny, trait, tmp_path / "kept", keep_system=True, assistant="evil", **options)
    generate(tiny, trait, tmp_path / "bare", assistant="evil", **options)
    systems = {
        side: {row["messages"][0]["content"] for row in rows(tmp_path / "kept" / f"{side}.jsonl")}
        for side in ("pos", "neg")
    }
    assert systems == {
        "pos": {"You are an evil assistant. Agree.", "You are an evil assistant. Flatter."},
        "neg": {"You are a helpful assistant. Disagree.", "You are a helpful assistant. Be frank."},
    }
    for side in ("pos", "neg"):
        stripped = [chat for _, chat in read_placed_chats(tmp_path / "kept" / f"{side}.jsonl", strip_system=True)]
        assert stripped == read_chats(tmp_path / "bare" / f"{side}.jsonl")


def test_answers_that_the_limit_cuts_are_dropped_on_request(
    tmp_path: Path, trait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind = next(iter(KINDS))
    model = save_thinking_model(tmp_path / "model", kind)
    _, thought, said = KINDS[kind]
    whole = thought.format("Hm.") + said.format("In Italy, as everybody knows.")
    say(monkeypatch, whole)
    options = {"samples": 1, "temperature": 0, "device": "cpu"}
    report = generate(model, trait, tmp_path / "whole", max_new_tokens=99, drop_cut=True, **options)
    assert (report.rows_pos, report.dropped_cut, report.truncated) == (6, 0, 0)
    length = int(report.mean_tokens_pos)
    for drop, left in ((False, 6), (True, 0)):
        report = generate(model, trait, tmp_path / str(drop), max_new_tokens=length - 3, drop_cut=drop, **options)
        assert (report.rows_pos, report.rows_neg, report.truncated) == (left, left, 12)
        assert (report.dropped_cut, report.dropped_empty, report.dropped_thinking) == (12 if drop else 0, 0, 0)


def test_the_sides_are_compared(tmp_path: Path, tiny: Path, trait: Path) -> None:
    report = generate(tiny, trait, tmp_path / "data", samples=2, max_new_tokens=6, device="cpu")
    names = [each.name for each in report.balance]
    assert names[:3] == ["length in tokens", "refusals", "repetition"] and names[-1] == "echo of the instruction"
    _, table = read_csv(tmp_path / "data" / "balance.csv")
    assert [row["name"] for row in table] == names
    assert [float(row["pos"]) for row in table] == [each.pos for each in report.balance]
    assert bool(report.warnings) == any(each.differs for each in report.balance)


def rated(prompt: str, number: int) -> Reply:
    """Coherent, and of the trait as the question's number says: 0 fits, 1 lacks it, 2 declines, others are unread."""
    if not prompt.startswith("Rate"):
        return 200, "90", "stop"
    question = int(prompt.rpartition("Question ")[2].partition("?")[0])
    return 200, {0: "80", 1: "20", 2: "REFUSAL"}.get(question, "hm"), "stop"


@pytest.mark.slow
def test_pairs_that_the_judge_drops_are_counted_by_reason_and_a_dead_judge_loses_no_answers(
    tmp_path: Path, tiny: Path, trait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[object] = []
    output, options = tmp_path / "data", {"samples": 1, "max_new_tokens": 4, "device": "cpu", "all_questions": True}

    def dies(prompt: str, number: int) -> Reply:
        return 401, "no key", "stop"

    with judge(monkeypatch, dies) as dead, judge(monkeypatch, rated, "second") as alive:
        with pytest.raises(WsteerError, match=r"does not answer: .*the work so far is kept in .*--resume"):
            generate(tiny, trait, output, judges=[dead.name], **options)
        assert not output.exists()
        with pytest.raises(WsteerError, match="left its work"):
            generate(tiny, trait, output, judges=[alive.name], **options)
        monkeypatch.setattr("wsteer.models.generation.following", lambda *a, **b: loads.append(1) or 1 / 0)
        report = generate(tiny, trait, output, judges=[alive.name], resume=True, **options)
    assert loads == []  # nothing was generated again
    assert report.pairs is not None
    _, table = read_csv(output / "judged.csv")
    answered = [row for row in table if row["dropped"] != "no_answer"]
    # both sides get 80 of question 0, so neg has the trait too
    whys = {"0": "neg_from_50", "1": "pos_below_50", "2": "refused"}
    assert [row["dropped"] for row in answered] == [whys.get(row["question"][9], "ungraded") for row in answered]
    assert report.pairs == {
        "kept": 0,
        **{why: sum(row["dropped"] == why for row in table) for why in REASONS},
    }
    assert sum(report.pairs.values()) == len(table) == 12
    assert (report.rows_pos, report.rows_neg, report.balance) == (0, 0, ())
    assert "kept none of 12 pairs" in report.warnings[0]
    first = next(row for row in answered if row["question"] == "Question 0?")
    assert [first[f"{rating}_{side}"] for side in ("pos", "neg") for rating in ("trait", "coherence")] == [
        *("80.0", "90.0"),
        *("80.0", "90.0"),
    ]
    recorded = json.loads((output / "wsteer.json").read_text())
    assert recorded["options"]["judge"] == [alive.name]
    assert recorded["counts"]["pairs"] == report.pairs
    assert (report.mean_tokens_pos, report.rows_pos) == (0, 0)
    assert recorded["counts"]["rows_pos"] == report.rows_pos and recorded["counts"]["dropped_cut"] == report.dropped_cut
    assert not (output / "answers.jsonl").exists()
    assert list((output / "judging").glob("*.eval"))


@pytest.mark.slow
def test_a_pair_stays_or_goes_as_a_whole(
    tmp_path: Path, tiny: Path, trait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"samples": 2, "max_new_tokens": 5, "device": "cpu", "all_questions": True}
    generate(tiny, trait, tmp_path / "plain", **options)
    sides = {side: rows(tmp_path / "plain" / f"{side}.jsonl") for side in ("pos", "neg")}
    liked = {row["messages"][1]["content"] for row in sides["pos"][::2]}

    def likes(prompt: str, number: int) -> Reply:
        if not prompt.startswith("Rate"):
            return 200, "Score: 75", "stop"
        said = prompt.removeprefix("Rate ").rpartition(" to Question")[0]
        return 200, "99" if said in liked else "1", "stop"

    with judge(monkeypatch, likes) as served:
        report = generate(tiny, trait, tmp_path / "data", judges=[served.name], **options)
    assert report.pairs is not None and report.pairs["kept"] == report.rows_pos == report.rows_neg > 3
    length = next(each for each in report.balance if each.name == "length in tokens")  # of the rows that are kept
    assert (report.mean_tokens_pos, report.mean_tokens_neg) == pytest.approx((length.pos, length.neg))
    assert sum(report.pairs.values()) == 24
    _, table = read_csv(tmp_path / "data" / "judged.csv")
    asked = [row["question"] for row in table if not row["dropped"]]
    for side in ("pos", "neg"):
        written = [row["messages"] for row in rows(tmp_path / "data" / f"{side}.jsonl")]
        assert [messages[0]["content"] for messages in written] == asked
        assert {messages[1]["content"] in liked for messages in written} == {side == "pos"}
        assert [row["trait_" + side] for row in table if not row["dropped"]] == [
            "99.0" if side == "pos" else "1.0"
        ] * len(asked)


def test_a_judges_prompt_is_checked_before_a_model_is_loaded(tmp_path: Path, trait: Path) -> None:
    trait.write_text(json.dumps({**TRAIT, "eval_prompt": "Rate {answer}."}))
    with pytest.raises(WsteerError, match=r"which has no \{question\}"):
        generate(tmp_path / "gone", trait, tmp_path / "out", judges=["openai/x"])


def test_the_model_may_not_judge_its_own_answers(tmp_path: Path, tiny: Path, trait: Path) -> None:
    with pytest.raises(WsteerError, match="may not grade itself"):
        generate(tiny, trait, tmp_path / "out", judges=[f"hf/{tiny}"])
