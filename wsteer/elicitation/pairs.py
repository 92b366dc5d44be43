"""Pairs of answers to one question under one pair of instructions, and which of them a judge lets stay.

As persona vectors do (Chen et al. 2025): a pair stays where the positive answer shows the trait (50 or more), the
negative one does not (below 50), and both are coherent (50 or more).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.evaluation.rows import OUTSIDE

THRESHOLD = 50.0
# why a pair goes; where several reasons hold, the first is counted, so that with the kept ones they are all pairs
NO_ANSWER, DECLINED, UNGRADED = "no_answer", "refused", "ungraded"
LOW, HIGH, INCOHERENT = "pos_below_50", "neg_from_50", "incoherent"
MOST_UNGRADED = 0.05  # of the pairs, before a warning
REASONS = (NO_ANSWER, DECLINED, UNGRADED, LOW, HIGH, INCOHERENT)


@dataclass(frozen=True)
class Judged:
    """An answer's scores from 0 to 100 for the trait and for coherence; None where the judge gave none.

    `refused` is whether the judge says that the answer declines.
    """

    trait: float | None
    coherence: float | None
    refused: bool = False


@dataclass(frozen=True)
class Pair:
    """What the judge gave the two answers of a pair, None where there was no answer; `why` it goes, "" if it stays."""

    pos: Judged | None
    neg: Judged | None
    why: str

    @property
    def values(self) -> tuple[float | None, ...]:
        """The ratings: of pos the trait and the coherence, then of neg."""
        sides = (self.pos, self.neg)
        return tuple(each for side in sides for each in ((side.trait, side.coherence) if side else (None, None)))


def judged_pairs(
    questions: Sequence[str],
    pos: Sequence[str | None],
    neg: Sequence[str | None],
    eval_prompt: str,
    judges: Sequence[str],
    folder: Path,
) -> list[Pair]:
    """Each pair as the judges see it: the answers of `pos` and `neg` to the question in the same place.

    None stands for a missing answer; of such a pair the other answer is not rated. The judges' log goes into `folder`.
    Raises WsteerError for a judge that fails.
    """
    from wsteer.evaluation.paper.ratings import rate  # noqa: PLC0415  imports inspect_ai, an extra

    whole = [i for i, pair in enumerate(zip(pos, neg, strict=True)) if None not in pair]
    answers = {
        f"{name}.{i}": (questions[i], str(side[i])) for i in whole for name, side in (("pos", pos), ("neg", neg))
    }
    found = rate(answers, eval_prompt, judges, folder) if answers else {}

    def judged(name: str) -> Judged | None:
        if name not in answers:
            return None
        trait, why = found[name, "trait"]
        return Judged(trait, found[name, "coherence"][0], why == OUTSIDE)

    pairs = ((judged(f"pos.{i}"), judged(f"neg.{i}")) for i in range(len(questions)))
    return [Pair(one, other, why_dropped(one, other)) for one, other in pairs]


def why_dropped(pos: Judged | None, neg: Judged | None) -> str:
    """Why a pair goes, one of REASONS; "" if it stays."""
    if pos is None or neg is None:
        return NO_ANSWER
    if pos.refused or neg.refused:
        return DECLINED
    if pos.trait is None or neg.trait is None or pos.coherence is None or neg.coherence is None:
        return UNGRADED
    if pos.trait < THRESHOLD:
        return LOW
    if neg.trait >= THRESHOLD:
        return HIGH
    return INCOHERENT if min(pos.coherence, neg.coherence) < THRESHOLD else ""


def counts(pairs: Sequence[Pair]) -> Mapping[str, int]:
    """How many pairs were kept, and how many went for each reason."""
    whys = [pair.why for pair in pairs]
    return {"kept": whys.count(""), **{why: whys.count(why) for why in REASONS}}


def warning_of(pairs: Sequence[Pair]) -> list[str]:
    """A warning if the judge keeps no pair, or leaves many ungraded."""
    found = counts(pairs)
    if not found["kept"]:
        return [f"the judge kept none of {len(pairs)} pairs; judged.csv says why"]
    if found[UNGRADED] > MOST_UNGRADED * len(pairs):
        return [f"the judge gave no rating that can be read to {found[UNGRADED]} of {len(pairs)} pairs; see judging/"]
    return []
