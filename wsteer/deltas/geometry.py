"""How the two sides of a difference lie: their lengths, the angle between them, and the drift that they share."""

from collections.abc import Sequence
from dataclasses import dataclass

from wsteer.deltas.gram import cosine_from_gram


@dataclass(frozen=True)
class Geometry:
    """Lengths and cosines of τ⁺, τ⁻ and w; all from dot products in float64. What is unknown or undefined is None.

    `norm_ratio` is ‖τ⁺‖/‖τ⁻‖. `cos_pos_neg` is cos(τ⁺, τ⁻), `cos_opposite` cos(τ⁺, -τ⁻): 1 if the sides moved in
    opposite directions. What both did alike is the shared drift (τ⁺+τ⁻)/2, of `norm_drift`; `drift_ratio` is its norm
    over that of half their difference, (τ⁺-τ⁻)/2; `cos_drift` its cosine with w.
    """

    norm_pos: float | None = None
    norm_neg: float | None = None
    norm_ratio: float | None = None
    cos_pos_neg: float | None = None
    cos_opposite: float | None = None
    norm_drift: float | None = None
    drift_ratio: float | None = None
    cos_drift: float | None = None


def geometry(dots: Sequence[Sequence[float]], sides: int) -> Geometry:
    """The geometry from the dot products of w, then of its known `sides`: none, τ⁺ alone, or τ⁺ and τ⁻."""
    norms = [dots[i][i] ** 0.5 for i in range(1 + sides)]
    if sides < 2:
        return Geometry(norm_pos=norms[1] if sides else None)
    cosine = cosine_from_gram(dots, 1, 2) if norms[1] and norms[2] else None
    shared, apart = (max(0.0, dots[1][1] + dots[2][2] + sign * 2 * dots[1][2]) ** 0.5 for sign in (1, -1))
    along = (dots[0][1] + dots[0][2]) / (norms[0] * shared) if norms[0] and shared else None
    return Geometry(
        norm_pos=norms[1],
        norm_neg=norms[2],
        norm_ratio=norms[1] / norms[2] if norms[2] else None,
        cos_pos_neg=cosine,
        cos_opposite=None if cosine is None else -cosine,
        norm_drift=shared / 2,
        drift_ratio=shared / apart if apart else None,
        cos_drift=None if along is None else max(-1.0, min(1.0, along)),
    )
