"""Perplexities of texts against a computation in float64."""

import gzip
import json
import math
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny import save_model
from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import BASE, Condition
from wsteer.evaluation.rows import Outcome
from wsteer.evaluation.subject import Subject
from wsteer.evaluation.tasks import texts
from wsteer.evaluation.tasks.answering import prepare
from wsteer.models.loading import LoadedModel, load
from wsteer.models.rendering import token_ids


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A tiny model in float64, which takes 64 tokens."""
    found = load(save_model(tmp_path_factory.mktemp("m") / "model", max_position_embeddings=64), "cpu")
    found.model.double()
    return found


def ran(loaded: LoadedModel, path: Path, condition: Condition = Condition(BASE), **options) -> Outcome:  # noqa: B008
    return prepare(f"perplexity:{path}", **options).run(Subject(loaded, {}, batch_size=4), condition)


def nats(loaded: LoadedModel, ids: list[int], scored: range) -> float:
    with torch.no_grad():
        logs = loaded.model(input_ids=torch.tensor([ids])).logits[0].log_softmax(dim=-1)
    return -sum(float(logs[place - 1, ids[place]]) for place in scored)


def test_paragraphs_of_a_plain_text(tmp_path: Path, loaded: LoadedModel) -> None:
    (tmp_path / "text.txt").write_text("\n\nOne paragraph\nof two lines.\n \n\nAnother.\n")
    outcome = ran(loaded, tmp_path / "text.txt")
    assert [(row.id, row.answer) for row in outcome.rows] == [("1", "One paragraph\nof two lines."), ("2", "Another.")]
    for row in outcome.rows:
        ids = token_ids(loaded.tokenizer, row.answer)
        scored = range(1, len(ids))  # the first token has nothing before it
        assert (row.value, row.weight) == (pytest.approx(nats(loaded, ids, scored) / len(scored)), len(scored))
    (measure,) = outcome.measures
    assert (measure.task, measure.kind, measure.role) == ("perplexity:text.txt", "perplexity", "capability")


def test_a_long_text_is_read_in_windows_and_each_token_scored_once(tmp_path: Path, loaded: LoadedModel) -> None:
    text = "".join(chr(65 + i * i % 23) for i in range(150))
    (tmp_path / "t.jsonl").write_text(json.dumps({"text": text}))
    (row,) = ran(loaded, tmp_path / "t.jsonl").rows
    ids = token_ids(loaded.tokenizer, text)
    assert len(ids) == 150
    total = nats(loaded, ids[:64], range(1, 64))
    for begin, end in ((32, 96), (64, 128), (96, 150)):
        total += nats(loaded, ids[begin:end], range(32, end - begin))
    assert (row.weight, row.value) == (149, pytest.approx(total / 149))


def test_of_a_chat_the_last_answer_is_scored(tmp_path: Path, loaded: LoadedModel) -> None:
    chat = [("user", "Hi"), ("assistant", "Yes?"), ("user", "Bye"), ("assistant", "See you.")]
    row = {"messages": [{"role": role, "content": content} for role, content in chat]}
    (tmp_path / "chats.jsonl.gz").write_bytes(gzip.compress(json.dumps(row).encode()))
    (found,) = ran(loaded, tmp_path / "chats.jsonl.gz").rows
    ids = token_ids(loaded.tokenizer, "<bos><user>Hi<end><assistant>Yes?<end><user>Bye<end><assistant>See you.")
    assert found.weight == 8
    assert found.value == pytest.approx(nats(loaded, ids, range(len(ids) - 8, len(ids))) / 8)
    (system,) = ran(loaded, tmp_path / "chats.jsonl.gz", Condition("system", system="Be brief.")).rows
    assert system.value != found.value and system.prompt == found.prompt


def test_texts_without_a_token_to_score_are_left_out(tmp_path: Path, loaded: LoadedModel) -> None:
    (tmp_path / "t.jsonl").write_text('{"text": ""}\n{"text": "fine"}\n')
    outcome = ran(loaded, tmp_path / "t.jsonl")
    assert [row.id for row in outcome.rows] == ["2"]
    assert outcome.warnings == ("perplexity:t.jsonl: 1 of 2 texts have no token to score; left out",)


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(tmp_path: Path) -> None:
    flat = load(save_model(tmp_path / "flat"), "cpu")
    with torch.no_grad():
        flat.model.get_output_embeddings().weight.zero_()
    (tmp_path / "t.txt").write_text("Any text.")
    (row,) = ran(flat, tmp_path / "t.txt").rows
    assert math.exp(row.value) == pytest.approx(262)


def test_limit_and_bad_files(tmp_path: Path) -> None:
    (tmp_path / "t.txt").write_text("a\n\nb\n\nc")
    assert prepare(f"{texts.PREFIX}{tmp_path / 't.txt'}", limit=2).count == 2
    (tmp_path / "bad.jsonl").write_text('{"text": 3}')
    (tmp_path / "empty.txt").write_text("\n \n")
    (tmp_path / "other.jsonl").write_text('{"content": "x"}')
    for name, reason in (
        ("bad.jsonl", "bad.jsonl:1: text is no text"),
        ("empty.txt", "holds no texts"),
        ("gone.txt", "gone.txt"),
        ("other.jsonl", r'other.jsonl:1 has neither a text nor a chat: .*"text": .* its keys are content$'),
    ):
        with pytest.raises(WsteerError, match=reason):
            prepare(f"perplexity:{tmp_path / name}")
