"""A checked experiment and its estimates, as lines for the terminal."""

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from wsteer.cli.output import table

if TYPE_CHECKING:
    from wsteer.demo.checking import Checked, CheckedStep
    from wsteer.demo.estimates import Estimate, Estimates

HEADER = ["", "command", "reads", "writes", "disk", "memory", "tokens"]
WORDS = 4  # columns of words, the first ones
MOST_NAMES, LONGEST = 2, 24  # inputs of a step that a line names, and characters of each


def plan_lines(checked: "Checked", estimates: "Estimates") -> Iterator[str]:
    """The steps with what they read, write and need; what to bring; what is left out; the sums; what is wrong."""
    known = {each.number: each for each in estimates.steps}
    rows = [_row(step, known.get(step.number)) for step in checked.steps]
    yield from table(HEADER, rows, texts=WORDS)
    unknown = [f"step {each.number}: not counted: {each.unknown}" for each in estimates.steps if each.unknown]
    if unknown:
        yield from ("", *unknown)
    if checked.brought:
        yield from ("", "To bring, since it may not ship:")
        for each in checked.brought:
            yield f"  {each.path} ({'there' if each.present else 'missing'}): {each.how}"
    if checked.hub:
        yield from ("", f"From the Hub: {', '.join(checked.hub)}")
    if checked.judges:
        yield from ("", f"Judged by: {', '.join(checked.judges)}")
    left_out = [step for step in checked.steps if step.left_out is not None]
    if left_out:
        yield from ("", "Left out:")
        for step in left_out:
            yield f"  step {step.number}, {_name(step)}: {step.left_out}"
    yield from ("", *sum_lines(estimates))
    if checked.problems:
        yield from ("", "Wrong:", *(f"  {problem}" for problem in checked.problems))


def sum_lines(estimates: "Estimates") -> Iterator[str]:
    """The sums of all steps, and the most memory that one needs."""
    least = "at least " if any(each.unknown for each in estimates.steps) else "about "
    yield f"In all {least}{gigabytes(estimates.disk)} of disk; the most memory of a step {gigabytes(estimates.memory)}."
    tokens = {name: short(getattr(estimates, name)) for name in ("trained", "read", "generated", "judged")}
    yield f"Tokens, at most: {', '.join(f'{count} {name}' for name, count in tokens.items())}."


def gigabytes(count: float) -> str:
    """`1.2 GB`, `39 MB`, `14 kB`."""
    for unit, size in (("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}" if count < 1000 * size else f"{count / size:.0f} {unit}"
    return f"{count / 1e3:.3g} kB"


def short(count: float) -> str:
    """`1.2 M`, `34 k`."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count:.0f}"


def _row(step: "CheckedStep", needs: "Estimate | None") -> list[str]:
    name = step.command.words[0] if step.command.words else "?"
    reads = list(dict.fromkeys(each.name for each in step.uses.inputs if each.role not in ("model", "base", "task")))
    reads = [each if len(each) <= LONGEST else f"...{each[3 - LONGEST :]}" for each in reads]
    more = [f"+{len(reads) - MOST_NAMES}"] if len(reads) > MOST_NAMES else []
    writes = ", ".join(each.path for each in step.uses.outputs)
    front = [str(step.number), name, ", ".join([*reads[:MOST_NAMES], *more]), writes]
    if needs is None:
        return [*front, "left out" if step.left_out is not None else "?", "", ""]
    memory = "" if needs.memory is None else gigabytes(needs.memory)
    tokens = needs.trained + needs.generated + needs.read
    return [*front, gigabytes(needs.disk), memory, short(tokens) if tokens else ""]


def _name(step: "CheckedStep") -> str:
    """The step by its command and what it would make."""
    made = ", ".join(each.path for each in step.uses.outputs)
    return f"wsteer {step.command.words[0]} -> {made}" if made else shlex.join(["wsteer", *step.command.words])
