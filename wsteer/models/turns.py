"""Where the assistant's turns are in a chat's text, and the end of each, at which the model stops."""

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from wsteer.errors import WsteerError
from wsteer.files.rows import THOUGHT, Message
from wsteer.models.chat import Chat
from wsteer.models.thoughts import find_marks

MOST_TRIED = 8  # arguments of a template that are tried for a hint


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


@dataclass(frozen=True)
class Row:
    """A chat's text with the assistant's turns in it, as the model would have to write them after their prompts.

    `more` are the ids of tokens that follow the last turn in the text's place: its end where the template writes none.
    `own` tells whether the text is the template's rendering of the chat.
    """

    text: str
    turns: list[Turn]
    more: tuple[int, ...]
    own: bool


@dataclass(frozen=True)
class _Place:
    """Where an answer is in a text, and what the template writes after it, up to the next message's words.

    `prompted` is where its prompt ends, None if that is to be told from the last turn's.
    """

    start: int
    end: int
    after: str
    prompted: int | None = None


class _Misfit(WsteerError):
    """The rendered row does not go on from the prompt that generation gives."""


class _LeftOut(WsteerError):
    """The rendered row lacks a part of the last answer, or its thought; the message names it."""


def find_turns(chat: Chat, messages: Sequence[Message]) -> Row:
    """The chat, whose last message is an answer, as text with its turns.

    Raises WsteerError, with what would mend it, if the template renders answers otherwise than it prompts for them.
    """
    try:
        return _row(chat, messages)
    except _Misfit as error:
        why = f" ({error})" if str(error) else ""
        raise WsteerError(
            f"the chat template of {chat.name} renders an answer otherwise than it prompts for one; give another with "
            f"--template FILE{_mending(chat, messages)}{why}"
        ) from None
    except _LeftOut as error:
        raise WsteerError(
            f"the chat template of {chat.name} leaves out {error}; leave it out of the rows, or give a template that "
            f"writes it with --template FILE{_mending(chat, messages)}"
        ) from None


def _row(chat: Chat, messages: Sequence[Message]) -> Row:
    rendered, prompt = chat.text(messages), chat.text(messages[:-1], prompt=True)
    frames = _frames(chat, messages)
    places = _placed(messages, frames, rendered) or _replaced(chat, messages, frames, rendered, prompt)
    text, places = _continued(chat, messages, rendered, prompt, places)
    last = places[-1]
    if not len(prompt) <= last.start < last.end:
        raise _Misfit
    _check_whole(chat, messages[-1], text[len(prompt) :])
    added = text[len(prompt) : last.start]
    end, more = _end_of_row(chat, messages, last.after)
    whole = end + "".join(more)
    turns = []
    for place in places:
        prompted = place.prompted
        if prompted is None:
            prompted = place.start - len(added) if text[: place.start].endswith(added) else place.start
        learnt = place.start if text[prompted : place.start].strip() else prompted
        closing = end if place is last else _end_within(chat, place.after, whole)
        turns.append(Turn(prompted, learnt, place.start, place.end, place.end + len(closing)))
    ids = {**chat.special_tokens, **chat.end_tokens}
    return Row(text, turns, tuple(ids[each] for each in more), text == rendered)


# ---- Where the answers are


def _frames(chat: Chat, messages: Sequence[Message]) -> list[tuple[int, str]]:
    """The text that the template writes before all messages (number -1) and after each: (number, text), in order.

    Rendering the chat with placeholders as messages shows what the template writes around them.
    """
    framed = chat.text([{"role": message["role"], "content": _name(i)} for i, message in enumerate(messages)])
    pieces = re.split(r"\(The content of message (\d+)\.\)", framed)
    return list(zip([-1, *map(int, pieces[1::2])], pieces[::2], strict=True))


def _name(number: int) -> str:
    return f"(The content of message {number}.)"


def _placed(messages: Sequence[Message], frames: list[tuple[int, str]], text: str) -> list[_Place]:
    """Each assistant turn in `text`; none if the frames and the contents between them do not make up the text."""
    numbers = [number for number, _ in frames if number >= 0 and messages[number]["role"] == "assistant"]
    if numbers != [number for number, message in enumerate(messages) if message["role"] == "assistant"]:
        return []
    position = len(frames[0][1])
    if not text.startswith(frames[0][1]):
        return []
    found = []
    for number, after in frames[1:]:
        content = messages[number]["content"]
        # most templates strip the content
        forms = (content, content.strip(), content.rstrip(), content.lstrip())
        form = next((form for form in forms if text.startswith(form + after, position)), None)
        if form is None:
            return []
        if number in numbers:
            found.append(_Place(position, position + len(form), after))
        position += len(form) + len(after)
    return found if position == len(text) else []


def _replaced(
    chat: Chat, messages: Sequence[Message], frames: list[tuple[int, str]], text: str, prompt: str
) -> list[_Place]:
    """Each assistant turn in `text`, where the template parses answers, for example moves or leaves out their thoughts.

    An answer is what a placeholder in its place replaces; the last one is all between its prompt and its end.
    """
    after = dict(frames)
    found = []
    for number, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        last = number == len(messages) - 1
        other = [*messages[:number], {"role": "assistant", "content": _name(number)}, *messages[number + 1 :]]
        framed = chat.text(other)
        before, name, behind = framed.partition(_name(number))
        if not name and not last:
            continue  # the template leaves the whole turn out
        prompted = prompt if last else chat.text(messages[:number], prompt=True)
        heads = [each for each in (prompted, before) if text.startswith(each)]
        if not last and len(heads) == 2:
            heads = [before]  # behind what the template adds, as before a plain last answer
        if not text.endswith(behind) or framed.count(_name(number)) != 1 or number not in after or not (heads or last):
            raise _Misfit
        start, end = len(heads[0]) if heads else 0, len(text) - len(behind)
        shared = _shared(behind, after[number])
        known = len(prompted) if text.startswith(prompted) and len(prompted) <= start else None
        found.append(_Place(start, end, behind if last else shared, known))
    return found


def _continued(
    chat: Chat, messages: Sequence[Message], text: str, prompt: str, places: list[_Place]
) -> tuple[str, list[_Place]]:
    """The text and its places, going on from the prompt that generation gives also where the template's text does not.

    A prompt may have an empty thought that the template does not write before an answer: then the row has it too. It
    may open a thought that the template writes otherwise, or leaves out of the answer: then the row closes it, in the
    template's words or in the answer's own.
    """
    last, content = places[-1], messages[-1]["content"].strip()
    if text.startswith(prompt):
        if last.start < len(prompt) < last.end:  # the prompt opens the thought with which the answer's own words begin
            places = [*places[:-1], replace(last, start=len(prompt), prompted=len(prompt))]
        return text, places
    head, opening, closing = _thought_in(chat, prompt)
    if not opening or not text.startswith(head) or last.end < len(head):
        raise _Misfit
    added, own = text[len(head) : last.start], text[len(head) :].lstrip()
    if prompt.rstrip().endswith(closing):
        kept = re.sub(rf"\s*{re.escape(opening)}\s*{re.escape(closing)}\s*", "", added, count=1)
        written = (kept if kept.strip() else "") + text[last.start :]
        if (own.startswith(opening) and not added) or written.lstrip().startswith(opening):
            raise _Misfit(f"the prompt has an empty thought, {opening}{closing}, and the answer has one with words")
    elif own.startswith(opening) and closing in own:
        written = own.removeprefix(opening)
    elif closing in content:
        written = content.removeprefix(opening) + last.after
    else:
        lost = "the template leaves out the answer's" if THOUGHT in messages[-1] else "the answer has none"
        raise _Misfit(f"the prompt opens a thought, {opening}, and {lost}")
    if prompt.rstrip().endswith(opening) and prompt[-1].isspace():
        written = written.lstrip()
    row = prompt + written
    plain = written.startswith(closing)  # an empty thought, which the template adds
    start = len(row) - len(text) + last.start if plain else len(prompt)
    return row, [*places[:-1], _Place(start, len(row) - len(last.after), last.after, len(prompt))]


def _check_whole(chat: Chat, answer: Message, written: str) -> None:
    """Refuse a row in which the answer, or its thought before it, is not whole; `written` is what follows the prompt.

    It is told by the words: a template may write white space and marks otherwise.
    """
    content, thought = answer["content"].strip(), answer.get(THOUGHT, "")
    if not thought.strip() and content in written:
        return
    known = find_marks(chat)
    marks = _pattern(tuple(mark for pair in (*known.thoughts, *known.blocks) for mark in pair if mark))
    found = iter(_words(marks.sub(" ", written)))
    for name, part in ((f"the last answer's {THOUGHT}", thought), ("a part of the last answer", content)):
        if any(word not in found for word in _words(marks.sub(" ", part))):
            raise _LeftOut(f"{name}, {part.strip()[:40]!r}")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.casefold())


def _thought_in(chat: Chat, prompt: str) -> tuple[str, str, str]:
    """The prompt up to the thought, opened or empty, that it ends with; the marks that open and close thoughts.

    All are empty if the prompt ends with none.
    """
    end = prompt.rstrip()
    for opening, closing in find_marks(chat).thoughts:
        before = end.removesuffix(closing).rstrip()
        if opening and before.endswith(opening):
            return before.removesuffix(opening).rstrip(), opening, closing
    return "", "", ""


def _mending(chat: Chat, messages: Sequence[Message]) -> str:
    """What lets the chat be rendered, an argument of the template or no system's turn, as the end of a message."""
    for name in sorted(chat.variables())[:MOST_TRIED]:
        for value in (False, True):
            with contextlib.suppress(WsteerError):
                _row(replace(chat, arguments={**chat.arguments, name: value}), messages)
                return f", or --template-args '{json.dumps({name: value})}'"
    without = [message for message in messages if message["role"] != "system"]
    with contextlib.suppress(WsteerError):
        if len(without) < len(messages):
            _row(chat, without)
            return ", or leave out the system's turn, as --strip-system of finetune and actvec does"
    return ""


def _shared(first: str, second: str) -> str:
    """The beginning that two texts share."""
    pairs = enumerate(zip(first, second, strict=False))
    return first[: next((i for i, (one, other) in pairs if one != other), min(len(first), len(second)))]


# ---- Where a turn ends


def _end_of_row(chat: Chat, messages: Sequence[Message], after: str) -> tuple[str, tuple[str, ...]]:
    """The part of `after`, the text after the last answer, that ends the turn, and the tokens to be put behind it.

    The model stops at the first of its ends. Where the template writes none, its own mark after an answer, as the next
    role's, is the end, and if the model does not stop at that either, the tokenizer's end follows.
    """
    ends = chat.end_tokens
    if (found := _after_first(ends, after)) is not None:
        return after[:found], ()
    found, mark = _after_first(chat.special_tokens, after), _next_mark(chat, messages, after)
    more = [mark] if mark in ends or (mark and found is None) else []
    if mark not in ends:
        own = [text for text, token in ends.items() if token == chat.tokenizer.eos_token_id]
        more += (own or list(ends))[:1]
    return after[:found], tuple(more)


def _next_mark(chat: Chat, messages: Sequence[Message], after: str) -> str:
    """The special token that the template writes between an answer's own end and a user's next message, if any."""
    with contextlib.suppress(WsteerError):  # a template may refuse such a chat
        frames = dict(_frames(chat, [*messages, {"role": "user", "content": ""}]))
        between = frames.get(len(messages) - 1, "").removeprefix(after).lstrip()
        special = [text for text in chat.special_tokens if text != chat.tokenizer.bos_token]
        return max((text for text in special if between.startswith(text)), key=len, default="")
    return ""


def _end_within(chat: Chat, after: str, last: str) -> str:
    """The part of `after`, the text between an answer and the next message, that ends the turn.

    It goes up to the first token at which the model stops. Without one it is the beginning that `after` shares with
    `last`, the end of the last turn, in whole tokens, up to the first special token.
    """
    if (found := _after_first(chat.end_tokens, after)) is not None:
        return after[:found]
    shared = _shared(after, last)
    for token in _pattern((*chat.end_tokens, *chat.special_tokens)).finditer(last):
        if token.start() < len(shared) < token.end():  # as `<` of `</s>` and of the text `<|user|>`
            shared = shared[: token.start()]
    found = _after_first(chat.special_tokens, shared)
    return shared if found is None else shared[:found]


def _after_first(tokens: Mapping[str, int], text: str) -> int | None:
    """Where the first of the tokens in `text` ends; None if it holds none."""
    found = _pattern(tuple(tokens)).search(text)
    return found.end() if found else None


@lru_cache
def _pattern(texts: tuple[str, ...]) -> re.Pattern[str]:
    """What finds any of the texts, at one place the longest."""
    return re.compile("|".join(map(re.escape, sorted(texts, key=len, reverse=True))) or "(?!)")
