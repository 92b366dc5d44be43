"""Chats become the tokens that the model's template gives, and what training learns of them is known."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.helpers import templates
from tests.helpers.templates import byte_level, sentence_piece
from wsteer.errors import WsteerError
from wsteer.files.rows import Message
from wsteer.models.chat import read_template
from wsteer.models.rendering import Example, marked_text, prompt_text, render, render_chats, token_ids


def chat(*contents: str, system: str | None = None) -> list[Message]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system else turns


ONE = chat("Hi", " Hello there. ")
# a character of four bytes, which are four tokens
TWO = chat("Hi", "Hello there.", "France?", "Paris: \U0001f600", system="Be nice.")
TOKENIZERS = {
    "bytes": byte_level,
    "bytes, no merges": lambda template: byte_level(template, merges=False),
    "bytes, spaces left out of offsets": lambda template: byte_level(template, trim_offsets=True),
    "bytes, BOS": lambda template: byte_level(template, adds_bos=True),
    "sentence piece": lambda template: sentence_piece(template, legacy=False),
    "sentence piece, legacy": lambda template: sentence_piece(template, legacy=True),
}


def learnt(tokenizer: PreTrainedTokenizerFast, example: Example) -> list[str]:
    """The text of each run of trained tokens; a sentence piece's leading space is left to the test of ids."""
    parts = marked_text(tokenizer, example, limit=10**6).split("\u27e6")[1:]
    return [part.split("\u27e7")[0].lstrip(" ") for part in parts]


# template of helpers/templates.py: what is learnt of ONE, and of TWO, None where it refuses a system prompt
LEARNT: dict[str, tuple[list[str], list[str] | None]] = {
    "CHATML": ([" Hello there. <|im_end|>"], ["Hello there.<|im_end|>", "Paris: \U0001f600<|im_end|>"]),
    "CHATML_DEFAULT": ([" Hello there. <|im_end|>"], ["Hello there.<|im_end|>", "Paris: \U0001f600<|im_end|>"]),
    "GENERATION": ([" Hello there. <|im_end|>"], ["Hello there.<|im_end|>", "Paris: \U0001f600<|im_end|>"]),
    "LLAMA2": (["Hello there. </s>"], ["Hello there. </s>", "Paris: \U0001f600 </s>"]),
    "LLAMA3": (["Hello there.<|eot_id|>"], ["Hello there.<|eot_id|>", "Paris: \U0001f600<|eot_id|>"]),
    "GEMMA": (["Hello there.<end_of_turn>"], None),
    "THINKING": ([" Hello there. <|im_end|>"], ["Hello there.<|im_end|>", "Paris: \U0001f600<|im_end|>"]),
    "LATE_SYSTEM": ([" Hello there. </s>"], ["Hello there.</s>", "Paris: \U0001f600</s>"]),
    "PLAIN": ([" Hello there. </s>"], ["Hello there.", "Paris: \U0001f600</s>"]),
}


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize(("template", "one", "two"), [(name, *learnt) for name, learnt in LEARNT.items()], ids=LEARNT)
def test_answers_and_ends_of_turns_are_learnt_and_nothing_else(
    tokenizer: Callable[[str], PreTrainedTokenizerFast], template: str, one: list[str], two: list[str] | None
) -> None:
    made = tokenizer(getattr(templates, template))
    assert learnt(made, render(made, ONE)) == [part.lstrip(" ") for part in one]
    if two is None:
        with pytest.raises(WsteerError, match="refuses the messages: System role not supported"):
            render(made, TWO)
    else:
        assert learnt(made, render(made, TWO)) == two


@pytest.mark.parametrize("tokenizer", TOKENIZERS.values(), ids=TOKENIZERS)
@pytest.mark.parametrize("template", [name for name, (_, two) in LEARNT.items() if two is not None])
def test_tokens_begin_with_those_of_the_prompt_and_are_the_templates_where_those_do(
    tokenizer: Callable[[str], PreTrainedTokenizerFast], template: str
) -> None:
    made = tokenizer(getattr(templates, template))
    messages = chat("Hi", "Hello there.", system="Be nice.")
    example = render(made, messages)
    prompt = token_ids(made, prompt_text(made, messages[:-1]))
    assert example.tokens[: len(prompt)].tolist() == prompt
    whole = made.apply_chat_template(messages, tokenize=True, return_dict=False)
    bos = [made.bos_token_id] if made("a")["input_ids"][0] == made.bos_token_id != whole[0] else []
    if (bos + whole)[: len(prompt)] == prompt:
        assert example.tokens.tolist() == bos + whole
    else:  # "\n\n" at the end of a prompt is one token, before a letter two: see GPT-2's pattern
        assert (template, tokenizer) in [
            ("LLAMA3", TOKENIZERS[name]) for name in TOKENIZERS if name.startswith("bytes")
        ]
        assert made.decode(example.tokens) == made.decode(bos + whole)


def test_the_mark_of_a_template_and_its_absence_give_the_same() -> None:
    marked, plain = byte_level(templates.GENERATION), byte_level(templates.GENERATION_UNMARKED)
    for messages in (ONE, TWO):
        with_mark, without = render(marked, messages), render(plain, messages)
        assert torch.equal(with_mark.tokens, without.tokens)
        assert torch.equal(with_mark.trained, without.trained)
        assert with_mark.answer == without.answer


def test_the_mark_decides_where_it_is_set_otherwise() -> None:
    template = templates.GENERATION.replace("<|im_end|>{% endgeneration %}", "{% endgeneration %}<|im_end|>")
    made = byte_level(template)
    assert learnt(made, render(made, TWO)) == ["Hello there.", "Paris: \U0001f600"]


@pytest.mark.parametrize("adds_bos", [False, True])
@pytest.mark.parametrize("writes_bos", [False, True])
def test_there_is_exactly_one_bos_where_the_tokenizer_wants_one(adds_bos: bool, writes_bos: bool) -> None:
    made = byte_level(("{{ bos_token }}" if writes_bos else "") + templates.CHATML, adds_bos=adds_bos)
    example = render(made, TWO)
    assert example.tokens.tolist().count(made.bos_token_id) == int(adds_bos or writes_bos)
    assert token_ids(made, prompt_text(made, TWO[:-1])).count(made.bos_token_id) == int(adds_bos or writes_bos)
    assert learnt(made, example) == ["Hello there.<|im_end|>", "Paris: \U0001f600<|im_end|>"]
    assert made.decode(example.tokens[example.answer]) == "Paris: \U0001f600"


def test_the_answer_is_the_last_one_without_what_the_template_adds() -> None:
    made = byte_level(templates.THINKING)
    example = render(made, TWO)
    assert made.decode(example.tokens[: example.answer.start]).endswith("assistant\n<think>\n\n</think>\n\n")
    assert made.decode(example.tokens[example.answer]) == "Paris: \U0001f600"
    for words in ("think", "<think>", "</thin"):
        example = render(made, chat("Hi", words))
        assert made.decode(example.tokens[example.answer]) == words


def test_reasoning_that_the_template_moves_is_learnt_with_its_answer() -> None:
    made = byte_level(templates.THINKING)
    example = render(made, chat("Hi", "<think>\nA greeting.\n</think>\n\nHello"))
    assert learnt(made, example) == ["<think>\nA greeting.\n</think>\n\nHello<|im_end|>"]


def test_no_token_spans_the_end_of_a_prompt() -> None:
    template = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    template += "{% if add_generation_prompt %}assistant: {% endif %}"
    for made in (byte_level(template), byte_level(template, trim_offsets=True)):
        messages = chat("Hello", "Hello", "Hello", "Hello")
        whole = made.apply_chat_template(messages, tokenize=True, return_dict=False)
        example = render(made, messages)
        assert whole != example.tokens.tolist()  # " Hello" is one token of the whole text
        assert made.decode(whole) + "</s>" == made.decode(example.tokens)
        prompt = token_ids(made, prompt_text(made, messages[:-1]))
        answer = [*made("Hello\n", add_special_tokens=False)["input_ids"], made.eos_token_id]
        assert example.tokens[example.answer.start :].tolist() == answer
        assert learnt(made, example) == ["Hello\n", "Hello\n</s>"]
        assert example.tokens[example.answer.start - 1] == prompt[-1]


def test_spaces_that_the_model_has_to_say_are_learnt() -> None:
    made = byte_level(templates.LLAMA2, merges=False)  # the space before an answer is a token of its own
    example = render(made, ONE)
    assert "[/INST]\u27e6 Hello there. </s>\u27e7" in marked_text(made, example)
    assert made.decode(example.tokens[example.answer]) == "Hello there."


def test_models_without_or_with_odd_template_are_refused() -> None:
    made = byte_level("{{ messages[0]['content'] }}{% if add_generation_prompt %}Bot:{% endif %}")
    with pytest.raises(WsteerError, match="renders an answer otherwise"):
        render(made, ONE)
    made = byte_level(templates.CHATML.replace("{{ m['content'] }}", "{{ m['content'] | upper }}"))
    with pytest.raises(WsteerError, match="renders an answer otherwise"):
        render(made, TWO)
    made = byte_level(None)
    with pytest.raises(WsteerError, match=r"has no chat template.*--template FILE"):
        render(made, ONE)


@pytest.mark.parametrize(
    "template", ["{{ nonsense(1) }}", "{% if %}", "{{ messages + 1 }}", "{% for i in range(10**9) %}{% endfor %}"]
)
def test_a_template_that_fails_is_one_error(template: str) -> None:
    with pytest.raises(WsteerError, match=r"refuses the messages: .+"):
        render(byte_level(template), ONE)


def test_errors_name_file_and_line_of_the_row() -> None:
    made = byte_level(templates.GEMMA)
    with pytest.raises(WsteerError, match=r"x\.jsonl:7: the chat template"):
        render_chats(made, [("x.jsonl:3", ONE), ("x.jsonl:7", TWO)])
    with pytest.raises(
        WsteerError, match=r"x.jsonl:3: \d+ tokens are more than the model's 8 positions.*--max-length 8"
    ):
        render_chats(made, [("x.jsonl:3", ONE)], max_positions=8)
    with pytest.raises(WsteerError, match="--max-length 4: no row"):
        render_chats(made, [("x.jsonl:3", ONE)], max_length=4)


def test_cut_rows_keep_their_first_tokens_and_lose_nothing_unsaid() -> None:
    made = byte_level(templates.CHATML, merges=False)
    rows = [("x:1", ONE), ("x:2", chat("Hi", "Hello " * 20)), ("x:3", chat("Hi " * 40, "Hello"))]
    whole = [render(made, messages) for _, messages in rows]
    length = len(whole[0].tokens)
    rendered = render_chats(made, rows, max_length=length)
    assert (rendered.cut, rendered.dropped, len(rendered.examples)) == (2, 1, 2)
    for kept, full in zip(rendered.examples, whole[:2], strict=True):
        assert torch.equal(kept.tokens, full.tokens[:length])
        assert torch.equal(kept.trained, full.trained[:length])
        assert kept.answer == slice(full.answer.start, min(full.answer.stop, length))


def test_shown_text_marks_trained_tokens_and_shortens_long_parts() -> None:
    made = byte_level(templates.CHATML)
    text = marked_text(made, render(made, chat("x" * 1000, "Hello")))
    assert text.endswith("\n<|im_start|>assistant\n\u27e6Hello<|im_end|>\u27e7\n")
    assert "xxx [...] xxx" in text
    assert len(text) < 600


def test_a_template_file_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.jinja").write_bytes(b"\xff\xfe")
    with pytest.raises(WsteerError, match=r"x\.jinja cannot be read"):
        read_template(tmp_path / "x.jinja")


def test_a_template_file_too_long_to_be_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "long.jinja").write_text("x" * 1_000_001)
    with pytest.raises(WsteerError, match="is longer than 1000000 characters"):
        read_template(tmp_path / "long.jinja")
