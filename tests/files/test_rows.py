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
    assert read_objects(tmp_path / "x.jsonl")[0][1] == {"a": "one\u2028two\x85"}


def test_hub_dataset_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WsteerError, match=r"pip install 'wsteer\[hub\]'"):
        read_objects("org/name:test")
