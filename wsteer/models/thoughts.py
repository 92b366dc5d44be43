"""What a model thinks before it answers, told apart from the answer by the marks of its own chat template."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from wsteer.errors import WsteerError
from wsteer.files.limits import bounded
from wsteer.files.rows import THOUGHTS
from wsteer.models.chat import Chat

# placeholders of a question, a thought and an answer
QUESTION, A_THOUGHT, ANSWER = (
    "A placeholder of the question.",
    "A placeholder of the thought.",
    "A placeholder of the answer.",
)
# what marks may look like: <think>, </seed:think>, <|channel|>, [THINK], ◁think▷; a tokenizer's added tokens are others
_FORMS = r"<[^<>\s'\"{}]{1,40}>|\[/?[A-Z_]{2,40}\]|◁[^◁▷\s]{1,40}▷"
_NOTHING = r"(?!)"  # a pattern that matches nothing
_QUOTED = re.compile(r"'(?:[^'\\\n]|\\.){3,60}'|\"(?:[^\"\\\n]|\\.){3,60}\"")
# the literals at which a template takes a message's content apart
_TAKEN_APART = re.compile(
    rf"(?:split|partition|replace|find|index|startswith|endswith)\(\s*({_QUOTED.pattern})"
    rf"|({_QUOTED.pattern})\s+(?:not\s+)?in\b"
)
MOST_LITERALS = 8  # that are tried in pairs
# a mark that closes what another opens: <x> </x>, <|x> <x|>, START_x END_x, begin_x end_x
_CLOSED_BY = (
    (r"^([<\[◁]\|?)(?!/)(.*)$", r"\1/\2"),
    (r"^<\|(.*[^|])>$", r"<\1|>"),
    *(
        (rf"(?<![^\W_]){opens}(?![^\W_])", ends)
        for opens, ends in (("START", "END"), ("start", "end"), ("BEGIN", "END"), ("begin", "end"))
    ),
)


@dataclass(frozen=True)
class Separated:
    """An answer, and the thought before it (None if there was none); `answer` is empty if none was reached."""

    thought: str | None
    answer: str


@dataclass(frozen=True)
class Marks:
    """What a template writes around thoughts and answers.

    `thoughts` are the opening and closing marks of thoughts. `blocks` are pairs that it merely mentions, as in a system
    prompt: an answer's first such block is a thought if more follows, and a block after a thought wraps the answer.
    `answer` is what is written before an answer, such as `<|channel|>final<|message|>`.
    """

    thoughts: tuple[tuple[str, str], ...]
    blocks: tuple[tuple[str, str], ...]
    answer: str
    special: tuple[str, ...]

    def split(self, prompt: str, text: str, finished: bool) -> Separated | None:
        """The thought and the answer in `text`, decoded with its special tokens; None if nothing is to be separated."""
        if self.answer:
            found = list(_loose(self.answer).finditer(text))
            if found:
                before, after = text[: found[-1].start()], text[found[-1].end() :]
                stops = "|".join(map(re.escape, [*self.special, *_closers(self.answer)])) or _NOTHING
                return Separated(self._plain(before), re.split(stops, after, maxsplit=1)[0].strip())
            first, *others = re.findall(_FORMS, self.answer) or [self.answer]
            if others and first in text:  # other channels than the answer's
                return Separated(self._plain(text), "")
        return self._without_blocks(prompt, text, finished)

    def _without_blocks(self, prompt: str, text: str, finished: bool) -> Separated | None:
        thoughts: list[str] = []
        rest = text
        opened = [pair for pair in (*self.thoughts, *self.blocks) if pair[0] and prompt.rstrip().endswith(pair[0])]
        body = rest
        while True:
            if not opened:
                # after a thought, a block that is merely mentioned wraps the answer
                pairs = self.thoughts if thoughts else (*self.thoughts, *self.blocks)
                opened = [pair for pair in pairs if pair[0] and rest.lstrip().startswith(pair[0])]
                body = rest.lstrip()[max((len(start) for start, _ in opened), default=0) :]
            if not opened:
                break
            at, close = min(((body.find(close), close) for _, close in opened if close in body), default=(-1, ""))
            merely_mentioned = not any(pair in self.thoughts for pair in opened)
            if at < 0 or (merely_mentioned and not body[at + len(close) :].strip()):
                if merely_mentioned and finished:
                    break
                return Separated(self._plain("\n".join([*thoughts, body if at < 0 else body[:at]])), "")
            thoughts.append(body[:at])
            rest, opened = body[at + len(close) :], []
            if rest.lstrip().startswith(close):  # closed twice
                rest = rest.lstrip().removeprefix(close)
        if not thoughts:  # one may begin without its mark, where the model learnt that its prompt writes it
            ends = [
                (rest.find(close), close)
                for start, close in self.thoughts
                if close in rest and (not start or start not in rest)
            ]
            for at, close in sorted(ends)[:1]:
                thoughts, rest = [rest[:at]], rest[at + len(close) :]
        for start, close in self.thoughts if text != rest else ():  # later ones
            block = re.compile(f"{re.escape(start)}(.*?){re.escape(close)}", re.DOTALL)
            thoughts += block.findall(rest) if start else []
            rest = block.sub("", rest) if start else rest
        return Separated(self._plain("\n".join(thoughts)), self._unwrapped(rest)) if thoughts else None

    def _unwrapped(self, text: str) -> str:
        """An answer without the block that it stands in, and without special tokens."""
        text = re.sub(self._specials, "", text).strip()
        for start, close in self.blocks:
            inner = text.removeprefix(start)
            if inner != text and (close not in inner or inner.endswith(close)):
                return inner.removesuffix(close).strip()
        return text

    def _plain(self, text: str) -> str | None:
        """The words of a text without marks and special tokens; None if there are none."""
        header = re.findall(_FORMS, self.answer)
        if len(header) > 1 and header[0] in text:  # channels: each one's name stands between two marks, and is left out
            body = rf"{re.escape(header[0])}.*?{re.escape(header[-1])}(.*?)(?={self._specials}|$)"
            text = "\n".join(re.findall(body, text, re.DOTALL)) or text
        for start, close in (*self.thoughts, *self.blocks):
            text = text.replace(start, "").replace(close, "")
        return re.sub(self._specials, "", text).strip() or None

    @property
    def _specials(self) -> str:
        return "|".join(map(re.escape, self.special)) or _NOTHING


def _loose(mark: str) -> re.Pattern[str]:
    """The mark, with any white space where it has some."""
    return re.compile(r"\s*".join(map(re.escape, mark.split())))


def _closers(mark: str) -> list[str]:
    """The marks that may close what `mark` opens."""
    closed = [re.sub(pattern, ends, mark, count=1) for pattern, ends in _CLOSED_BY]
    return [close for close in closed if close != mark]


def _openers(close: str) -> list[str]:
    """The marks that `close` may close."""
    found = [close.replace("/", "", 1), re.sub(r"^<(.*)\|>$", r"<|\1>", close)]
    found += [close.replace(end, start) for end, start in (("END", "START"), ("end", "start"), ("end", "begin"))]
    return [start for start in found if close in _closers(start)]


@lru_cache(maxsize=8)  # asked for every row
def find_marks(chat: Chat) -> Marks:
    """The marks of a chat template: what it writes around a thought and an answer, and where it takes an answer apart.

    It is asked by rendering placeholders, so that no list of models is needed. A template without marks gives none.
    """
    with bounded(f"the chat template of {chat.name}"):
        return _Found(chat).marks()


class _Found:
    """What rendering placeholders shows of one template."""

    def __init__(self, chat: Chat):
        self.chat = chat
        tokens = chat.tokenizer.added_tokens_decoder.values()
        self.special = tuple(sorted({token.content for token in tokens if token.special}, key=len, reverse=True))
        written = {token.content for token in tokens if len(token.content.strip()) > 2}
        known = sorted((mark for mark in written if mark in chat.template), key=len, reverse=True)
        self.mark = re.compile("|".join([*map(re.escape, known), _FORMS]))
        self.prompt = self.text([], prompt=True) or ""
        self.plain = self.text([{"content": ANSWER}]) or ""
        # the marks of turns, which are written between an answer and the next question
        history = self.text([{"content": ANSWER}, {"role": "user", "content": "B" + QUESTION}]) or ""
        between = history.partition(ANSWER)[2].partition("B" + QUESTION)[0]
        self.turns = set(self.mark.findall(between))
        self.mentioned = set(self.mark.findall(chat.template)) - self.turns
        self.start = self._common(self.plain)
        self.opened = self._opened()

    def text(self, after: Sequence[dict[str, Any]], prompt: bool = False) -> str | None:
        """A question and these messages, the assistant's if nothing else is said, as text; None if that is refused."""
        messages: list[Any] = [
            {"role": "user", "content": QUESTION},
            *({"role": "assistant", **each} for each in after),
        ]
        try:
            return self.chat.text(messages, prompt=prompt)
        except WsteerError:
            return None

    def _common(self, text: str) -> int:
        """How far a rendered answer agrees with the prompt, in whole marks."""
        most = min(len(text), len(self.prompt))
        common = next((i for i in range(most) if text[i] != self.prompt[i]), most)
        if common == len(self.prompt):
            return common
        for found in self.mark.finditer(text):
            inside = found.start() < common < found.end()
            opens = bool(set(_closers(found.group())) & self.mentioned)
            touching = opens and found.end() == common and not text.startswith((ANSWER, A_THOUGHT), common)
            if inside or touching:
                return found.start()
        return common

    def _opened(self) -> str:
        """The mark of a thought that the prompt has opened for the model, at the prompt's end; empty if it has not."""
        own = self.prompt[self.start :].strip()  # what no answer's rendering has there
        first = self.mark.match(own)
        if first and first.group() not in self.turns and self.start > self.prompt.find(QUESTION):
            return own
        for last in [found.group() for found in self.mark.finditer(self.prompt)][-1:]:
            if self.prompt.rstrip().endswith(last) and set(_closers(last)) & self.mentioned:
                return last
        return ""

    def marks(self) -> Marks:
        """The marks, by all the ways in which a template shows them."""
        mentioned = self.mentioned
        blocks = [(mark, close) for mark in sorted(mentioned) for close in _closers(mark) if close in mentioned]
        by_fields = list(self._by_fields())
        thoughts = [(start, close) for start, close, _ in by_fields]
        thoughts += self._taken_out()
        frame = self.plain.partition(ANSWER)[0][self.start :]
        # a thought that is left empty, before an answer or at the end of a prompt
        empty = [re.compile(rf"{re.escape(start)}\s*{re.escape(close)}") for start, close in blocks]
        thoughts += [
            block
            for block, left in zip(blocks, empty, strict=True)
            if left.search(frame) or left.search(self.prompt.rpartition(QUESTION)[2])
        ]
        known = {close for _, close in thoughts} | (set(_closers(self.opened)) & mentioned)
        for close in sorted(known):
            if self.opened.endswith(close):  # the prompt has a whole thought, left empty
                thoughts = [(self.opened.removesuffix(close).strip(), close), *thoughts]
            elif self.opened and not self.opened.endswith(tuple(known)):
                thoughts.append((self.opened, close))
        if not known and re.fullmatch(r"<\w+>|\[\w+\]", self.opened):
            blocks.append((self.opened, _closers(self.opened)[0]))  # the template says nothing of its end
        for start, close in [pair for pair in thoughts if pair[0]]:  # an empty one may have a name: <|channel>thought
            empty_block = rf"({re.escape(start)}\w+)(?:\\n|\s)*{re.escape(close)}"
            thoughts += [(named, close) for named in re.findall(empty_block, self.chat.template)]
        for start, close in thoughts:
            frame = re.sub(rf"(?:{re.escape(start)})?\s*{re.escape(close)}", "", frame)
        # a block's opening, from which on a content is kept, is no end of a thought but the answer's beginning
        begins = [
            close for start, close in thoughts if close in dict(blocks) and (not start or (close, start) in blocks)
        ]
        thoughts = [pair for pair in thoughts if pair[1] not in begins]
        answer = next(filter(None, [frame.strip(), *(rest for _, _, rest in by_fields), *begins]), "")
        return Marks(
            thoughts=tuple(sorted(dict.fromkeys(thoughts), key=lambda pair: -len(pair[0]))),
            blocks=tuple(block for block in dict.fromkeys(blocks) if block not in thoughts),
            answer=answer if self.mark.search(answer) else "",
            special=self.special,
        )

    def _by_fields(self) -> Iterator[tuple[str, str, str]]:
        """(opening mark, closing mark, what then stands before the answer) of a thought that is given as such."""
        parts: list[dict[str, str]] = [{"type": "thinking", "thinking": A_THOUGHT}, {"type": "text", "text": ANSWER}]
        messages: list[dict[str, Any]] = [{"content": ANSWER, name: A_THOUGHT} for name in THOUGHTS]
        for message in [*messages, {"content": parts}]:
            text = self.text([message]) or ""
            before, _, between = text.partition(ANSWER)[0].partition(A_THOUGHT)
            if ANSWER not in text or not between.strip() or "'type'" in text:  # or it wrote the parts as Python does
                continue
            start = before[self._common(before) :].strip() or self.opened
            first = self.mark.match(between.strip())
            close = first.group() if first else between.strip()
            yield start, close, between.strip().removeprefix(close).strip()

    def _taken_out(self) -> Iterator[tuple[str, str]]:
        """(opening mark, closing mark) of what the template takes out of an answer's content."""
        apart = {_literal(a or b) for a, b in _TAKEN_APART.findall(self.chat.template)} - {"", *self.turns}
        alone = [close for close in sorted({*apart, *self.mentioned}) if self._vanishes(A_THOUGHT + close + ANSWER)]
        for close in alone:
            opens = [start for start in _openers(close) if start in self.mentioned] or _openers(close)
            yield from ((start, close) for start in opens[:1] or [""])
        for start, close in product(sorted(apart)[:MOST_LITERALS], repeat=2):
            if start != close and close not in alone and self._vanishes(start + A_THOUGHT + close + ANSWER):
                yield start, close

    def _vanishes(self, content: str) -> bool:
        """Whether the template leaves the thought out of this content, of a last answer or of an earlier one."""
        answer = {"content": content}
        texts = [self.text([answer]), self.text([answer, {"role": "user", "content": QUESTION}])]
        return any(text is not None and ANSWER in text and A_THOUGHT not in text for text in texts)


def _literal(quoted: str) -> str:
    """The text of a quoted literal, without white space around it."""
    try:
        return str(ast.literal_eval(quoted)).strip()
    except (SyntaxError, ValueError):
        return ""
