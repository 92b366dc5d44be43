"""The rows of a run: several data sets by weight, a fraction of them, and which rows validate."""

import os
import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from wsteer.errors import WsteerError
from wsteer.files.rows import Message
from wsteer.models.rendering import Example, render_chats
from wsteer.training.steps import MOST_ROWS

if TYPE_CHECKING:
    from wsteer.models.chat import Chat
    from wsteer.training.recipe import Recipe

Row = TypeVar("Row")
HEAVIEST = 1_000_000  # weight of a data set
LONGEST = 200  # characters of a data set's name that a message shows
Chats = list[tuple[str, list[Message]]]  # as `read_placed_chats` gives them


@dataclass(frozen=True)
class Source:
    """A data set and its weight: how many times its rows are taken; for a fraction of 1, that share of them."""

    path: str
    weight: float = 1.0


@dataclass(frozen=True)
class RunExamples:
    """The examples for training and validation; how many rows were cut, and how many of those left out.

    `first` is the first example of the first set; of `endless` rows no token at which the model stops is trained.
    """

    first: Example
    train: list[Example]
    val: list[Example]
    cut: int
    dropped: int
    endless: int

    @property
    def longest(self) -> int:
        """The tokens of the longest row."""
        return max(len(example.tokens) for example in [*self.train, *self.val])


def parse_source(text: str | Path) -> Source:
    """`neg.jsonl:6` as the data set `neg.jsonl` taken 6 times, unless a file has that whole name.

    >>> parse_source("org/name:train:0.5")
    Source(path='org/name:train', weight=0.5)
    """
    text = str(text)
    match = None if os.path.exists(text) else re.fullmatch(r"(.+):([0-9]+(?:\.[0-9]+)?|\.[0-9]+)", text)
    if match is None:
        return Source(text)
    if not 0 < float(match[2]) <= HEAVIEST:
        raise WsteerError(f"{text[:LONGEST]}: the weight of a data set must be above 0, up to {HEAVIEST}")
    return Source(match[1], float(match[2]))


def parse_sources(data: str | Path | Sequence[str | Path]) -> list[Source]:
    """One data set or several, each with an optional weight."""
    sources = [parse_source(each) for each in ([data] if isinstance(data, str | Path) else data)]
    if not sources:
        raise WsteerError("finetune needs one data set or more; give a JSONL file of chat rows")
    return sources


def run_examples(
    chat: "Chat",
    sets: Sequence[Chats],
    weights: Sequence[float],
    val: Chats | None,
    recipe: "Recipe",
    max_length: int | None,
    max_positions: int | None,
) -> RunExamples:
    """Render all sets; validate with `val`, else with a share of each set. No validation row is trained."""
    rendered = [render_chats(chat, chats, max_length, max_positions) for chats in [*sets, *([val] if val else [])]]
    share = 0 if val else recipe.val_fraction
    known: dict[bytes, bool] = {}
    split = [split_rows(each.examples, share, recipe.seed, known) for each in rendered[: len(sets)]]
    if val and (both := sum(row_key(row) in known for row in rendered[-1].examples)):
        raise WsteerError(
            f"{both} rows of --val are also in DATA; a row that is trained cannot validate: leave them out"
        )
    return RunExamples(
        first=rendered[0].examples[0],
        train=mixed([train for train, _ in split], weights, recipe.fraction, recipe.seed),
        val=rendered[-1].examples if val else [row for _, kept in split for row in kept],
        cut=sum(each.cut for each in rendered),
        dropped=sum(each.dropped for each in rendered),
        endless=sum(not example.stops for each in rendered for example in each.examples),
    )


def row_key(row: Example) -> bytes:
    """What is equal for rows of the same tokens."""
    return row.tokens.numpy().tobytes()


def split_rows(
    rows: Sequence[Example], val_fraction: float, seed: int, known: dict[bytes, bool] | None = None
) -> tuple[list[Example], list[Example]]:
    """Training and validation rows; the seed chooses among different rows, and equal ones are all on one side.

    With two different rows or more and a `val_fraction`, at least one is on each side. `known` tells by `row_key`
    whether a row of an earlier set validates; the rows of this set are added.
    """
    known = {} if known is None else known
    order = list(dict.fromkeys(map(row_key, rows)))
    random.Random(seed).shuffle(order)
    count = min(max(round(val_fraction * len(order)), 1 if val_fraction else 0), len(order) - 1)
    count -= sum(known.get(key, False) for key in order)
    for key in order:
        if key not in known:
            known[key] = count > 0
            count -= 1
    sides = [known[row_key(row)] for row in rows]
    train, val = ([row for row, side in zip(rows, sides, strict=True) if side is wanted] for wanted in (False, True))
    return train, val


def mixed(sets: Sequence[Sequence[Row]], weights: Sequence[float], fraction: float, seed: int) -> list[Row]:
    """The rows of all sets, each set's taken `weight * fraction` times: whole copies, then rows drawn by the seed."""
    wanted = sum(len(rows) * weight * fraction for rows, weight in zip(sets, weights, strict=True))
    if wanted > MOST_ROWS:
        raise WsteerError(f"the weights of the data ask for {wanted:.3g} rows, which are too many; lower them")
    return [row for rows, weight in zip(sets, weights, strict=True) for row in _taken(rows, weight * fraction, seed)]


def _taken(rows: Sequence[Row], times: float, seed: int) -> Iterator[Row]:
    copies = int(times)
    for _ in range(copies):
        yield from rows
    count = max(round((times - copies) * len(rows)), 0 if copies or not rows else 1)
    for index in sorted(random.Random(seed).sample(range(len(rows)), count)):
        yield rows[index]
