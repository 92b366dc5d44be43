"""The rows of both sides, as activations are read from them: which are left out, and what stands out in them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.errors import WsteerError
from wsteer.files.rows import THOUGHT, Message, read_placed_chats
from wsteer.files.shapes import Shape
from wsteer.models.chat import Chat
from wsteer.models.thoughts import find_marks

MOST_SHOWN = 60  # characters of a prompt in a message


@dataclass(frozen=True)
class Side:
    """The chats of one side with their places (`file:line`).

    `empty`: how many rows were left out because their answers, or those of their pairs, are empty. `system`: how many
    of the chats had a system turn in their rows.
    """

    path: str
    places: tuple[str, ...]
    chats: tuple[list[Message], ...]
    empty: int
    system: int

    def thoughts(self, chat: Chat) -> int:
        """How many answers have a thought, given as such or told by the marks of the model's template."""
        return sum(_thinks(chat, messages[-1]) for messages in self.chats)


def read_sides(
    pos: str | Path, neg: str | Path, columns: Shape | None, strip_system: bool, paired: bool
) -> dict[str, Side]:
    """Both sides' rows, by their names pos and neg; rows with an empty answer are left out.

    `paired`: row i of pos and row i of neg answer the same prompt, whose system turns alone may differ; a pair is left
    out whole. Raises WsteerError, with the first row that differs, if they do not.
    """
    paths = {"pos": pos, "neg": neg}
    rows = {role: read_placed_chats(path, columns=columns, empty=True) for role, path in paths.items()}
    empty = {role: [not chat[-1]["content"].strip() for _, chat in read] for role, read in rows.items()}
    if paired:
        _check_pairs(rows["pos"], rows["neg"])
        either = [any(pair) for pair in zip(empty["pos"], empty["neg"], strict=True)]
        empty = {"pos": either, "neg": either}
    return {role: _side(rows[role], empty[role], str(path), strip_system) for role, path in paths.items()}


def _side(rows: Sequence[tuple[str, list[Message]]], empty: Sequence[bool], path: str, strip_system: bool) -> Side:
    kept = [row for row, left_out in zip(rows, empty, strict=True) if not left_out]
    if not kept:
        raise WsteerError(f"{path}: every row's answer is empty, so that there is nothing to average; give answers")
    places, chats = zip(*kept, strict=True)
    system = sum(any(message["role"] == "system" for message in chat) for chat in chats)
    if strip_system:
        chats = tuple(_without_system(place, chat) for place, chat in kept)
    return Side(path, places, chats, len(rows) - len(kept), system)


def _without_system(place: str, chat: Sequence[Message]) -> list[Message]:
    left = [message for message in chat if message["role"] != "system"]
    if len(left) < 2:
        raise WsteerError(f"{place} asks nothing without its system turn; leave out --strip-system, or the row")
    return left


def _check_pairs(pos: Sequence[tuple[str, list[Message]]], neg: Sequence[tuple[str, list[Message]]]) -> None:
    for (place, chat), (other, its) in zip(pos, neg, strict=False):
        if _asked(chat) != _asked(its):
            raise WsteerError(
                f"{place} and {other} answer different prompts ({_shown(chat)}, {_shown(its)}), and --method pca takes "
                "pairs of rows: give both files in one order, or use --method mean"
            )
    if len(pos) != len(neg):
        raise WsteerError(
            f"pos has {len(pos)} rows and neg {len(neg)}, and --method pca takes pairs of rows; give as many on both "
            "sides, in one order, or use --method mean"
        )


def _asked(chat: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """The turns before the answer, without system turns, which may ask for the two sides' behaviours."""
    return [(turn["role"], turn["content"].strip()) for turn in chat[:-1] if turn["role"] != "system"]


def _shown(chat: Sequence[Mapping[str, str]]) -> str:
    text = " ".join(chat[-2]["content"].split())
    return repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}...")


def _thinks(chat: Chat, answer: Mapping[str, str]) -> bool:
    if answer.get(THOUGHT, "").strip():
        return True
    found = find_marks(chat).split("", answer["content"], True)
    return found is not None and found.thought is not None
