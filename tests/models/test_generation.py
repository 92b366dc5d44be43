"""Generation that batches cannot change."""

from pathlib import Path

import pytest
import torch

from tests.helpers.thinking import KINDS, save_thinking_model, say
from tests.helpers.tiny import save_model
from wsteer.activations.recording import Span, span_means
from wsteer.errors import WsteerError
from wsteer.models.generation import Answer, Decoding, answer, answer_by
from wsteer.models.loading import load
from wsteer.progress import silent


def test_rows_longer_than_the_models_positions_are_refused(tmp_path: Path) -> None:
    loaded = load(save_model(tmp_path / "short", max_position_embeddings=20), "cpu")
    with pytest.raises(WsteerError, match="longer than the 20 positions"):
        answer(loaded, CHATS, 8)


CHATS = [[{"role": "user", "content": "x" * length}] for length in (3, 17, 9, 1, 30)]


def test_greedy_answers_do_not_depend_on_their_batch(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    alone = [answer(loaded, [chat], 8)[0] for chat in CHATS]
    assert answer(loaded, CHATS, 8, batch_size=5) == alone
    assert answer(loaded, CHATS, 8, batch_size=2) == alone


def test_sampled_answers_depend_on_seed_and_row_alone(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    first = answer(loaded, CHATS, 8, batch_size=5, temperature=1.0, seed=1)
    assert answer(loaded, CHATS, 8, batch_size=2, temperature=1.0, seed=1) == first
    assert answer(loaded, CHATS, 8, batch_size=5, temperature=1.0, seed=2) != first
    same = answer(loaded, [CHATS[0]] * 6, 8, temperature=1.0, seed=0)
    assert len({given.text for given in same}) > 1


@pytest.mark.slow
def test_sampling_draws_from_the_softmax() -> None:
    from wsteer.models.generation import SeededSampling

    logits = torch.tensor([[2.0, 0.0, -1.0, 1.0]])
    sampler = SeededSampling(0, [7], temperature=0.7)
    draws = torch.tensor([int(sampler(torch.empty(1, 0), logits).argmax()) for _ in range(20_000)])
    shares = torch.bincount(draws, minlength=4) / len(draws)
    torch.testing.assert_close(shares, torch.softmax(logits[0] / 0.7, 0), rtol=0, atol=0.015)


def test_answers_end_at_the_end_token(tiny: Path) -> None:
    loaded = load(tiny, "cpu")
    loaded.model.generation_config.eos_token_id = list(range(262))
    assert [(given.text, given.tokens, given.finished) for given in answer(loaded, CHATS[:1], 8)] == [("", 0, True)]


def test_scores_that_are_nan_are_an_error_and_no_answer(tmp_path: Path) -> None:
    loaded = load(save_model(tmp_path / "model"), "cpu")
    with torch.no_grad():
        loaded.model.model.norm.weight[3] = float("nan")
    for temperature in (0.0, 1.0):
        with pytest.raises(WsteerError, match="computes NaN"):
            answer(loaded, CHATS, 8, temperature=temperature)


@pytest.mark.parametrize(
    ("raised", "expected", "message"),
    [
        (
            IndexError("index out of range in self"),
            WsteerError,
            "transformers cannot run .*: index out of range in self",
        ),
        (torch.OutOfMemoryError("CUDA out of memory"), torch.OutOfMemoryError, "CUDA out of memory"),
    ],
)
def test_what_a_model_raises_is_one_error_but_for_memory(
    tiny: Path, raised: Exception, expected: type[Exception], message: str
) -> None:
    loaded = load(tiny, "cpu")

    def fail(*_: object) -> None:
        raise raised

    loaded.model.model.layers[1].register_forward_pre_hook(fail)
    with pytest.raises(expected, match=message):
        answer(loaded, CHATS, 8)
    with pytest.raises(expected, match=message):
        list(span_means(loaded, [Span(torch.tensor([1, 2, 3]), 1, 3)], 4, silent))


@pytest.mark.parametrize("kind", KINDS)
def test_thoughts_are_apart_from_the_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    loaded = load(save_thinking_model(tmp_path, kind), "cpu")
    _, thought, said = KINDS[kind]
    say(monkeypatch, thought.format("Perhaps.") + said.format("Yes."))
    (given,) = answer(loaded, CHATS[:1], 99)
    assert (given.thought, given.text, given.finished, given.reached) == ("Perhaps.", "Yes.", True, True)
    say(monkeypatch, "Yes.")
    assert answer(loaded, CHATS[:1], 99) == [Answer("Yes.", 4, True)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_inside_a_thought_reaches_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    loaded = load(save_thinking_model(tmp_path, kind), "cpu")
    _, thought, said = KINDS[kind]
    for text in (thought.format("Perhaps so."), thought.format("Perhaps so.") + said.format("")):
        length = len(loaded.tokenizer(text, add_special_tokens=False)["input_ids"])
        say(monkeypatch, text)
        (given,) = answer(loaded, CHATS[:1], length)
        assert (given.thought, given.text, given.finished, given.reached) == ("Perhaps so.", "", False, False)
        (given,) = answer(loaded, CHATS[:1], length + 1)  # the model itself ended here, without an answer
        assert (given.text, given.finished, given.reached) == ("", True, True)


def decoded(tiny: Path, numbers=range(5), seed: int = 0, **settings) -> list[Answer]:
    return answer_by(load(tiny, "cpu"), CHATS, Decoding(12, **settings), 5, seed, numbers)


def test_an_answer_ends_before_its_first_stop(tiny: Path) -> None:
    whole = decoded(tiny)
    place, stop = next((i, c) for i, c in enumerate(whole[1].text) if i > 1 and c.isascii() and c.isprintable())
    cut = decoded(tiny, stops=("never said", stop))
    assert cut[1].text == whole[1].text.partition(stop)[0].strip() and cut[1].finished
    assert place < cut[1].tokens < 12
    for before, after in zip(whole, cut, strict=True):
        assert before.text.startswith(after.text) and stop not in after.text
        assert after.asked == before.asked > 0


@pytest.mark.slow
def test_sampling_depends_on_a_rows_own_number_and_not_on_its_place(tiny: Path) -> None:
    given = decoded(tiny, [7, 8, 9, 7, 8], temperature=1.0)
    loaded = load(tiny, "cpu")
    for place, number in ((0, 7), (3, 7), (4, 8)):
        assert answer_by(loaded, [CHATS[place]], Decoding(12, 1.0), 1, 0, [number]) == [given[place]]
    assert decoded(tiny, [1, 2, 3, 4, 5], temperature=1.0) != given


@pytest.mark.slow
def test_sampling_among_the_likeliest_alone(tiny: Path) -> None:
    greedy = decoded(tiny)
    assert decoded(tiny, temperature=2.0) != greedy
    assert decoded(tiny, temperature=2.0, top_k=1) == decoded(tiny, temperature=2.0, top_p=1e-6) == greedy
    some = decoded(tiny, temperature=2.0, top_k=3)
    assert some != greedy and some != decoded(tiny, temperature=2.0)
    assert decoded(tiny, temperature=2.0, top_p=1.0) == decoded(tiny, temperature=2.0)
