"""Labels beside points: none covers another, a point or the frame."""

import random

from wsteer.evaluation.presentation.placement import Box, place

FRAME = Box(0, 0, 400, 300)


def test_a_label_alone_is_up_and_right_of_its_point() -> None:
    assert place([(100, 100)], [(30, 10)], [True], [], FRAME, 5) == [Box(105, 105, 135, 115)]


def test_a_label_at_the_edge_stays_in_the_frame() -> None:
    (box,) = place([(399, 299)], [(30, 10)], [False], [], FRAME, 5)
    assert box == Box(364, 284, 394, 294)


def test_labels_cover_neither_each_other_nor_what_is_taken() -> None:
    draw = random.Random(0)
    points = [(draw.uniform(0, 400), draw.uniform(0, 300)) for _ in range(60)]
    taken = [Box(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    boxes = place(points, [(30, 10)] * 60, [False] * 60, taken, FRAME, 5)
    shown = [box for box in boxes if box is not None]
    assert 20 < len(shown) < 60
    for i, box in enumerate(shown):
        assert all(box.shared(other) == 0 for other in [*shown[:i], *taken])
        assert box.shared(FRAME) == box.area


def test_labels_that_are_kept_come_first_and_never_go_missing() -> None:
    crowd = [(200.0, 150.0)] * 12
    boxes = place(crowd, [(60, 20)] * 12, [i > 9 for i in range(12)], [], FRAME, 5)
    assert boxes[10] is not None and boxes[11] is not None
    assert boxes[10].shared(boxes[11]) == 0
    assert sum(box is None for box in boxes) == 8  # the four corners; places between them would cover those


def test_equal_points_give_equal_places() -> None:
    points = [(10.0 * i, 5.0 * i) for i in range(20)]
    one, two = (place(points, [(40, 12)] * 20, [False] * 20, [], FRAME, 5) for _ in range(2))
    assert one == two
