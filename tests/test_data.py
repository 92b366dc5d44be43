"""Chat rows are read with file and line in every error, and rendered so that the answer's tokens are known."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from wsteer.data import batches, padded, read_chats, read_records, render
from wsteer.errors import WsteerError

CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": " Hello there. "}]


def test_rows_with_messages_and_with_prompt_and_completion(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    rows = [
        {"messages": CHAT},
        {"prompt": "Hi", "completion": " Hello there. "},
        {"prompt": CHAT[:1], "completion": CHAT[1:]},
    ]
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    assert read_chats(path) == [CHAT, CHAT, CHAT]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{not json", ":2 is not JSON"),
        ('{"prompt": "\\ud800", "completion": "x"}', ":2 is not JSON"),
        ("[1]", ":2 is not a JSON object"),
        ("{}", ":2 holds neither messages"),
        ('{"messages": []}', ":2 does not end in an assistant's answer"),
        ('{"messages": [{"role": "user"}]}', ":2 holds neither"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', ":2 holds neither"),
        ('{"prompt": "x", "completion": "  "}', ":2 does not end"),
        ('{"messages": [{"role": "user", "content": "x"}]}', ":2 does not end"),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n" + line + "\n")
    with pytest.raises(WsteerError, match=f"x.jsonl{reason}"):
        read_chats(path)


def test_empty_missing_and_binary_files_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "binary.jsonl").write_bytes(b"\xff\xfe\x00")
    for name, reason in (
        ("empty.jsonl", "no rows"),
        ("binary.jsonl", "not UTF-8"),
        ("gone.jsonl", "does not exist"),
        ("", "is a folder"),
    ):
        with pytest.raises(WsteerError, match=reason):
            read_chats(tmp_path / name)


def test_line_separators_inside_a_text_do_not_split_its_row(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"a": "one\u2028two\x85"}, ensure_ascii=False), encoding="utf-8")
    assert read_records(tmp_path / "x.jsonl")[0][1] == {"a": "one\u2028two\x85"}


def test_hub_dataset_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WsteerError, match=r"pip install 'wsteer\[hub\]'"):
        read_records("org/name:test")


def test_rendered_parts_join_to_the_template_with_one_bos(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    example = render(tokenizer, CHAT)
    assert tokenizer.decode(example.prompt) == "<bos><user>Hi<end><assistant>"
    assert tokenizer.decode(example.answer) == "Hello there."
    assert tokenizer.decode(example.closing) == "<end>"
    whole = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert example.prompt + example.answer + example.closing == whole


def test_only_the_last_turn_is_the_answer(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    example = render(
        tokenizer, [{"role": "system", "content": "S"}, *CHAT, CHAT[0], {"role": "assistant", "content": "Hello"}]
    )
    assert (
        tokenizer.decode(example.prompt)
        == "<bos><system>S<end><user>Hi<end><assistant>Hello there.<end><user>Hi<end><assistant>"
    )
    assert tokenizer.decode(example.answer) == "Hello"


def test_what_a_template_puts_before_an_answer_counts_as_prompt(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = (
        "{% for m in messages %}<{{ m['role'] }}>{% if m['role'] == 'assistant' %}(think)\n\n(/think)\n\n{% endif %}"
        "{{ m['content'] }}<end>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    for text in ("Hello", "think", "(think)"):
        example = render(tokenizer, [CHAT[0], {"role": "assistant", "content": text}])
        assert tokenizer.decode(example.prompt) == "<user>Hi<end><assistant>(think)\n\n(/think)\n\n"
        assert tokenizer.decode(example.answer) == text
        assert tokenizer.decode(example.closing) == "<end>"


def test_models_without_or_with_odd_template_are_refused(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{{ messages[0]['content'] }}{% if add_generation_prompt %}Bot:{% endif %}"
    with pytest.raises(WsteerError, match="renders an answer otherwise"):
        render(tokenizer, CHAT)
    tokenizer.chat_template = None
    with pytest.raises(WsteerError, match="no chat template"):
        render(tokenizer, CHAT)


def test_a_template_that_refuses_a_role_is_one_error(tiny: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny)
    tokenizer.chat_template = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    with pytest.raises(WsteerError, match="refuses the messages: no system"):
        render(tokenizer, [{"role": "system", "content": "S"}, *CHAT])


def test_rows_are_padded_on_the_side_asked_for() -> None:
    ids, mask = padded([[1, 2, 3], [4]], pad=9)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [4, 9, 9]], [[1, 1, 1], [1, 0, 0]])
    ids, mask = padded([[1, 2, 3], [4]], pad=9, left=True)
    assert (ids.tolist(), mask.tolist()) == ([[1, 2, 3], [9, 9, 4]], [[1, 1, 1], [0, 0, 1]])


def test_batches_hold_every_row_once_longest_first() -> None:
    assert list(batches([3, 9, 3, 5], 2)) == [[1, 3], [0, 2]]
    assert list(batches([], 2)) == []
