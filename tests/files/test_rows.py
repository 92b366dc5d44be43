"""Chat rows are read with file and line in every error."""

import gzip
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.files.rows import is_hub_data_set, read_chats, read_objects, read_prompts

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
        ("{}", ":2 fits no shape of chat rows: messages; prompt and completion; .*Its keys are none"),
        ('{"messages": []}', ":2 does not end in an assistant's answer"),
        ('{"messages": [{"role": "user"}]}', ":2 has a message without a role"),
        ('{"messages": [{"role": "boss", "content": "x"}]}', ":2 has a message without a role"),
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
    with pytest.raises(WsteerError, match=r"name a JSONL file in it: binary\.jsonl, empty\.jsonl$"):
        read_chats(tmp_path)


def test_a_json_list_is_read_as_its_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("\ufeff" + json.dumps([{"messages": CHAT}] * 2, indent=1), encoding="utf-8")
    assert read_chats(path) == [CHAT, CHAT]
    for text, reason in (
        ('[{"messages": 1}, 2]', r"x\.json row 2 is not a JSON object"),
        ('[{"a": 1},', r"x\.json is not JSON: .*; it looks like a JSON list"),
        ('[{"a": 1, "a": 2}]', r"x\.json is not JSON: it has the key 'a' twice"),
        ("[]", "holds no rows"),
    ):
        path.write_text(text)
        with pytest.raises(WsteerError, match=reason):
            read_chats(path)


def test_rows_of_a_gzip_file_with_marks_have_the_lines_of_the_text_in_errors(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.gz"
    marked = b"\xef\xbb\xbf" + json.dumps({"messages": CHAT}).encode() + b"\r\n"
    path.write_bytes(gzip.compress(marked) + gzip.compress(marked))  # as cat writes two
    assert read_chats(path) == [CHAT, CHAT]
    path.write_bytes(gzip.compress(marked + b"{not json"))
    with pytest.raises(WsteerError, match=r"x\.jsonl\.gz:2 is not JSON"):
        read_chats(path)
    path.write_bytes(gzip.compress(marked)[:-9])
    with pytest.raises(WsteerError, match=r"x\.jsonl\.gz is damaged gzip"):
        read_chats(path)


def test_a_gzip_bomb_of_rows_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wsteer.files.text.FREE", 10_000)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(b" " * 10_000_000))
    with pytest.raises(WsteerError, match="which no honest text does"):
        read_chats(tmp_path / "x.jsonl.gz")


def test_prompts_are_read_from_rows_without_their_last_answers(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    asked, system = CHAT[:1], {"role": "system", "content": "Be brief."}
    rows = [
        {"messages": asked},
        {"messages": CHAT},
        {"messages": [system, *CHAT, *asked, CHAT[1]]},
        {"prompt": "Hi"},
        {"prompt": "Hi", "completion": "no"},
        {"prompt": [system, *asked]},
        {"instruction": "Hi", "category": "greeting"},
        {"question": "Hi", "answer": 5},
        {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "no"}]},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    several = [[system, *CHAT, *asked], asked, asked, [system, *asked], asked, asked, asked]
    assert read_prompts(path) == [(f"{path}:{i}", chat) for i, chat in enumerate([asked, asked, *several], 1)]
    path.write_text(json.dumps({"q": "Hi", "prompt": "no"}))
    assert read_prompts(path, {"prompt": "q"}) == [(f"{path}:1", asked)]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": CHAT[1:]}, ":1 asks nothing"),
        ({"prompt": " "}, ":1 asks nothing"),
        ({"prompt": 5}, ":1 has a message whose content is no text"),
        ({"completion": "x"}, ":1 fits no shape of chat rows: messages; prompt; conversations; instruction; question"),
        ({"instruction": "x", "question": "y"}, ":1 fits two shapes, instruction and question"),
    ],
)
def test_a_row_that_asks_nothing_is_named(tmp_path: Path, row: dict, reason: str) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps(row))
    with pytest.raises(WsteerError, match=reason):
        read_prompts(tmp_path / "x.jsonl")


def test_prompts_of_a_text_file_are_its_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_text("\ufeffHi\n\n{a} [b]\r\n")
    one, two = ([{"role": "user", "content": text}] for text in ("Hi", "{a} [b]"))
    assert read_prompts(path) == [(f"{path}:1", one), (f"{path}:3", two)]
    with pytest.raises(WsteerError, match="give it as JSONL"):
        read_prompts(path, {"prompt": "q"})
    path.write_text("\n")
    with pytest.raises(WsteerError, match="holds no prompts"):
        read_prompts(path)
    with pytest.raises(WsteerError, match="does not exist"):
        read_prompts(tmp_path / "gone.txt")


@pytest.mark.parametrize("text", ["Hi\n", '{"prompt": "Hi"}\n', ' [{"question": "Hi"}]'])
def test_prompts_of_a_pipe_are_rows_if_it_begins_so(tmp_path: Path, text: str) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    assert [chat for _, chat in read_prompts(pipe)] == [CHAT[:1]]
    writer.join()


def test_line_separators_inside_a_text_do_not_split_its_row(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(json.dumps({"a": "one\u2028two\x85"}, ensure_ascii=False), encoding="utf-8")
    assert read_objects(tmp_path / "x.jsonl")[0][1] == {"a": "one\u2028two\x85"}


def test_hub_dataset_without_the_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WsteerError, match=r"pip install 'wsteer\[hub\]'"):
        read_objects("org/name:test")


def test_a_name_of_the_hub_may_have_a_config(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert is_hub_data_set("org/name:test") and is_hub_data_set("org/name/my-config.v1:test")
    assert not any(map(is_hub_data_set, ("org/name", "org/name/config", "/org/name:test", "a/b/c/d:test", "x:test")))
    with pytest.raises(WsteerError, match="as org/name:split or org/name/config:split"):
        read_objects("a/b/c/d:test")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(WsteerError, match=r"reading org/name from the Hub needs datasets"):
        read_objects("org/name/config:test")


@pytest.mark.parametrize("name", ["p.csv", "p.YAML", "p.tsv.gz"])
def test_lines_of_a_table_are_no_prompts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("prompt,answer\nHi,Ho\n")
    with pytest.raises(WsteerError, match="is not read; give prompts as JSONL, or as text with one on each line"):
        read_prompts(tmp_path / name)
