"""Rows of JSONL files and of Hub data sets, as chats that a model learns or as prompts that it answers."""

import contextlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsteer.errors import WsteerError
from wsteer.files.hub import load_data_set
from wsteer.files.opening import is_stream
from wsteer.files.shapes import Shape, check_columns, turns_of
from wsteer.files.text import parse_json, read_text, without_duplicates

Message = dict[str, str]
MOST_BYTES = 4_000_000_000  # of a data set
THOUGHT = "reasoning_content"  # a message's thought, under the name that chat templates read
THOUGHTS = (THOUGHT, "thinking", "reasoning")  # the names in use
ROLES = ("system", "user", "assistant", "tool")
HUB_DATA_SET = re.compile(r"([\w.-]+/[\w.-]+)(?:/([\w.-]+))?:(\w+)")  # org/name:split, org/name/config:split
TABLES = (".csv", ".tsv", ".yaml", ".yml", ".parquet", ".xlsx")  # whose lines are no prompts
MOST_FILES = 6  # of a folder that a message shows
JSON_NAMES = (".jsonl", ".ndjson", ".json")  # the ends of names of files with rows, without .gz
_EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def is_hub_data_set(reference: str | Path) -> bool:
    """Whether `reference` names a data set on the Hub, `org/name[/config]:split`, and not a local file."""
    return HUB_DATA_SET.fullmatch(str(reference)) is not None and not Path(reference).exists()


def read_chats(source: str | Path, columns: Shape | None = None) -> list[list[Message]]:
    """The chats of `read_placed_chats`, without their places."""
    return [chat for _, chat in read_placed_chats(source, columns=columns)]


def read_placed_chats(
    source: str | Path, strip_system: bool = False, columns: Shape | None = None, empty: bool = False
) -> list[tuple[str, list[Message]]]:
    """Chats that end in an assistant's turn, each with its place (`file:line`).

    Rows have one of the shapes of `files/shapes.py`, or the keys that `columns` name. `strip_system` removes system
    turns, so training has to put into the weights what a system prompt asked for. `empty` lets an answer have no text.
    """
    check_columns(columns)
    chats = [(where, _chat(where, row, strip_system, columns, empty)) for where, row in read_objects(source)]
    if not chats:
        raise WsteerError(f"{source} holds no rows; each line is an object like {_EXAMPLE}")
    return chats


def read_prompts(source: str | Path, columns: Shape | None = None) -> list[tuple[str, list[Message]]]:
    """What a model is to answer: chats that end in a user's turn, each with its place (`file:line`).

    Rows have the shapes of chats, where an answer at the end is not needed, and left out. A file whose name does not
    end in .jsonl or .json (or these and .gz) holds a prompt on each line; a pipe does if it does not begin with { or [.
    """
    check_columns(columns)
    if Path(source).is_file() or is_stream(source):
        text = read_text(source, MOST_BYTES, stream=True)
        named = str(source).removesuffix(".gz").endswith(JSON_NAMES)
        if named or (is_stream(source) and text.lstrip("\ufeff \n").startswith(("{", "["))):
            rows = _rows_of(source, text)
        elif (kind := Path(str(source).removesuffix(".gz")).suffix.lower()) in TABLES:
            raise WsteerError(f"{source}: {kind} is not read; give prompts as JSONL, or as text with one on each line")
        elif columns:
            raise WsteerError(f"{source} has a prompt on each line, and --columns names columns; give it as JSONL")
        else:
            lines = enumerate(text.split("\n"), 1)
            rows = [(f"{source}:{number}", {"prompt": line}) for number, line in lines if line.strip()]
    else:
        rows = read_objects(source)
    if not rows:
        raise WsteerError(f"{source} holds no prompts; give one on each line, or as JSONL")
    return [(where, _asked(where, row, columns)) for where, row in rows]


def read_objects(source: str | Path) -> list[tuple[str, dict]]:
    """The rows of a JSONL file, or of a Hub data set `org/name[/config]:split`, each with its place (`file:line`).

    A file may also hold one JSON list of them, as Alpaca's and ShareGPT's do.
    """
    path = Path(source)
    if path.is_file() or is_stream(source):
        return _rows_of(source, read_text(source, MOST_BYTES, stream=True))
    if path.exists() and not path.is_dir():
        raise WsteerError(f"{source} is a device or a socket; give a JSONL file, a pipe, or - for standard input")
    if path.is_dir():
        raise WsteerError(f"{source} is a folder; name a JSONL file in it{_files_in(path)}")
    file, _, weight = str(source).rpartition(":")
    if Path(file).is_file():
        raise WsteerError(f"{source} does not exist; if {weight[:80]!r} is a weight, write it in digits, as {file}:0.5")
    on_hub = HUB_DATA_SET.fullmatch(str(source))
    if on_hub is None:
        raise WsteerError(
            f"{source} does not exist; give a JSONL file or a Hub dataset as org/name:split or org/name/config:split"
        )
    rows = load_data_set(on_hub[1], on_hub[3], on_hub[2])
    return [(f"{source} row {number}", dict(row)) for number, row in enumerate(rows)]


def _files_in(folder: Path) -> str:
    """The first files with rows in a folder, for a message; as a folder of wsteer generate has several."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        found = sorted(each.name for each in folder.iterdir() if each.name.removesuffix(".gz").endswith(".jsonl"))
    return f": {', '.join(found[:MOST_FILES])}" if found else ""


def _rows_of(path: str | Path, text: str) -> list[tuple[str, dict]]:
    """The objects of a JSONL text, or of one that is a JSON list."""
    if text.lstrip().startswith("["):
        listed = _value(str(path), text)
        places = [(f"{path} row {number}", row) for number, row in enumerate(listed, 1)]
    else:
        # the mark of a file that was put behind another
        lines = ((f"{path}:{number}", line.lstrip("\ufeff")) for number, line in enumerate(text.split("\n"), 1))
        places = [(where, _value(where, line)) for where, line in lines if line.strip()]
    for where, row in places:
        if not isinstance(row, dict):
            raise WsteerError(f"{where} is not a JSON object{_hint(json.dumps(row))}")
    return places


def _value(where: str, text: str) -> Any:
    try:
        value = parse_json(text, without_duplicates)
        json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but not text
    except ValueError as error:
        raise WsteerError(f"{where} is not JSON: {error}{_hint(text)}") from None
    return value


def _hint(line: str) -> str:
    """How to mend what is JSON over several lines, a JSON list or a table, by how a line of it begins."""
    begin = line.strip()
    if begin.startswith("["):
        return "; it looks like a JSON list: write one object a line, as jq -c '.[]' does"
    return "; write one JSON object a line" if begin == "{" or not begin.startswith("{") else ""


def _chat(where: str, row: dict, strip_system: bool, columns: Shape | None, empty: bool) -> list[Message]:
    if not columns and row.get("messages") is not None and row.get("completion") is not None:
        raise WsteerError(f"{where} has both messages and a completion; keep the one to be trained")
    messages = _messages(where, row, turns_of(where, row, columns))
    if strip_system:
        messages = [message for message in messages if message["role"] != "system"]
    answered = len(messages) > 1 and messages[-1]["role"] == "assistant"
    if not answered or not (empty or messages[-1]["content"].strip()):
        raise WsteerError(f"{where} does not end in an assistant's answer, which is what training learns")
    return messages


def _asked(where: str, row: dict, columns: Shape | None) -> list[Message]:
    messages = _messages(where, row, turns_of(where, row, columns, answered=False))
    while messages and messages[-1]["role"] == "assistant":
        messages.pop()
    if not messages or messages[-1]["role"] not in ("user", "tool") or not messages[-1]["content"].strip():
        raise WsteerError(f"{where} asks nothing: its last turn before an answer is no text of a user's")
    return messages


def _messages(where: str, row: dict, turns: Sequence[object]) -> list[Message]:
    if row.get("tools") or row.get("functions"):
        raise WsteerError(f"{where} offers tools, which wsteer does not show to the model; leave such rows out")
    messages = []
    for turn in turns:
        _check_supported(where, turn)
        if not isinstance(turn, dict) or turn.get("role") not in ROLES or not isinstance(turn.get("content"), str):
            raise WsteerError(
                f"{where} has a message without a role of {', '.join(ROLES)} and a content; a row is an object like "
                f"{_EXAMPLE}"
            )
        messages.append(_message(turn))
    return messages


def _message(message: dict) -> Message:
    """The message's role and text, and of an answer its thought, if it has one."""
    thought = next((message[key] for key in THOUGHTS if message.get(key)), None)
    kept = {THOUGHT: thought} if thought is not None and message["role"] == "assistant" else {}
    return {"role": message["role"], "content": message["content"], **kept}


def _check_supported(where: str, message: object) -> None:
    """Refuse by name what other programs put into chats and wsteer would lose."""
    if not isinstance(message, dict):
        return
    if called := next((key for key in ("tool_calls", "function_call") if message.get(key)), None):
        raise WsteerError(f"{where} has a message with {called}; wsteer trains texts alone, so leave such rows out")
    if thought := next((key for key in THOUGHTS if not isinstance(message.get(key) or "", str)), None):
        raise WsteerError(f"{where} has a message whose {thought} is no text; leave it out, or write it as text")
    if message.get("weight") not in (None, 1):  # OpenAI's: 0 is not trained
        raise WsteerError(
            f"{where} has a message with weight {str(message['weight'])[:80]}; wsteer trains every answer, "
            "so leave such rows out"
        )
    if "content" in message and not isinstance(message["content"], str):
        kind = {type(None): "null", list: "a list of parts (images, texts)"}.get(type(message["content"]), "no text")
        raise WsteerError(f"{where} has a message whose content is {kind}; wsteer takes a text, as in {_EXAMPLE}")
