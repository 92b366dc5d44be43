"""Prompts from rows and from lines of text."""

import gzip
import json
from pathlib import Path

import pytest

from wsteer.elicitation.prompts import read_prompts
from wsteer.errors import WsteerError

HI = {"role": "user", "content": "Hi"}
TURNS = [{"role": "system", "content": "Be brief."}, HI, {"role": "assistant", "content": "Hello."}, HI]


def written(folder: Path, content: str | bytes, name: str = "p") -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("content", "chats"),
    [
        ("Hi\n", [[HI]]),
        ("\ufeffHi\r\n\r\n  Hi  \nHi", [[HI]] * 3),  # equal prompts stay
        ("[1] is a list\n", [[{"role": "user", "content": "[1] is a list"}]]),
        ('{"prompt": "Hi"}\n', [[HI]]),
        ('\n{"prompt": "Hi", "completion": "Hello.", "other": 3}', [[HI]]),
        (json.dumps({"prompt": [HI]}), [[HI]]),
        (json.dumps({"messages": TURNS}) + "\n" + json.dumps({"messages": [HI], "prompt": None}), [TURNS, [HI]]),
        (gzip.compress(b'{"prompt": "Hi"}'), [[HI]]),
    ],
)
def test_prompts_are_rows_or_lines(tmp_path: Path, content: str | bytes, chats: list) -> None:
    assert read_prompts(written(tmp_path, content)) == chats


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("p.txt", "\n \n", "p.txt holds no prompts; write one a line"),
        ("p.jsonl", "\n", "p.jsonl holds no rows"),
        ("p.jsonl", "Hi\n", "p.jsonl:1 is not JSON"),
        ("p", '{"prompt": "Hi"}\nHi\n', "p:2 is not JSON"),
        ("p", "abc\1\0", "is not UTF-8 text: it holds NUL bytes"),
        ("p", b"caf\xe9", "is not UTF-8 text"),
        ("p", '{"prompt": "Hi"}\n{"prompt": " "}', "p:2 does not end in a user's turn"),
        ("p", json.dumps({"messages": TURNS[:3]}), "p:1 does not end in a user's turn, .*; leave out what follows"),
        ("p", '{"messages": []}', "p:1 does not end in a user's turn"),
        ("p", '{"question": "Hi"}', "p:1 holds neither a prompt nor messages"),
        ("p", '{"prompt": 3}', "p:1 holds neither a prompt nor messages"),
        ("p", '{"prompt": [{"role": "oracle", "content": "Hi"}]}', "p:1 holds neither a prompt nor messages"),
        ("p", '{"prompt": "Hi", "tools": [1]}', "p:1 offers tools"),
        ("p", '{"messages": [{"role": "user", "content": [1]}]}', "content is a list of parts"),
        (
            "p",
            '{"instruction": [{"pos": "a", "neg": "b"}], "questions": []}',
            r"the name of a trait file ends in .json",
        ),
    ],
)
def test_what_is_no_prompt_is_refused_by_its_line(tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    with pytest.raises(WsteerError, match=reason):
        read_prompts(written(tmp_path, content, name))


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for source, reason in (
        (tmp_path, "it is a folder"),
        (tmp_path / "gone", "does not exist"),
        ("/dev/zero", "it is a pipe, a socket or a device"),
    ):
        with pytest.raises(WsteerError, match=reason):
            read_prompts(source)
