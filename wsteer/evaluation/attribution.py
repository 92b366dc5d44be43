"""Which part of a delta carries its effect: each part alone, all but it, and a random change as large as the part."""

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wsteer.checkpoints.checkpoint import Checkpoint
from wsteer.checkpoints.names import NUMBERED, block_path, layer_name, layer_of
from wsteer.deltas.controls import control
from wsteer.deltas.delta import Delta
from wsteer.errors import WsteerError
from wsteer.evaluation.compared import By
from wsteer.evaluation.conditions import Condition
from wsteer.evaluation.rows import Measure, Row, by_condition
from wsteer.evaluation.summary import base_of
from wsteer.statistics import ratio_of_effects

ENDS = "ends"  # the part outside of the blocks: embedding, head, last norm
RANDOM = "random"  # the control of a part that is kept
_NUMBER = re.compile(r"\.\d+(?=\.)")


@dataclass(frozen=True)
class Ablation:
    """A change to be evaluated: `keep layer 3` is that part alone, `drop layer 3` all but it.

    With the `control` random it is a random change in the part's place, of the same norms.
    """

    part: str
    delta: Delta
    control: str | None = None


def parts(delta: Delta, by: By, checkpoint: Checkpoint) -> dict[str, list[str]]:
    """The names of the delta's parameters in each part, by the part's label: `layer 3`, or `self_attn.q_proj`.

    Modules of all blocks make one part. What is outside of the blocks is the part `ends`, or that of its tower.
    `delta` has the names of the checkpoint's files. Raises WsteerError if there are fewer than two parts.
    """
    if delta.kind == "activation":
        raise WsteerError(
            "--attribute takes a change of weights apart; of activation vectors try each block with --layers each"
        )
    blocks, found = block_path(checkpoint), defaultdict(list)
    for name in sorted(delta.terms):
        found[_part(name, by, blocks)].append(name)
    if not found:
        raise WsteerError(f"--attribute {by}: the delta changes nothing, so it has no parts; is it the model itself?")
    if len(found) < 2:
        raise WsteerError(
            f"--attribute {by}: all of the delta is one part ({next(iter(found))}), so there is nothing to tell apart; "
            f"try --attribute {'modules' if by == 'layers' else 'layers'}"
        )
    return dict(sorted(found.items(), key=lambda item: _place(item[0])))


def _part(name: str, by: By, blocks: str | None) -> str:
    layer = layer_of(name, blocks)
    if layer is None:
        outside = layer_name(name, blocks)
        return ENDS if outside == "other" else outside
    if by == "layers":
        return f"layer {layer}"
    match = NUMBERED.match(name)
    inner = name[match.end() :] if match else name
    return _NUMBER.sub(".*", inner.removesuffix(".weight").removesuffix(".bias"))


def _place(label: str) -> tuple[int, int, str]:
    """Layers by number, other parts by name, the ends last."""
    number = re.fullmatch(r"layer (\d+)", label)
    return (int(label == ENDS), int(number[1]) if number else -1, label)


def ablations(delta: Delta, by: By, checkpoint: Checkpoint, seed: int = 0) -> Iterator[Ablation]:
    """For each part of the delta: it alone, all but it, and a random change in its place."""
    delta = delta.bound(checkpoint)
    for label, names in parts(delta, by, checkpoint).items():
        kept = delta.part(names)
        yield Ablation(f"keep {label}", kept)
        yield Ablation(f"drop {label}", delta.part(delta.terms.keys() - set(names)))
        yield Ablation(f"keep {label}", control(kept, RANDOM, seed), RANDOM)


@dataclass(frozen=True)
class Retained:
    """The share of the whole delta's effect on one metric that a condition with a part of it has.

    An effect is the difference to the base, over the `rows` that have values under the base, the whole and the part.
    `value` and its 95% interval `low` to `high` are None where the whole's effect cannot be told from none.
    """

    task: str
    metric: str
    condition: str
    value: float | None
    low: float | None
    high: float | None
    rows: int


def retained(rows: Sequence[Row], measures: Sequence[Measure], conditions: Sequence[Condition]) -> list[Retained]:
    """What each condition with a `part` keeps of the effect of its whole delta, for each measure.

    The whole is the condition of the same method and k without a part. Of a perplexity the effect is in nats per token.
    """
    parts_of = [each for each in conditions if each.part is not None]
    found = by_condition(rows) if parts_of else {}
    results = []
    for condition in parts_of:
        whole = next((each for each in conditions if _is_whole(each, condition)), None)
        base = base_of(condition, conditions)
        if whole is None or base is None:
            continue
        for measure in measures:
            sides = [found.get((measure.task, measure.metric, each.name), {}) for each in (condition, whole, base)]
            if all(sides):
                results.append(_of_measure(measure, condition.name, *sides))
    return results


def _is_whole(whole: Condition, part: Condition) -> bool:
    """Whether `whole` is the condition of all of the delta that `part` has a part of."""
    method = part.method if part.control is None else part.method.removesuffix(f" {part.control}")
    same = all(getattr(whole, name) == getattr(part, name) for name in ("k", "model", "step", "system", "dtype"))
    return same and whole.part is None and whole.control is None and whole.method == method and not whole.is_base


def _of_measure(
    measure: Measure, condition: str, part: Mapping[str, Row], whole: Mapping[str, Row], base: Mapping[str, Row]
) -> Retained:
    effects: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    count = 0
    for name in sorted(part.keys() & whole.keys() & base.keys()):
        three = part[name], whole[name], base[name]
        if len({row.prompt for row in three}) > 1:
            continue
        kept, all_of_it, none = (row.value for row in three)
        if kept is None or all_of_it is None or none is None:
            continue
        count += 1
        weight = 1.0 if measure.kind == "share" else base[name].weight
        sums = effects[base[name].group]
        sums[0] += weight * (kept - none)
        sums[1] += weight * (all_of_it - none)
    value, low, high = ratio_of_effects(np.array(list(effects.values())).reshape(-1, 2)) or (None, None, None)
    return Retained(measure.task, measure.metric, condition, value, low, high, count)
