"""Projections as results: what each is the mean of, as values that gates bound, and by training step."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from wsteer.files.text import write_csv
from wsteer.monitoring.gates import Measured

PROMPT_END, RESPONSE = "prompt-last", "response"  # where a shift is measured
ROWS_OF = {PROMPT_END: "prompts of {}", RESPONSE: "answers of {}"}
SHOWN_BLOCKS = 3  # of all that are measured, in tables and in pictures by step


@dataclass(frozen=True)
class Projection:
    """The mean projection of a data set's rows on one vector at one decoder block.

    `model` is None for answers, read by the base, else the tuned model whose shift from the base was projected: at the
    last token of each prompt (`positions` is prompt-last), or over each answer's tokens (response). `low` and `high`
    bound Student's 95% interval of the mean, None for one row. A checkpoint of a training run has its `run` and `step`.
    `norm` is the vector's: how far the answers that it was made of are apart along it. `noise`, of a shift: one
    standard deviation of its projection on a random direction, ‖mean shift‖/√hidden. `control`: the vector is one of
    --controls.
    """

    model: str | None
    data: str
    delta: str
    block: int
    mean: float
    low: float | None
    high: float | None
    rows: int
    positions: str
    norm: float
    run: str | None = None
    step: int | None = None
    noise: float | None = None
    control: bool = False

    @property
    def of(self) -> str:
        """What was projected: `answers of pos`, or `run/checkpoint-4, prompts of pos`."""
        rows = ROWS_OF[self.positions].format(self.data)
        return rows if self.model is None else f"{self.model}, {rows}"

    @property
    def vector(self) -> str:
        """The vector's name in tables and pictures."""
        return f"{self.delta} (control)" if self.control else self.delta


def gated(found: Iterable[Projection]) -> Iterator[Measured]:
    """The values that gates bound: the shifts by tuning or, where no model was tuned, the answers'; no control's.

    A gate `a` bounds every measured block, `a:12` one of them.
    """
    found = [each for each in found if not each.control]
    shifts = [each for each in found if each.model is not None]
    for each in shifts or found:
        for gate in (each.delta, f"{each.delta}:{each.block}"):
            yield Measured(each.of, each.delta, "projection", each.mean, gate, each.block)


def shown_blocks(found: Iterable[Projection]) -> list[int]:
    """A few of the blocks at which the deltas were measured, spread over the depth."""
    blocks = sorted({each.block for each in found if not each.control})
    every = max(1, -(-len(blocks) // SHOWN_BLOCKS))
    return blocks[every // 2 :: every]


def ends(found: Sequence[Projection]) -> list[Projection]:
    """The projections without those of steps of training that others follow: each run's result, or last checkpoint."""
    last: dict[str | None, str | None] = {each.run: each.model for each in found}
    return [each for each in found if each.run is None or each.model == last[each.run]]


def by_step(found: Iterable[Projection]) -> list[Projection]:
    """The projections of checkpoints of training runs, by run and step."""
    steps = [each for each in found if each.run is not None and each.step is not None]
    order = {run: number for number, run in enumerate(dict.fromkeys(each.run for each in steps))}
    return sorted(steps, key=lambda each: (order[each.run], each.step or 0))


def write_projections(path: Path, found: Iterable[Projection]) -> None:
    """One line for each."""
    write_csv(path, list(Projection.__dataclass_fields__), (asdict(each) for each in found))


def write_steps(path: Path, found: Iterable[Projection]) -> None:
    """One line for each checkpoint, data set, vector and block."""
    fields = ("run", "step", "data", "delta", "block", "mean", "low", "high", "noise", "norm", "control", "rows")
    rows = ({name: getattr(each, name) for name in fields} for each in by_step(found))
    write_csv(path, fields, rows)
