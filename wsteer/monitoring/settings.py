"""What monitor compares with, and how: the options of the command besides its items."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from wsteer.deltas.selection import EVERYTHING, Selection
from wsteer.monitoring.gates import Gates
from wsteer.monitoring.items import listed


@dataclass(frozen=True)
class Settings:
    """What to compare with, and how: the options of `wsteer monitor` besides its items.

    `controls`: deltas of no interest, whose cosines show what is usual. `ceiling`: by a delta's name, deltas of the
    same training, repeated. `centre`: deltas whose mean is removed first. `per`: layer, module or parameter. `groups`:
    globs of names that are drawn together in pictures. `fail_above` and `fail_below`: bounds by a delta's name. A path
    alone counts as a list of one. `correlate`: a CSV file of numbers by pairs of items, whose rank correlation with the
    cosines is tested by permutations of `seed`. `device`: where products are taken, auto is CUDA, else the CPU.
    """

    base: str | Path | None = None
    controls: Sequence[str | Path] = ()
    ceiling: Mapping[str, Sequence[str | Path]] = field(default_factory=dict)
    centre: Sequence[str | Path] = ()
    selection: Selection = EVERYTHING
    per: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    scores: Path | None = None
    correlate: Path | None = None
    seed: int = 0
    device: str = "auto"
    fail_above: Mapping[str, float] = field(default_factory=dict)
    fail_below: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("controls", "centre"):
            object.__setattr__(self, name, listed(getattr(self, name)))
        object.__setattr__(self, "ceiling", {name: listed(paths) for name, paths in self.ceiling.items()})
        self.gates.check_bounds()

    @property
    def references(self) -> list[str | Path]:
        """All items that the settings name."""
        return [*self.controls, *(path for paths in self.ceiling.values() for path in paths), *self.centre]

    @property
    def read(self) -> list[str | Path]:
        """All files and folders that the settings name."""
        return [*self.references, *(path for path in (self.base, self.scores, self.correlate) if path is not None)]

    @property
    def gates(self) -> Gates:
        """The bounds that the cosines must keep."""
        return Gates(self.fail_above, self.fail_below)

    @property
    def options(self) -> dict[str, object]:
        """The options besides inputs, as records list them."""
        own = {"per": self.per, "groups": self.groups, "fail_above": self.fail_above, "fail_below": self.fail_below}
        seed = {"seed": self.seed} if self.correlate else {}
        return {**{name: value for name, value in own.items() if value}, **seed, **self.selection.options}
