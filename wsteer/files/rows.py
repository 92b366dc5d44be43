"""Rows of JSONL files and of Hub data sets, and the chats that they hold."""

import json
import re
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.hub import load_data_set
from wsteer.files.opening import is_stream
from wsteer.files.text import parse_json, read_text, without_duplicates

Message = dict[str, str]
MOST_BYTES = 4_000_000_000  # of a data set
THOUGHT = "reasoning_content"  # a message's thought, under the name that chat templates read
THOUGHTS = (THOUGHT, "thinking", "reasoning")  # the names in use
ROLES = ("system", "user", "assistant", "tool")
HUB_DATA_SET = re.compile(r"([\w.-]+/[\w.-]+):(\w+)")  # org/name:split
_EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def is_hub_data_set(reference: str | Path) -> bool:
    """Whether `reference` names a data set on the Hub, `org/name:split`, and not a local file."""
    return HUB_DATA_SET.fullmatch(str(reference)) is not None and not Path(reference).exists()


def read_chats(source: str | Path) -> list[list[Message]]:
    """The chats of `read_placed_chats`, without their places."""
    return [chat for _, chat in read_placed_chats(source)]


def read_placed_chats(source: str | Path, strip_system: bool = False) -> list[tuple[str, list[Message]]]:
    """Chats that end in an assistant's turn, each with its place (`file:line`).

    Rows have `messages`, or `prompt` and `completion`. `strip_system` removes system turns, so training has to put into
    the weights what a system prompt asked for.
    """
    chats = [(where, _chat(where, row, strip_system)) for where, row in read_objects(source)]
    if not chats:
        raise WsteerError(f"{source} holds no rows; each line is an object like {_EXAMPLE}")
    return chats


def read_objects(source: str | Path) -> list[tuple[str, dict]]:
    """The rows of a JSONL file, or of a Hub data set `org/name:split`, each with its place (`file:line`)."""
    path = Path(source)
    if path.is_file() or is_stream(source):
        return _read_jsonl(source)
    if path.exists() and not path.is_dir():
        raise WsteerError(f"{source} is a device or a socket; give a JSONL file, a pipe, or - for standard input")
    if path.is_dir():
        raise WsteerError(f"{source} is a folder; name a JSONL file in it")
    file, _, weight = str(source).rpartition(":")
    if Path(file).is_file():
        raise WsteerError(f"{source} does not exist; if {weight[:80]!r} is a weight, write it in digits, as {file}:0.5")
    if not is_hub_data_set(source):
        raise WsteerError(f"{source} does not exist; give a JSONL file or a Hub dataset as org/name:split")
    name, _, split = str(source).partition(":")
    return [(f"{source} row {number}", dict(row)) for number, row in enumerate(load_data_set(name, split))]


def _read_jsonl(path: str | Path) -> list[tuple[str, dict]]:
    return parse_rows(path, read_text(path, MOST_BYTES, stream=True))


def parse_rows(path: str | Path, text: str) -> list[tuple[str, dict]]:
    """The rows of a JSONL text that was read from `path`, each with its place (`file:line`)."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        line = line.lstrip("\ufeff")  # the mark of a file that was put behind another
        if not line.strip():
            continue
        try:
            row = parse_json(line, without_duplicates)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but not text
        except ValueError as error:
            raise WsteerError(f"{path}:{number} is not JSON: {error}{_hint(line)}") from None
        if not isinstance(row, dict):
            raise WsteerError(f"{path}:{number} is not a JSON object{_hint(line)}")
        rows.append((f"{path}:{number}", row))
    return rows


def _hint(line: str) -> str:
    """How to mend what is JSON over several lines, a JSON list or a table, by how a line of it begins."""
    begin = line.strip()
    if begin.startswith("["):
        return "; it looks like a JSON list: write one object a line, as jq -c '.[]' does"
    return "; write one JSON object a line" if begin == "{" or not begin.startswith("{") else ""


def _chat(where: str, row: dict, strip_system: bool) -> list[Message]:
    if row.get("messages") is not None and row.get("completion") is not None:
        raise WsteerError(f"{where} has both messages and a completion; keep the one to be trained")
    if "prompt" in row and "completion" in row and row.get("messages") is None:
        prompt, completion = row["prompt"], row["completion"]
        asked = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        answered = completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
        messages: object = asked + answered
    else:
        messages = row.get("messages")
    if row.get("tools") or row.get("functions"):
        raise WsteerError(f"{where} offers tools, which wsteer does not show to the model; leave such rows out")
    for message in messages if isinstance(messages, list) else ():
        _check_supported(where, message)
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise WsteerError(
            f"{where} holds neither messages nor prompt and completion; a row is an object like {_EXAMPLE}"
        )
    if strip_system:
        messages = [message for message in messages if message["role"] != "system"]
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise WsteerError(f"{where} does not end in an assistant's answer, which is what training learns")
    return [_message(message) for message in messages]


def asked_chat(where: str, row: dict) -> list[Message]:
    """The chat of a row of prompts, which ends in a user's turn: its `messages`, or its `prompt`, a text or messages.

    Raises WsteerError, which begins with `where`, for any other row.
    """
    messages = row["prompt"] if row.get("messages") is None and "prompt" in row else row.get("messages")
    if isinstance(messages, str):
        messages = [{"role": "user", "content": messages}]
    if row.get("tools") or row.get("functions"):
        raise WsteerError(f"{where} offers tools, which wsteer does not show to the model; leave such rows out")
    for message in messages if isinstance(messages, list) else ():
        _check_supported(where, message)
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise WsteerError(
            f'{where} holds neither a prompt nor messages; a row is an object like {{"prompt": "..."}} (and the name '
            "of a trait file ends in .json)"
        )
    if not messages or messages[-1]["role"] != "user" or not messages[-1]["content"].strip():
        raise WsteerError(f"{where} does not end in a user's turn, which is to be answered; leave out what follows it")
    return [_message(message) for message in messages]


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


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)
