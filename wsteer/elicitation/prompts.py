"""Prompts to be answered, from rows or from lines of text."""

from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.rows import MOST_BYTES, Message, asked_chat, is_hub_data_set, parse_rows, read_objects
from wsteer.files.text import read_text

ROWS = (".jsonl", ".jsonl.gz", ".ndjson")  # the ends of names of files that hold rows, whatever their first letter


def read_prompts(source: str | Path) -> list[list[Message]]:
    """Chats that end in a user's turn, in the order of the file; equal ones stay.

    `source` is a JSONL file, whose rows have `messages` or `prompt`, a text file, each line of which is a prompt, a
    pipe (`-`: standard input) of either, or a Hub data set. What begins with `{` is JSONL. Raises WsteerError, which
    names the line, for what is no prompt, and where there is none.
    """
    if is_hub_data_set(source):
        rows = read_objects(source)
    else:
        text = read_text(source, MOST_BYTES, stream=True)
        if not str(source).lower().endswith(ROWS) and not text.lstrip().startswith("{"):
            lines = [line.strip() for line in text.split("\n") if line.strip()]
            if not lines:
                raise WsteerError(f"{source} holds no prompts; write one a line, or rows with prompt or messages")
            return [[{"role": "user", "content": line}] for line in lines]
        rows = parse_rows(source, text)
    if not rows:
        raise WsteerError(f'{source} holds no rows; write one a line, as {{"prompt": "..."}}')
    return [asked_chat(where, row) for where, row in rows]
