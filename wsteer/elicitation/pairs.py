"""Pairs of answers to one question under one pair of instructions, and which of them a judge lets stay.

As persona vectors do (Chen et al. 2025): a pair stays where the positive answer shows the trait (50 or more), the
negative one does not (below 50), and both are coherent (50 or more).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsteer.evaluation.paper.ratings import COHERENCE, REFUSED, Given, Rating, rate

THRESHOLD = 50.0
TRAIT, COHERENT = "trait", "coherence"  # the ratings of an answer
# why a pair goes; where several reasons hold, the first is counted, so that with the kept ones they are all pairs
NO_ANSWER, DECLINED, UNGRADED = "no_answer", "refused", "ungraded"
LOW, HIGH, INCOHERENT = "pos_below_50", "neg_from_50", "incoherent"
MOST_UNGRADED = 0.05  # of the pairs, before a warning
REASONS = (NO_ANSWER, DECLINED, UNGRADED, LOW, HIGH, INCOHERENT)


@dataclass(frozen=True)
class Judged:
    """An answer's ratings from 0 to 100, by the trait file's prompt and by that on coherence."""

    trait: Rating
    coherence: Rating


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
        return tuple(
            each for side in sides for each in ((side.trait.value, side.coherence.value) if side else (None, None))
        )


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
    whole = [i for i, pair in enumerate(zip(pos, neg, strict=True)) if None not in pair]
    answers = [
        Given(f"{name}.{i}", questions[i], str(side[i])) for i in whole for name, side in (("pos", pos), ("neg", neg))
    ]
    found = rate(answers, {TRAIT: eval_prompt, COHERENT: COHERENCE}, judges, folder) if answers else {}

    def judged(name: str) -> Judged | None:
        return Judged(found[name, TRAIT], found[name, COHERENT]) if (name, TRAIT) in found else None

    pairs = ((judged(f"pos.{i}"), judged(f"neg.{i}")) for i in range(len(questions)))
    return [Pair(one, other, why_dropped(one, other)) for one, other in pairs]


def why_dropped(pos: Judged | None, neg: Judged | None) -> str:
    """Why a pair goes, one of REASONS; "" if it stays."""
    if pos is None or neg is None:
        return NO_ANSWER
    ratings = (pos.trait, neg.trait, pos.coherence, neg.coherence)
    if any(each.why == REFUSED for each in ratings):
        return DECLINED
    trait_pos, trait_neg, *coherent = (each.value for each in ratings)
    if trait_pos is None or trait_neg is None or None in coherent:
        return UNGRADED
    if trait_pos < THRESHOLD:
        return LOW
    if trait_neg >= THRESHOLD:
        return HIGH
    return INCOHERENT if any(each is not None and each < THRESHOLD for each in coherent) else ""


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
