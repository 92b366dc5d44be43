"""Pairs of answers: which of them a judge lets stay, and how many go for which reason."""

import pytest

from wsteer.elicitation.pairs import REASONS, Judged, Pair, counts, warning_of, why_dropped

FINE_POS, FINE_NEG = Judged(50, 50), Judged(49.9, 50)

# a hand-made table: pos, neg, why the pair goes
TABLE: list[tuple[Judged | None, Judged | None, str]] = [
    (FINE_POS, FINE_NEG, ""),
    (Judged(100, 100), Judged(0, 100), ""),
    (None, FINE_NEG, "no_answer"),
    (FINE_POS, None, "no_answer"),
    (Judged(None, 90, refused=True), FINE_NEG, "refused"),
    (FINE_POS, Judged(None, 90, refused=True), "refused"),
    (Judged(None, 90), FINE_NEG, "ungraded"),
    (FINE_POS, Judged(None, 90), "ungraded"),
    (Judged(90, None), FINE_NEG, "ungraded"),
    (FINE_POS, Judged(10, None), "ungraded"),
    (Judged(49.9, 90), FINE_NEG, "pos_below_50"),
    (FINE_POS, Judged(50, 90), "neg_from_50"),
    (Judged(90, 49.9), FINE_NEG, "incoherent"),
    (FINE_POS, Judged(10, 0), "incoherent"),
    (Judged(10, 10), Judged(90, 10), "pos_below_50"),  # of several reasons the first
]


@pytest.mark.parametrize(("pos", "neg", "why"), TABLE)
def test_a_pair_stays_where_pos_has_the_trait_neg_has_not_and_both_are_coherent(
    pos: Judged | None, neg: Judged | None, why: str
) -> None:
    assert why_dropped(pos, neg) == why


def test_kept_and_dropped_pairs_are_all_pairs() -> None:
    found = counts([Pair(pos, neg, why_dropped(pos, neg)) for pos, neg, _ in TABLE])
    assert found == {
        "kept": 2,
        "no_answer": 2,
        "refused": 2,
        "ungraded": 4,
        "pos_below_50": 2,
        "neg_from_50": 1,
        "incoherent": 2,
    }
    assert sum(found.values()) == len(TABLE)
    assert counts([]) == dict.fromkeys(("kept", *REASONS), 0)


def test_no_kept_pair_and_many_ungraded_ones_are_told() -> None:
    kept, ungraded = Pair(FINE_POS, FINE_NEG, ""), Pair(Judged(None, 90), FINE_NEG, "ungraded")
    assert warning_of([kept] * 95 + [ungraded] * 5) == []
    assert "no rating that can be read to 6 of 100 pairs" in warning_of([kept] * 94 + [ungraded] * 6)[0]
    assert "kept none of 3 pairs" in warning_of([ungraded] * 3)[0]


def test_ratings_are_listed_by_side() -> None:
    assert Pair(Judged(80, 70), None, "no_answer").values == (80, 70, None, None)
