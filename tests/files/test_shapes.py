"""The shapes of chat rows: each is read, by itself and by columns, and what fits none or two is named."""

import json
from pathlib import Path

import pytest

from wsteer.errors import WsteerError
from wsteer.files.rows import read_chats
from wsteer.files.shapes import check_columns

SYSTEM = {"role": "system", "content": "Be brief."}
CHAT = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]
SHAREGPT = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello."}]


def chats(folder: Path, row: dict, columns: dict[str, str] | None = None) -> list:
    """The one row's chat, read from a file."""
    (folder / "x.jsonl").write_text(json.dumps(row))
    return read_chats(folder / "x.jsonl", columns)


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"instruction": "Hi", "input": "", "output": "Hello."}, CHAT),
        ({"instruction": "Hi", "output": "Hello.", "text": "Below is an instruction"}, CHAT),
        ({"instruction": "Hi", "input": None, "output": "Hello.", "history": []}, CHAT),
        ({"instruction": "Add:", "input": "1 2", "output": "3"}, [("user", "Add:\n\n1 2"), ("assistant", "3")]),
        ({"instruction": "Hi", "output": "Hello.", "system": "Be brief."}, [SYSTEM, *CHAT]),
        ({"question": "Hi", "answer": "Hello.", "id": 3}, CHAT),
        ({"conversations": SHAREGPT, "id": "a_0"}, CHAT),
        ({"conversations": [{"from": "system", "value": "Be brief."}, *SHAREGPT]}, [SYSTEM, *CHAT]),
        ({"conversations": SHAREGPT * 2, "system": "Be brief."}, [SYSTEM, *CHAT, *CHAT]),
        ({"conversations": [{"from": "user", "value": "Hi"}, {"from": "assistant", "value": "Hello."}]}, CHAT),
        ({"conversations": CHAT}, CHAT),  # under ShareGPT's name, with OpenAI's turns
        # a data set of several shapes has all keys in each row
        ({"messages": None, "prompt": "Hi", "completion": "Hello.", "question": None}, CHAT),
        ({"instruction": None, "output": None, "question": "Hi", "answer": "Hello."}, CHAT),
        # messages, then prompt and completion, before the shapes of others, whose keys are other things there
        ({"messages": CHAT, "question": "no", "answer": "no"}, CHAT),
        ({"prompt": "Hi", "completion": "Hello.", "conversations": []}, CHAT),
    ],
)
def test_each_shape_is_read(tmp_path: Path, row: dict, expected: list) -> None:
    wanted = [each if isinstance(each, dict) else {"role": each[0], "content": each[1]} for each in expected]
    assert chats(tmp_path, row) == [wanted]


def test_a_file_may_mix_shapes(tmp_path: Path) -> None:
    rows = [{"question": "Hi", "answer": "Hello."}, {"conversations": SHAREGPT}, {"messages": CHAT}]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert read_chats(tmp_path / "x.jsonl") == [CHAT, CHAT, CHAT]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"input": "Hi", "response": "Hello."},
            ":1 fits no shape of chat rows: messages; prompt and completion; conversations; instruction and output; "
            "question and answer. Its keys are input, response; name its columns, as --columns prompt=question",
        ),
        (
            {"instruction": "Hi", "output": "Hello.", "question": "Hi", "answer": "no"},
            ":1 fits two shapes, instruction with output and question with answer; say which is meant",
        ),
        ({"instruction": "Hi", "output": "Hello.", "history": [["a", "b"]]}, ":1 has earlier turns in 'history'"),
        ({"instruction": "Hi", "output": "Hello.", "input": ["a"]}, ":1 has 'input' that is no text"),
        ({"instruction": "Hi", "output": "Hello.", "system": 5}, ":1 has a message whose content is no text"),
        ({"instruction": "Hi", "output": ""}, ":1 does not end in an assistant's answer"),
        ({"question": "1 + 1?", "answer": 2}, ":1 has a message whose content is no text"),
        ({"question": "1 + 1?", "answer": ["2"]}, ":1 has a message without a role of system, user, assistant"),
        ({"conversations": "Hi"}, ":1 has 'conversations' that are no list of turns"),
        ({"conversations": ["Hi"]}, ":1 has a message without a role"),
        ({"conversations": SHAREGPT[:1]}, ":1 does not end in an assistant's answer"),
        ({"conversations": [*SHAREGPT, {"from": "gpt"}]}, ":1 has a message whose content is null"),
        ({"conversations": [{"from": "bing", "value": "x"}]}, ":1 has a turn from 'bing', which wsteer does not read"),
        ({"conversations": [{"from": ["x"], "value": "x"}]}, ":1 has a turn from"),
        ({"conversations": SHAREGPT, "tools": "[{}]"}, ":1 offers tools"),
        ({"conversations": [*SHAREGPT[:1], {**SHAREGPT[1], "weight": 0}]}, ":1 has a message with weight 0"),
    ],
)
def test_a_row_that_cannot_be_read_is_named_by_file_and_line(tmp_path: Path, row: dict, reason: str) -> None:
    with pytest.raises(WsteerError, match=f"x.jsonl{reason}"):
        chats(tmp_path, row)


@pytest.mark.parametrize(
    ("row", "columns", "expected"),
    [
        ({"q": "Hi", "a": "Hello."}, {"prompt": "q", "completion": "a"}, CHAT),
        ({"prompt": "Hi", "chosen": "Hello.", "completion": "no"}, {"completion": "chosen"}, CHAT),
        ({"prompt": CHAT[:1], "chosen": CHAT[1:]}, {"completion": "chosen"}, CHAT),
        (
            {"instruction": "Add:", "context": "1 2", "response": "3"},
            {"prompt": "instruction", "input": "context", "completion": "response"},
            [{"role": "user", "content": "Add:\n\n1 2"}, {"role": "assistant", "content": "3"}],
        ),
        (
            {"system_prompt": "Be brief.", "question": "Hi", "response": "Hello."},
            {"system": "system_prompt", "prompt": "question", "completion": "response"},
            [SYSTEM, *CHAT],
        ),
        ({"dialog": SHAREGPT, "messages": "no"}, {"messages": "dialog"}, CHAT),
        # of the two shapes that a row fits, the one that is meant
        (
            {"instruction": "no", "output": "no", "question": "Hi", "answer": "Hello."},
            {"prompt": "question", "completion": "answer"},
            CHAT,
        ),
    ],
)
def test_columns_name_where_a_chat_is(tmp_path: Path, row: dict, columns: dict, expected: list) -> None:
    assert chats(tmp_path, row, columns) == [expected]


def test_a_column_that_a_row_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(WsteerError, match=r"x.jsonl:1 has nothing in the column 'q', as --columns .* keys are a, b"):
        chats(tmp_path, {"a": "x", "b": "y"}, {"prompt": "q", "completion": "b"})


@pytest.mark.parametrize("columns", [{"answer": "a"}, {"prompt": ""}, {"messages": "m", "prompt": "p"}])
def test_columns_of_no_use_are_refused(columns: dict) -> None:
    with pytest.raises(WsteerError, match="--columns"):
        check_columns(columns)


ASKED, SAID = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
TOLD = {"role": "system", "content": "S"}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"system": "S", "messages": [ASKED, SAID]}, [TOLD, ASKED, SAID]),  # as Anthropic has it
        ({"system": "S", "prompt": "Q", "completion": "A"}, [TOLD, ASKED, SAID]),
        ({"system": "S", "question": "Q", "answer": "A"}, [TOLD, ASKED, SAID]),
        ({"system": "S", "messages": [TOLD, ASKED, SAID]}, [TOLD, ASKED, SAID]),
        ({"system": "", "messages": [TOLD, ASKED, SAID]}, [TOLD, ASKED, SAID]),
        ({"system": None, "prompt": "Q", "completion": "A"}, [ASKED, SAID]),
    ],
)
def test_a_system_prompt_beside_the_turns_is_not_lost(tmp_path: Path, row: dict, expected: list) -> None:
    assert chats(tmp_path, row) == [expected]


def test_two_system_prompts_are_refused(tmp_path: Path) -> None:
    for row in (
        {"system": "T", "messages": [TOLD, ASKED, SAID]},
        {"system": "T", "conversations": [{"from": "system", "value": "S"}, {"from": "human", "value": "Q"}]},
    ):
        with pytest.raises(WsteerError, match=r"x\.jsonl:1 has a system prompt under the key system, and another"):
            chats(tmp_path, row)
