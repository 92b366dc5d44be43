"""The perplexity of given texts under each condition: a sign of damage, without generation and without a judge."""

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, Outcome, Row, prompt_digest
from wsteer.evaluation.subject import Subject, with_system
from wsteer.evaluation.tasks.likelihood import Scored, log_probabilities
from wsteer.files.opening import is_stream
from wsteer.files.rows import Message, is_hub_data_set, read_objects, read_placed_chats
from wsteer.files.shapes import has_shape
from wsteer.files.text import read_text
from wsteer.models.loading import LoadedModel, max_positions
from wsteer.models.rendering import render, token_ids
from wsteer.progress import Progress, silent

PREFIX = "perplexity:"
WINDOW = 1024  # tokens that are read at once, if the model takes as many
EXAMPLE = '{"text": "..."}'
KEYS = 200  # characters of a row's keys that a message shows
SHOWN = 500  # characters of a text that rows keep for people


@dataclass(frozen=True)
class Text:
    """A text to be scored: all of it, or the last answer of a chat."""

    id: str
    text: str
    chat: tuple[Message, ...] = ()


@dataclass(frozen=True)
class TextTask:
    """`perplexity:FILE`: the texts of a file, each with its nats per token."""

    name: str
    data: str | Path
    texts: tuple[Text, ...]

    @property
    def measures(self) -> tuple[Measure, ...]:
        """The perplexity, which steering is to keep."""
        return (Measure(self.name, "perplexity", "perplexity", "lower", "capability", "exp(nats per token)"),)

    @property
    def files(self) -> tuple[tuple[str, str | Path], ...]:
        """What is read for it, by the roles that records give them."""
        return (("data", self.data),)

    @property
    def count(self) -> int:
        """How many rows its data has."""
        return len(self.texts)

    def run(self, subject: Subject, condition: Condition, progress: Progress = silent) -> Outcome:
        """The rows under `condition`, which `subject` is under; a text without a token to score is left out."""
        scored = [_windows(subject.loaded, condition, each) for each in self.texts]
        flat = [window for windows in scored for window in windows]
        found = iter(log_probabilities(subject.loaded, flat, subject.batch_size, progress) if flat else ())
        rows = []
        for text, windows in zip(self.texts, scored, strict=True):
            values = [value for each in itertools.islice(found, len(windows)) for value in each]
            if values:
                rows.append(self._row(condition, text, values))
        left = len(self.texts) - len(rows)
        warnings = (f"{self.name}: {left} of {len(self.texts)} texts have no token to score; left out",) if left else ()
        return Outcome(tuple(rows), self.measures, warnings)

    def _row(self, condition: Condition, text: Text, values: Sequence[float]) -> Row:
        shown = text.chat[-2]["content"] if text.chat else ""
        return Row(
            self.name,
            "perplexity",
            condition.name,
            text.id,
            -sum(values) / len(values),
            prompt=prompt_digest(*(message["content"] for message in text.chat[:-1]), text.text),
            input=shown[:SHOWN],
            answer=text.text[:SHOWN],
            weight=float(len(values)),
        )


def read_texts(source: str | Path, limit: int | None = None) -> TextTask:
    """The texts of a file: JSONL (or a Hub data set) with `text`, or with chats; else plain text, one a paragraph.

    Paragraphs are set apart by empty lines. Raises WsteerError if there are none, or a row is something else.
    """
    file = Path(source)
    # a name that says JSON, as text.jsonl.gz
    if not is_stream(source) and not is_hub_data_set(source) and not {".jsonl", ".json"} & set(file.suffixes):
        parts = filter(None, map(str.strip, re.split(r"\n\s*\n", read_text(source))))
        texts = [Text(str(number), part) for number, part in enumerate(parts, 1)]
    else:
        texts = _of_rows(source)
    if not texts:
        raise WsteerError(f"{source} holds no texts")
    return TextTask(f"{PREFIX}{file.name}", source, tuple(texts[:limit]))


def _of_rows(source: str | Path) -> list[Text]:
    placed = read_objects(source)
    if any("text" not in row for _, row in placed):
        if other := next(((where, row) for where, row in placed if not has_shape(row)), None):
            raise WsteerError(
                f"{other[0]} has neither a text nor a chat: give rows like {EXAMPLE}, or chats as finetune reads "
                f"them; its keys are {', '.join(other[1])[:KEYS] or 'none'}"
            )
        chats = read_placed_chats(source)
        return [Text(str(i), chat[-1]["content"], tuple(chat)) for i, (_, chat) in enumerate(chats, 1)]
    if wrong := next((where for where, row in placed if not isinstance(row["text"], str)), None):
        raise WsteerError(f"{wrong}: text is no text")
    return [Text(str(number), row["text"]) for number, (_, row) in enumerate(placed, 1)]


def _windows(loaded: LoadedModel, condition: Condition, text: Text) -> list[Scored]:
    """The text as rows in which each token is scored once.

    A long text is read in windows that overlap by half; in each but the first the second half is scored, so that a
    token has at least half a window before it. All of a plain text is response, and of a chat all after the prompt.
    """
    if text.chat:
        example = render(loaded.chat, with_system(condition, text.chat))
        tokens, prompt = example.tokens[: example.answer.stop].tolist(), example.answer.start
    else:
        tokens, prompt = token_ids(loaded.tokenizer, text.text), 0
    size = min(WINDOW, max_positions(loaded) or WINDOW)
    windows, scored = [], max(prompt, 1)
    while scored < len(tokens):
        begin = 0 if len(tokens) <= size else max(0, scored - size // 2)
        end = min(len(tokens), begin + size)
        windows.append(Scored(tuple(tokens[begin:end]), scored - begin, max(prompt - begin, 0)))
        scored = end
    return windows
