"""Chats rendered by a model's chat template into token ids, with a mark on the tokens that are trained."""

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from wsteer.errors import WsteerError, one_error
from wsteer.files.limits import bounded
from wsteer.files.rows import Message
from wsteer.models.chat import Chat, chat_of
from wsteer.models.tokenizer import silent_panics
from wsteer.models.turns import find_turns

# the mark that some templates put around the assistant's text, for `return_assistant_tokens_mask`
_GENERATION = re.compile(r"{%-?\s*generation\s*-?%}")


@dataclass(frozen=True, eq=False)
class Example:
    """A rendered chat: its token ids, which of them are trained, and where its last answer is.

    Every assistant turn's answer and the end of turn after it are trained. `answer` is the last answer's own tokens,
    without the template's additions, such as an empty thinking block. `stops`: a token at which the model stops is
    trained after the last answer.
    """

    tokens: Tensor  # int32 [tokens]
    trained: Tensor  # bool [tokens]
    answer: slice
    stops: bool = True

    def cut(self, length: int) -> "Example":
        """The first `length` tokens."""
        answer = slice(min(self.answer.start, length), min(self.answer.stop, length))
        return Example(self.tokens[:length], self.trained[:length], answer, self.stops)


def prompt_text(chat: Chat | PreTrainedTokenizerBase, messages: Sequence[Message]) -> str:
    """The chat as text, up to the start of the assistant's answer, with special tokens."""
    chat = chat_of(chat)
    with bounded(f"the chat template of {chat.name}"):
        return chat.text(messages, prompt=True)


def prompts(chat: Chat | PreTrainedTokenizerBase, chats: Iterable[Sequence[Message]]) -> list[list[int]]:
    """The token ids of each chat up to the start of the assistant's answer."""
    chat = chat_of(chat)
    return [token_ids(chat.tokenizer, prompt_text(chat, messages)) for messages in chats]


def examples(chat: Chat | PreTrainedTokenizerBase, chats: Iterable[Sequence[Message]]) -> list[Example]:
    """Each chat rendered; its last turn is an answer."""
    return [render(chat, messages) for messages in chats]


def token_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of rendered text, with exactly one BOS where the tokenizer puts one before plain text.

    If the template has written it, as most do, none is added.
    """
    with _tokenising(tokenizer):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        return [*_missing_bos(tokenizer, ids), *ids]


@contextlib.contextmanager
def _tokenising(tokenizer: PreTrainedTokenizerBase) -> Iterator[None]:
    """Turn whatever the tokenizer of one row raises into one clear error, without a word on stderr."""
    with one_error(f"the tokenizer of {tokenizer.name_or_path} fails"), silent_panics():
        yield


def _missing_bos(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    bos = tokenizer.bos_token_id
    adds_one = bos is not None and tokenizer("a")["input_ids"][:1] == [bos]
    return [bos] if adds_one and list(ids[:1]) != [bos] else []


def render(chat: Chat | PreTrainedTokenizerBase, messages: Sequence[Message]) -> Example:
    """Render a chat whose last turn is an answer.

    The text is tokenised whole, as `apply_chat_template` does, since a part can give other tokens without the text
    before it; a token's role follows from its characters. The text is split at a prompt's end only if its tokens do not
    begin with the prompt's, as when a token spans that end: generation tokenises the prompt alone.
    """
    chat = chat_of(chat)
    # entered once: it costs a few percent of the time of a short row
    with _tokenising(chat.tokenizer), bounded(f"the chat template of {chat.name}"):
        return _example(chat, messages)


def _example(chat: Chat, messages: Sequence[Message]) -> Example:
    row = find_turns(chat, messages)
    learnt, more = _marked(chat, messages) if row.own else None, row.more
    if learnt is None:
        learnt = [(turn.learnt, turn.end, turn.closed) for turn in row.turns]
    else:
        more = ()
    last = row.turns[-1]
    text = row.text[: last.closed] if more else row.text
    ids, spans = _tokenised(chat.tokenizer, text, {turn.prompted for turn in row.turns})
    trained = [any(_within(span, *part) for part in learnt) for span in spans]
    answer = [i for i, span in enumerate(spans) if _within(span, last.start, last.end, last.end)]
    if not answer or not any(trained):
        raise WsteerError(f"the chat template of {chat.name} leaves no token of the answer to learn")
    bos = _missing_bos(chat.tokenizer, ids)
    behind = zip([*ids, *more][answer[-1] :], [*trained, *(True for _ in more)][answer[-1] :], strict=True)
    return Example(
        tokens=torch.tensor([*bos, *ids, *more], dtype=torch.int32),
        trained=torch.tensor([*(False for _ in bos), *trained, *(True for _ in more)]),
        answer=slice(answer[0] + len(bos), answer[-1] + 1 + len(bos)),
        stops=any(own and token in chat.ends for token, own in behind),
    )


def _within(span: tuple[int, int], start: int, end: int, closed: int) -> bool:
    """Whether a token holds a character of text[start:end], or lies wholly inside of text[end:closed]."""
    return span[1] > start and (span[0] < end or span[1] <= closed)


def _marked(chat: Chat, messages: Sequence[Message]) -> list[tuple[int, int, int]] | None:
    """The characters that the template marks as the assistant's by `{% generation %}`; None without that mark."""
    if not _GENERATION.search(chat.template):
        return None
    encoded: Any = chat.applied(
        messages,
        tokenize=True,
        return_dict=True,
        return_assistant_tokens_mask=True,
        tokenizer_kwargs={"return_offsets_mapping": True},
    )
    spans = _contiguous(encoded["offset_mapping"])
    return [(*span, span[1]) for span, own in zip(spans, encoded["assistant_masks"], strict=True) if own]


# ---- Tokens and their characters


def _tokenised(
    tokenizer: PreTrainedTokenizerBase, text: str, prompts: set[int]
) -> tuple[list[int], list[tuple[int, int]]]:
    """Token ids of `text` and each one's characters; the text is split at each prompt whose own tokens differ."""
    if not tokenizer.is_fast:
        raise WsteerError(f"{tokenizer.name_or_path} has no fast tokenizer, which wsteer needs to tell the answer")
    ids, spans = _encoded(tokenizer, text)
    heads = {prompt: _encoded(tokenizer, text[:prompt])[0] for prompt in sorted(prompts)}
    cuts = [prompt for prompt, head in heads.items() if ids[: len(head)] != head]
    if not cuts:
        return ids, spans
    ids, spans = [], []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        piece_ids, piece_spans = _encoded(tokenizer, text[start:end])
        ids += piece_ids
        spans += [(start + first, start + last) for first, last in piece_spans]
    return ids, spans


def _encoded(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[list[int], list[tuple[int, int]]]:
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    return encoded["input_ids"], _contiguous(encoded["offset_mapping"])


def _contiguous(offsets: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Each token's characters, from the previous token's end: a tokenizer's offsets may leave out a leading space."""
    ends = [end for _, end in offsets]
    return list(zip([0, *ends[:-1]], ends, strict=True))


# ---- Whole data sets


@dataclass(frozen=True)
class Rendered:
    """The rows of a data set as tokens. `cut`: how many were cut at `max_length`; `dropped`: how many of those lost
    their whole answers and are left out.
    """

    examples: list[Example]
    cut: int
    dropped: int


def render_chats(
    chat: Chat | PreTrainedTokenizerBase,
    chats: Sequence[tuple[str, list[Message]]],
    max_length: int | None = None,
    max_positions: int | None = None,
) -> Rendered:
    """Render chats from `read_placed_chats`, cut at `max_length` tokens; an error names the row's file and line.

    A row of more tokens than `max_positions`, the model's limit, is an error: the user decides what to cut.
    """
    kept, cut = [], 0
    for where, example in placed_examples(chat, chats):
        if max_length is not None and len(example.tokens) > max_length:
            cut += 1
            example = example.cut(max_length)
        if max_positions is not None and len(example.tokens) > max_positions:
            raise WsteerError(
                f"{where}: {len(example.tokens)} tokens are more than the model's {max_positions} positions; shorten "
                f"the row or cut it with --max-length {max_positions}"
            )
        if example.trained[1:].any():
            kept.append(example)
    if not kept:
        raise WsteerError(f"--max-length {max_length}: no row has a token of its answer within it; take a larger one")
    return Rendered(kept, cut, dropped=len(chats) - len(kept))


def placed_examples(
    chat: Chat | PreTrainedTokenizerBase, chats: Iterable[tuple[str, Sequence[Message]]]
) -> Iterator[tuple[str, Example]]:
    """Each chat rendered, with its place; an error names that."""
    for where, messages in chats:
        try:
            yield where, render(chat, messages)
        except WsteerError as error:
            raise WsteerError(f"{where}: {error}") from None


def marked_text(tokenizer: PreTrainedTokenizerBase, example: Example, limit: int = 400) -> str:
    """The example as text, trained tokens between ⟦ and ⟧; the middle of a part over `limit` characters is left out."""
    parts = []
    for trained, tokens in _stretches(example):
        text = str(tokenizer.decode(tokens, skip_special_tokens=False))
        if len(text) > limit:
            text = f"{text[: limit // 2]} [...] {text[-limit // 2 :]}"
        parts.append(f"⟦{text}⟧" if trained else text)
    return "".join(parts)


def _stretches(example: Example) -> Iterator[tuple[bool, list[int]]]:
    """Runs of consecutive tokens that are all trained or all not trained."""
    trained = example.trained.tolist()
    starts = [i for i in range(len(trained)) if i == 0 or trained[i] != trained[i - 1]]
    for start, stop in zip(starts, [*starts[1:], len(trained)], strict=True):
        yield trained[start], example.tokens[start:stop].tolist()
