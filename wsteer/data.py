"""Chat rows from JSONL files or Hub datasets, rendered by a model's chat template into token ids."""

import importlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jinja2 import TemplateError
from torch import Tensor

from wsteer.errors import WsteerError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Message = dict[str, str]
ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True)
class Example:
    """A rendered chat as token ids: the prompt up to where the answer begins, the answer, the template's closing.

    `prompt` is also what generation starts from.
    """

    prompt: list[int]
    answer: list[int]
    closing: list[int]

    @property
    def tokens(self) -> list[int]:
        """The whole chat: what training sees."""
        return self.prompt + self.answer + self.closing


def read_chats(source: str | Path) -> list[list[Message]]:
    """Chats that end in an assistant's turn, from rows with `messages` or with `prompt` and `completion`."""
    chats = [_chat(where, row) for where, row in read_records(source)]
    if not chats:
        raise WsteerError(f"{source} holds no rows; each line is an object like {_EXAMPLE}")
    return chats


_PLACEHOLDER = "The placeholder of an answer."
_EXAMPLE = '{"messages": [{"role": "user", "content": "..."}, {"role": "assistant", "content": "..."}]}'


def read_records(source: str | Path) -> list[tuple[str, dict]]:
    """The rows of a JSONL file, or of a Hub dataset `org/name:split`, each with where it stands (`file:line`)."""
    path = Path(source)
    if path.is_file():
        return _read_jsonl(path)
    if path.is_dir():
        raise WsteerError(f"{source} is a folder; name a JSONL file in it")
    match = re.fullmatch(r"([\w.-]+/[\w.-]+):(\w+)", str(source))
    if match is None or path.exists():
        raise WsteerError(f"{source} does not exist; give a JSONL file or a Hub dataset as org/name:split")
    return [(f"{source} row {number}", dict(row)) for number, row in enumerate(_load_hub(match[1], match[2]))]


def _read_jsonl(path: Path) -> list[tuple[str, dict]]:
    rows = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise WsteerError(f"{path} is not UTF-8 text: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            json.dumps(row, ensure_ascii=False).encode()  # half a surrogate pair is JSON, but no text
        except (ValueError, RecursionError) as error:
            raise WsteerError(f"{path}:{number} is not JSON: {error}") from None
        if not isinstance(row, dict):
            raise WsteerError(f"{path}:{number} is not a JSON object")
        rows.append((f"{path}:{number}", row))
    return rows


def _load_hub(name: str, split: str) -> Sequence[dict]:
    try:
        datasets = importlib.import_module("datasets")
    except ModuleNotFoundError:
        raise WsteerError(f"reading {name} from the Hub needs datasets: pip install 'wsteer[hub]'") from None
    try:
        datasets.disable_progress_bars()
        return datasets.load_dataset(name, split=split)
    except (OSError, ValueError) as error:  # datasets' own errors derive from these two
        reason = str(error).strip().splitlines()[0]
        raise WsteerError(f"the data set {name}:{split} is not to be had from the Hub: {reason}") from error


def _chat(where: str, row: dict) -> list[Message]:
    if "prompt" in row and "completion" in row:
        prompt, completion = row["prompt"], row["completion"]
        messages = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}]
        messages = messages + (
            completion if isinstance(completion, list) else [{"role": "assistant", "content": completion}]
        )
    else:
        messages = row.get("messages")
    if not isinstance(messages, list) or not all(_is_message(message) for message in messages):
        raise WsteerError(
            f"{where} holds neither messages nor prompt and completion; a row is an object like {_EXAMPLE}"
        )
    if len(messages) < 2 or messages[-1]["role"] != "assistant" or not messages[-1]["content"].strip():
        raise WsteerError(f"{where} does not end in an assistant's answer, which is what training learns")
    return [{"role": message["role"], "content": message["content"]} for message in messages]


def _is_message(message: object) -> bool:
    return isinstance(message, dict) and message.get("role") in ROLES and isinstance(message.get("content"), str)


def prompt_text(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> str:
    """The chat as text up to where the assistant's answer begins, special tokens included."""
    if not tokenizer.chat_template:
        raise WsteerError(f"{tokenizer.name_or_path} has no chat template; use an instruction-tuned model")
    return _rendered(tokenizer, messages, True)


def _rendered(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message], add_generation_prompt: bool) -> str:
    try:
        return tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=add_generation_prompt
        )
    except TemplateError as error:  # templates refuse what their model does not know, such as a system turn
        raise WsteerError(f"the chat template of {tokenizer.name_or_path} refuses the messages: {error}") from None


def token_ids(tokenizer: "PreTrainedTokenizerBase", text: str) -> list[int]:
    """Token ids of rendered text; the template has written the special tokens, so none is added (one BOS, not two)."""
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def render(tokenizer: "PreTrainedTokenizerBase", messages: Sequence[Message]) -> Example:
    """Render a chat whose last turn is the answer.

    What the template puts before and after an answer, such as an empty thinking block, is learnt from a placeholder in
    its place and counts as prompt and closing. The parts are tokenised apart and joined as ids, as in generation: no
    token spans a boundary.
    """
    start = prompt_text(tokenizer, messages[:-1])
    framed = _rendered(tokenizer, [*messages[:-1], {"role": "assistant", "content": _PLACEHOLDER}], False)
    before, _, after = framed.rpartition(_PLACEHOLDER)
    whole = _rendered(tokenizer, messages, False)
    answer = whole[len(before) : len(whole) - len(after)]
    # most templates strip the answer; either is right
    if (
        not before.startswith(start)
        or whole != before + answer + after
        or answer.strip() != messages[-1]["content"].strip()
    ):
        raise WsteerError(
            f"the chat template of {tokenizer.name_or_path} renders an answer otherwise than it prompts for one; "
            "wsteer cannot tell the answer's tokens"
        )
    return Example(*(token_ids(tokenizer, text) for text in (before, answer, after)))


def batches(lengths: Iterable[int], size: int) -> Iterator[list[int]]:
    """Indices of rows in batches of `size`, longest first, so that rows of one batch need little padding."""
    order = sorted(enumerate(lengths), key=lambda pair: (-pair[1], pair[0]))
    for start in range(0, len(order), size):
        yield [index for index, _ in order[start : start + size]]


def padded(rows: Sequence[Sequence[int]], pad: int, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows of token ids as (input_ids, attention_mask), both [rows, longest], padded on the right unless `left`."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        span = slice(width - len(row), width) if left else slice(len(row))
        ids[i, span] = torch.tensor(row)
        mask[i, span] = 1
    return ids, mask
