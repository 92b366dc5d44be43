"""The shapes of chat rows: under which keys a row has its prompt, its answer or its turns.

In this order, the first that a row fits:

1. `messages`: turns of `role` and `content`, as OpenAI and transformers have them.
2. `prompt` and `completion`, texts or lists of such turns.
3. one of the shapes of others: ShareGPT's `conversations`, turns of `from` and `value`; Alpaca's `instruction`, `input`
   and `output`; `question` and `answer`. A row that fits two of these is refused.

A text under `system` beside any of them is the system prompt before its turns.

Columns that the user names are a shape too, and then the only one. Each row is read by itself, so that a file may mix
shapes.
"""

from collections.abc import Mapping

from wsteer.errors import WsteerError

Shape = Mapping[str, str]  # what is read, and the key in the row
ROLES_OF_COLUMNS = ("prompt", "input", "completion", "system", "messages")
OWN: tuple[Shape, ...] = (
    {"messages": "messages", "system": "system"},
    {"prompt": "prompt", "completion": "completion", "system": "system"},
)
OTHERS: tuple[Shape, ...] = (
    {"messages": "conversations", "system": "system"},
    {"prompt": "instruction", "input": "input", "completion": "output", "system": "system"},
    {"prompt": "question", "completion": "answer", "system": "system"},
)
SPEAKERS = {"human": "user", "gpt": "assistant"}  # ShareGPT's names of roles
SHOWN = 200  # characters of keys that a message shows
EXAMPLE = "--columns prompt=question,completion=answer"


def check_columns(columns: Shape | None) -> None:
    """Refuse columns of unknown use, and those that say twice where a chat is."""
    for use, key in (columns or {}).items():
        if use not in ROLES_OF_COLUMNS or not key:
            raise WsteerError(
                f"--columns {use[:SHOWN]}={key[:SHOWN]}: give NAME=COLUMN with a NAME of {', '.join(ROLES_OF_COLUMNS)}"
            )
    if columns and "messages" in columns and len(columns.keys() - {"system"}) > 1:
        raise WsteerError("--columns: messages hold the whole chat; leave out prompt, input and completion")


def turns_of(where: str, row: Mapping[str, object], columns: Shape | None = None, answered: bool = True) -> list:
    """The turns of a row, each as the row has it but with the keys `role` and `content`; they are not checked yet.

    Without `answered` a prompt is enough, and a completion is not read. Raises WsteerError, with the place, if the row
    fits no shape or two.
    """
    shape = _named(where, row, columns, answered) if columns else _found(where, row, answered)
    if "messages" in shape:
        turns = row[shape["messages"]]
        if not isinstance(turns, list):
            raise WsteerError(f"{where} has {shape['messages']!r} that are no list of turns")
        turns = [_turn(where, each) for each in turns]
    else:
        turns = _turns(where, _prompt(where, row, shape), "user")
        turns += _turns(where, row[shape["completion"]], "assistant") if answered else []
    system = row.get(shape["system"]) if "system" in shape else None
    return _with_system(where, system, turns) if system else turns


def _with_system(where: str, system: object, turns: list) -> list:
    """The turns behind a system prompt beside them, which they may have already; another one is refused."""
    first = turns[0] if turns and isinstance(turns[0], dict) else {}
    if first.get("role") != "system":
        return [*_turns(where, system, "system"), *turns]
    if first.get("content") != system:
        raise WsteerError(f"{where} has a system prompt under the key system, and another in its turns; keep one")
    return turns


def has_shape(row: Mapping[str, object]) -> bool:
    """Whether a row fits a shape of chats, and not two of others."""
    return any(_fits(row, shape, True) for shape in OWN) or sum(_fits(row, shape, True) for shape in OTHERS) == 1


def _found(where: str, row: Mapping[str, object], answered: bool) -> Shape:
    """The shape that the row's keys fit."""
    if own := next((shape for shape in OWN if _fits(row, shape, answered)), None):
        return own
    fitting = [shape for shape in OTHERS if _fits(row, shape, answered)]
    if len(fitting) > 1:
        both = " and ".join(" with ".join(_needed(shape, answered)) for shape in fitting[:2])
        raise WsteerError(f"{where} fits two shapes, {both}; say which is meant, as {EXAMPLE}")
    if not fitting:
        looked = "; ".join(" and ".join(_needed(shape, answered)) for shape in (*OWN, *OTHERS))
        raise WsteerError(f"{where} fits no shape of chat rows: {looked}. {_keys(row)}; name its columns, as {EXAMPLE}")
    if row.get("history") and "input" in fitting[0]:
        raise WsteerError(f"{where} has earlier turns in 'history', which are not read; write the chat as messages")
    return fitting[0]


def _named(where: str, row: Mapping[str, object], columns: Shape, answered: bool) -> Shape:
    """The shape that the user's columns make; what they do not name has its own name."""
    shape = dict(columns) if "messages" in columns else {"prompt": "prompt", "completion": "completion", **columns}
    if missing := next((key for key in _needed(shape, answered) if row.get(key) is None), None):
        raise WsteerError(f"{where} has nothing in the column {missing[:SHOWN]!r}, as --columns asks. {_keys(row)}")
    return shape


def _needed(shape: Shape, answered: bool) -> list[str]:
    """The keys without which a row does not have the shape."""
    uses = ("messages", "prompt", "completion") if answered else ("messages", "prompt")
    return [shape[use] for use in uses if use in shape]


def _fits(row: Mapping[str, object], shape: Shape, answered: bool) -> bool:
    return all(row.get(key) is not None for key in _needed(shape, answered))


def _keys(row: Mapping[str, object]) -> str:
    return f"Its keys are {', '.join(row)[:SHOWN] or 'none'}"


def _prompt(where: str, row: Mapping[str, object], shape: Shape) -> object:
    """The prompt; behind it, as a paragraph of its own, what it is about, if the row has that."""
    prompt, given = row[shape["prompt"]], row.get(shape["input"]) if "input" in shape else None
    if not given or (isinstance(given, str) and not given.strip()):
        return prompt
    if not isinstance(prompt, str) or not isinstance(given, str):
        raise WsteerError(f"{where} has {shape['input']!r} that is no text")
    return f"{prompt}\n\n{given}"


def _turns(where: str, said: object, role: str) -> list:
    """A text as one turn; turns as they are."""
    return [_turn(where, each) for each in said] if isinstance(said, list) else [{"role": role, "content": said}]


def _turn(where: str, turn: object) -> object:
    """ShareGPT's turn under the names `role` and `content`; anything else as it is."""
    if not isinstance(turn, dict) or "role" in turn or "from" not in turn:
        return turn
    role = turn["from"]
    if role not in (*SPEAKERS, *SPEAKERS.values(), "system"):
        raise WsteerError(
            f"{where} has a turn from {str(role)[:SHOWN]!r}, which wsteer does not read; it takes human, gpt and system"
        )
    rest = {key: value for key, value in turn.items() if key not in ("from", "value")}
    return {**rest, "role": SPEAKERS.get(role, role), "content": turn.get("value")}
