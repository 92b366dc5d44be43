"""Conditions as the lines of pictures: which points a line has, in which order, and how it looks."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from wsteer.evaluation.conditions import Condition, k_text

# Okabe and Ito's colours, which colour-blind people tell apart; marks tell lines apart as well
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKS = ("o", "s", "D", "^", "v", "P", "X")
CONTROL = "#7F7F7F"  # random and shuffled changes
PALEST = 0.35  # the share of its colour that the point with the smallest |k| has
BLOCKS = re.compile(r"@[\d,]+")
LEAST_SWEEP = 3  # conditions of single blocks that make a layer sweep

Axis = Literal["k", "step", "block", "none"]


@dataclass(frozen=True)
class Line:
    """The conditions of one method, in the order of what they differ in (`axis`): k, step, block, or nothing."""

    name: str
    points: tuple[Condition, ...]
    axis: Axis
    colour: str
    mark: str
    control: bool = False

    def where(self, condition: Condition) -> float:
        """The condition's place on the line's axis."""
        if self.axis == "block":
            return float((condition.layers or (0,))[0])
        return float(condition.step or 0) if self.axis == "step" else condition.k

    def shade(self, condition: Condition) -> str:
        """The line's colour, darker the larger |k|, the step or the block is, as `#rrggbb`."""
        most = max((abs(self.where(each)) for each in self.points), default=0.0)
        share = 1.0 if self.axis == "none" or most == 0 else abs(self.where(condition)) / most
        return _mixed(self.colour, PALEST + (1 - PALEST) * share)


def _mixed(colour: str, share: float) -> str:
    """The colour with white, of which it has 1 - `share`."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


def base_of(conditions: Sequence[Condition]) -> Condition | None:
    """The condition that the others are compared with."""
    return next((each for each in conditions if each.is_base), None)


def layer_sweeps(conditions: Sequence[Condition]) -> list[tuple[Condition, ...]]:
    """Groups of conditions that differ only in their one decoder block, each in the order of the blocks."""
    groups: dict[Condition, list[Condition]] = {}
    for each in conditions:
        if each.layers is not None and len(each.layers) == 1 and each.part is None:
            same = replace(each, layers=None, delta=None, method=stem(each.method))
            groups.setdefault(same, []).append(each)
    found = (sorted(group, key=lambda each: each.layers or ()) for group in groups.values())
    return [tuple(group) for group in found if len({each.layers for each in group}) >= LEAST_SWEEP]


def stem(method: str) -> str:
    """The method's name without the blocks that it was applied to: `a random` of `a@12 random`."""
    return BLOCKS.sub("", method)


def lines(conditions: Sequence[Condition]) -> list[Line]:
    """One line for each method, in the order given; without the base and the parts of an attribution.

    A sweep of more blocks than there are colours is one line.
    """
    sweeps = [sweep for sweep in layer_sweeps(conditions) if len(sweep) > len(COLOURS)]
    swept = {each.name: f"{stem(sweep[0].method)} k={k_text(sweep[0].k)}" for sweep in sweeps for each in sweep}
    methods: dict[tuple[str, bool], list[Condition]] = {}
    for each in conditions:
        if not (each.is_base or each.part):
            methods.setdefault((swept.get(each.name, each.method), each.name in swept), []).append(each)
    found: list[Line] = []
    coloured = 0
    for (name, blocks), points in methods.items():
        control = points[0].control is not None
        colour = CONTROL if control else COLOURS[coloured % len(COLOURS)]
        coloured += not control
        ordered = sorted(points, key=lambda each: (each.step or 0, each.k, each.layers or ()))
        axis = "block" if blocks else _axis(points)
        shown = f"{name}, each block" if blocks else name
        found.append(Line(shown, tuple(ordered), axis, colour, MARKS[len(found) % len(MARKS)], control))
    return found


def _axis(points: Sequence[Condition]) -> Axis:
    if any(each.step is not None for each in points):
        return "step"
    return "k" if any(each.delta is not None or each.k for each in points) else "none"
