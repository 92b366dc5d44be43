"""Labels placed round the points of a picture so that they cover neither each other nor the points."""

from collections.abc import Sequence
from dataclasses import dataclass

# the eight places of a label round its point: on which side across and up, -1, 0 or 1
PLACES = ((1, 1), (-1, 1), (1, -1), (-1, -1), (1, 0), (-1, 0), (0, 1), (0, -1))


@dataclass(frozen=True)
class Box:
    """A rectangle of a picture; units are the caller's, the same for all."""

    left: float
    bottom: float
    right: float
    top: float

    def shared(self, other: "Box") -> float:
        """The area that both have."""
        across = min(self.right, other.right) - max(self.left, other.left)
        up = min(self.top, other.top) - max(self.bottom, other.bottom)
        return across * up if across > 0 and up > 0 else 0.0

    @property
    def area(self) -> float:
        """Width times height."""
        return (self.right - self.left) * (self.top - self.bottom)


def place(
    points: Sequence[tuple[float, float]],
    sizes: Sequence[tuple[float, float]],
    kept: Sequence[bool],
    taken: Sequence[Box],
    frame: Box,
    gap: float,
) -> list[Box | None]:
    """Where the label of each point goes, `gap` away from it; None for one that finds no free place in the `frame`.

    `sizes` are the labels' widths and heights. `taken` are boxes that no label may cover. Labels that must be `kept`
    are placed first, and take the place that covers least where none is free. Equal input gives equal places.
    """
    covered = list(taken)
    found: list[Box | None] = [None] * len(points)
    for index in sorted(range(len(points)), key=lambda index: not kept[index]):
        options = [_beside(points[index], sizes[index], side, gap) for side in PLACES]
        costs = [_cost(box, covered, frame) for box in options]
        best = min(range(len(options)), key=costs.__getitem__)
        if costs[best] == 0 or kept[index]:
            found[index] = options[best]
            covered.append(options[best])
    return found


def _beside(point: tuple[float, float], size: tuple[float, float], side: tuple[int, int], gap: float) -> Box:
    (x, y), (width, height), (across, up) = point, size, side
    left = x - width / 2 + across * (width / 2 + gap)
    bottom = y - height / 2 + up * (height / 2 + gap)
    return Box(left, bottom, left + width, bottom + height)


def _cost(box: Box, covered: Sequence[Box], frame: Box) -> float:
    """The area that the box covers of others, or has outside of the frame."""
    return sum(box.shared(other) for other in covered) + round(box.area - box.shared(frame), 6)
