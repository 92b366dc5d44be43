"""The gain of a rounding: how much of a change it keeps, estimated on a sample of rows; and the choice by gain."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wsteer.deltas.delta import Delta
from wsteer.files.tensors import TensorEntry
from wsteer.steering.folding import base_rows, fold
from wsteer.steering.rounding import DROPPED_BITS, Rounding
from wsteer.steering.scratch import thread_scratch
from wsteer.workers import in_order

NEAREST_FROM = 0.99  # the gain from which auto rounds to nearest
SAMPLED_ROWS = 16  # sampled of each tensor for its gain, as four blocks of rows; more if rows are short
SAMPLED_ENTRIES = 1 << 14


@dataclass(frozen=True)
class Gains:
    """The gain over all tensors, and by tensor, on a sample of rows: ⟨written, intended⟩/‖intended‖²."""

    overall: float
    by_name: dict[str, float]


@dataclass(frozen=True)
class Target:
    """A tensor that a delta changes: the base's values of it (None: zeros), and the dtype that is written."""

    name: str
    source: TensorEntry | Tensor | None
    dtype: torch.dtype


@dataclass(frozen=True)
class Choice:
    """How one output is rounded, why, and with which gains (None if k is 0, where nothing is rounded)."""

    rounding: Rounding
    reason: str
    gains: Gains | None


def choose_rounding(
    delta: Delta, targets: Sequence[Target], ks: Sequence[float], rounding: Rounding
) -> dict[float, Choice]:
    """How base + k·delta is rounded for each k, if `rounding` is asked for.

    `auto` rounds to nearest if the gain on the sample is 0.99 or more, else stochastically.
    """
    nearest, stochastic = Rounding(), Rounding("stochastic", rounding.seed)
    first = stochastic if rounding.stochastic else nearest
    gains = _sampled_gains(delta, targets, [k for k in ks if k != 0], first)
    lossy = any(target.dtype in DROPPED_BITS for target in targets)
    low = [k for k, gain in gains.items() if rounding.mode == "auto" and lossy and gain.overall < NEAREST_FROM]
    again = _sampled_gains(delta, targets, low, stochastic)
    choices = {}
    for k in ks:
        if k == 0:
            choices[k] = Choice(nearest, "k is 0: the base's bytes", None)
        elif rounding.mode != "auto":
            choices[k] = Choice(first, "asked for", gains[k])
        else:
            reason = f"rounding to nearest keeps {gains[k].overall:.1%} of the change"
            choices[k] = Choice(stochastic, reason, again[k]) if k in again else Choice(nearest, reason, gains[k])
    return choices


def _sampled_gains(
    delta: Delta, targets: Sequence[Target], ks: Sequence[float], rounding: Rounding
) -> dict[float, Gains]:
    if not ks:
        return {}
    parts = list(in_order(lambda target: _sampled_dots(delta, target, ks, rounding), targets))
    gains = {}
    for index, k in enumerate(ks):
        dots = {target.name: part[index] for target, part in zip(targets, parts, strict=True)}
        total, square = (sum(dot[side] for dot in dots.values()) for side in (0, 1))
        named = {name: dot / norm for name, (dot, norm) in dots.items() if norm}
        gains[k] = Gains(total / square if square else 1.0, named)
    return gains


def _sampled_dots(delta: Delta, target: Target, ks: Sequence[float], rounding: Rounding) -> list[tuple[float, float]]:
    """For each k <written, intended> and |intended|² of one tensor, over a fixed sample of its rows."""
    change, scratch = delta.change(target.name), thread_scratch()
    sums = [(0.0, 0.0)] * len(ks)
    for start, stop in _sampled_rows(change.shape):
        base = base_rows(target.source, change.shape, target.dtype, start, stop)
        unit = change.rows(start, stop).double()
        for index, k in enumerate(ks):
            intended = unit * k
            written = fold(target.name, base, change, start, k, rounding, target.dtype, scratch).double().sub_(base)
            dot, square = sums[index]
            sums[index] = (dot + float((written * intended).sum()), square + float((intended * intended).sum()))
    return sums


def _sampled_rows(shape: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    rows = shape[0] if shape else 1
    wanted = max(SAMPLED_ROWS, SAMPLED_ENTRIES // max(math.prod(shape[1:]), 1))
    if rows <= wanted:
        yield 0, rows
        return
    run = wanted // 4
    for quarter in range(4):
        start = quarter * (rows - run) // 3
        yield start, start + run
