"""Where the assistant's turns are in a chat's text, and what ends them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from wsteer.errors import WsteerError
from wsteer.files.rows import Message
from wsteer.models.chat import Chat


@dataclass(frozen=True)
class Turn:
    """An assistant turn's characters in the rendered text: answer = text[start:end], end of turn = text[end:closed].

    A prompt for this turn ends at `prompted`. Training begins there too, unless the template adds words of its own.
    """

    prompted: int
    learnt: int
    start: int
    end: int
    closed: int


def find_turns(chat: Chat, messages: Sequence[Message], text: str) -> list[Turn]:
    """The assistant's turns in `text`, the rendering of `messages`.

    Rendering the chat with placeholders as messages shows what the template writes around them.
    """
    prompt = chat.text(messages[:-1], prompt=True)
    frames = _frames(chat, messages)
    found = _placed(messages, frames, text)
    if not found and [message["role"] for message in messages].count("assistant") == 1:
        # a template that parses the answer, for example its reasoning: the answer is all between prompt and end of turn
        after = frames[-1][1]
        found = [(len(prompt), len(text) - len(after), after)] if text.endswith(after) else None
    last = found[-1] if found else (0, 0, "")
    if not text.startswith(prompt) or not len(prompt) <= last[0] < last[1]:
        raise WsteerError(
            f"the chat template of {chat.name} renders an answer otherwise than it prompts for one; "
            "wsteer cannot tell the answer's tokens"
        )
    added = text[len(prompt) : last[0]]
    turns = []
    for start, end, after in found or ():
        prompted = start - len(added) if text[:start].endswith(added) else start
        learnt = start if text[prompted:start].strip() else prompted
        turns.append(Turn(prompted, learnt, start, end, end + len(_end_of_turn(chat, after, last[2]))))
    return turns


def _frames(chat: Chat, messages: Sequence[Message]) -> list[tuple[int, str]]:
    """The text that the template writes before all messages (number -1) and after each: (number, text), in order."""
    names = [f"(The content of message {number}.)" for number in range(len(messages))]
    framed = chat.text(
        [{"role": message["role"], "content": name} for message, name in zip(messages, names, strict=True)],
    )
    pieces = re.split(r"\(The content of message (\d+)\.\)", framed)
    return list(zip([-1, *map(int, pieces[1::2])], pieces[::2], strict=True))


def _placed(messages: Sequence[Message], frames: list[tuple[int, str]], text: str) -> list[tuple[int, int, str]] | None:
    """(start, end, the frame after it) of each assistant turn in `text`, or None if the frames do not fit the text."""
    numbers = [number for number, _ in frames if number >= 0 and messages[number]["role"] == "assistant"]
    if numbers != [number for number, message in enumerate(messages) if message["role"] == "assistant"]:
        return None
    position = len(frames[0][1])
    if not text.startswith(frames[0][1]):
        return None
    found = []
    for number, after in frames[1:]:
        content = messages[number]["content"]
        # most templates strip the content
        forms = (content, content.strip(), content.rstrip(), content.lstrip())
        form = next((form for form in forms if text.startswith(form + after, position)), None)
        if form is None:
            return None
        if number in numbers:
            found.append((position, position + len(form), after))
        position += len(form) + len(after)
    return found if position == len(text) else None


def _end_of_turn(chat: Chat, after: str, last: str) -> str:
    """The part of `after`, the text that follows an answer, that ends the turn.

    It is the beginning that `after` shares with `last`, the text after the last answer, up to the first special token,
    where a model stops.
    """
    shared = 0
    while shared < min(len(after), len(last)) and after[shared] == last[shared]:
        shared += 1
    special = [re.escape(token.content) for token in chat.tokenizer.added_tokens_decoder.values() if token.special]
    stop = re.search("|".join(special), after[:shared]) if special else None
    return after[: stop.end() if stop else shared]
