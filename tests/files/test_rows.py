"""Chat rows are read with file and line in every error."""

import json
from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats, read_objects

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


def test_an_answers_thought_is_kept_under_the_name_that_templates_read(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    for name in ("reasoning_content", "thinking", "reasoning"):
        path.write_text(json.dumps({"messages": [{**CHAT[0], name: "no"}, {**CHAT[1], name: "A greeting."}]}))
        assert read_chats(path) == [[CHAT[0], {**CHAT[1], "reasoning_content": "A greeting."}]]
        path.write_text(json.dumps({"messages": [CHAT[0], {**CHAT[1], name: None}]}))
        assert read_chats(path) == [CHAT]
        path.write_text(json.dumps({"messages": [CHAT[0], {**CHAT[1], name: ["A"]}]}))
        with pytest.raises(WsteerError, match=rf"x\.jsonl:1 has a message whose {name} is no text"):
            read_chats(path)


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
        ('{"prompt": "x", "prompt": "y", "completion": "z"}', ":2 is not JSON: it has the key 'prompt' twice"),
        ('{"messages": [{"role": "user", "role": "x"}]}', ":2 is not JSON: it has the key 'role' twice"),
        (
            '{"messages": [{"role": "user", "content": "x"}], "completion": "z"}',
            ":2 has both messages and a completion",
        ),
        (
            '{"messages": [{"role": "assistant", "content": "x", "weight": 0}]}',
            ":2 has a message with weight 0; wsteer trains every answer",
        ),
        (
            '[{"prompt": "x", "completion": "y"},',
            ":2 is not JSON: .*; it looks like a JSON list: write one object a line",
        ),
        ("prompt,completion", ":2 is not JSON: .*; write one JSON object a line"),
        ("{", ":2 is not JSON: .*; write one JSON object a line"),
    ],
)
def test_bad_lines_are_named_by_file_and_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n" + line + "\n")
    with pytest.raises(WsteerError, match=f"x.jsonl{reason}"):
        read_chats(path)


def test_a_weight_of_one_and_a_prompt_beside_messages_are_read(tmp_path: Path) -> None:
    row = {"prompt": "Hi", "messages": [CHAT[0], {**CHAT[1], "weight": 1}]}  # as in UltraChat
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    assert read_chats(tmp_path / "x.jsonl") == [CHAT]


def test_a_weight_in_other_than_digits_is_pointed_at(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"messages": CHAT}))
    with pytest.raises(WsteerError, match=r"x\.jsonl:1e3 does not exist; if '1e3' is a weight, write it in digits"):
        read_chats(f"{tmp_path}/x.jsonl:1e3")


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
    assert read_objects(tmp_path / "x.jsonl")[0][1] == {"a": "one\u2028two\x85"}


def test_hub_dataset_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WsteerError, match=r"pip install 'wsteer\[hub\]'"):
        read_objects("org/name:test")
