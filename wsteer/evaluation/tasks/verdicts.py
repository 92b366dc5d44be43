"""Verdicts of one fact's answers -> the value of a metric, or why there is none."""

from collections.abc import Mapping

from wsteer.evaluation.rows import ABSTAINED, CUT, OUTSIDE
from wsteer.evaluation.tasks.scoring import SCORERS
from wsteer.evaluation.tasks.task import Metric

ABSTAIN = "abstain"  # the verdict of a scorer that cannot decide
DEFINITE = {verdict for scorer in SCORERS.values() for verdict in scorer.verdicts} - {ABSTAIN}


def counted(metric: Metric, verdicts: Mapping[str, str]) -> tuple[float | None, str]:
    """The value (1 or 0) of a share of verdicts for a fact with these verdicts by prompt, or None and why.

    One definite verdict that differs decides for 0, whatever the others. A fact that is not among those that the share
    is of is outside; where that, or the value, hangs on an abstention, a cut answer, or a judge that gave no verdict
    (any other text, which is the reason), the fact has no value.

    >>> share = Metric({"plain": "correct", "hint": "correct"}, {"plain": "correct"})
    >>> counted(share, {"plain": "correct", "hint": "incorrect"}), counted(share, {"plain": "correct", "hint": "cut"})
    ((0.0, ''), (None, 'cut'))
    >>> counted(share, {"plain": "incorrect", "hint": "cut"}), counted(share, {"plain": "abstain", "hint": "incorrect"})
    ((None, 'outside'), (None, 'abstained'))
    """
    among, why = _all_as(metric.among, verdicts)
    if among is None:
        return None, why
    if not among:
        return None, OUTSIDE
    value, why = _all_as(metric.count, verdicts)
    return (None, why) if value is None else (float(value), "")


def _all_as(wanted: Mapping[str, str], verdicts: Mapping[str, str]) -> tuple[bool | None, str]:
    """Whether all verdicts are as wanted; None, and why, where that is open."""
    open_ones = set()
    for prompt, verdict in wanted.items():
        found = verdicts[prompt]
        if found == verdict:
            continue  # an abstention too may be what a metric counts
        if found in DEFINITE:
            return False, ""
        open_ones.add(ABSTAINED if found == ABSTAIN else found)
    if not open_ones:
        return True, ""
    failures = sorted(open_ones - {CUT, ABSTAINED})  # they count against a run, so none may hide
    return None, failures[0] if failures else CUT if CUT in open_ones else ABSTAINED
