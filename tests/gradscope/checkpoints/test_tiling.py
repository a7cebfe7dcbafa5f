from __future__ import annotations

import itertools
import random

import pytest

from gradscope.checkpoints.storage.tiling import Box, tiles

WHOLE = Box((0, 0), (4, 5))


def covered_once(boxes: list[Box], whole: Box) -> bool:
    """By looking at every element."""
    counts = dict.fromkeys(itertools.product(*map(range, whole.sizes)), 0)
    for box in boxes:
        spans = zip(box.offsets, box.sizes, strict=True)
        for place in itertools.product(*(range(first, first + size) for first, size in spans)):
            if place not in counts:
                return False
            counts[place] += 1
    return set(counts.values()) == {1}


def halved(box: Box, depth: int) -> list[Box]:
    dimension = random.randrange(len(box.sizes))
    if depth == 0 or box.sizes[dimension] < 2:
        return [box]
    cut = random.randrange(1, box.sizes[dimension])
    lower, upper = list(box.sizes), list(box.sizes)
    lower[dimension], upper[dimension] = cut, box.sizes[dimension] - cut
    start = list(box.offsets)
    start[dimension] += cut
    parts = Box(box.offsets, tuple(lower)), Box(tuple(start), tuple(upper))
    return [inner for part in parts for inner in halved(part, depth - 1)]


def test_every_way_to_cut_is_a_tiling() -> None:
    random.seed(0)
    for _ in range(300):
        boxes = halved(WHOLE, random.randrange(5))
        random.shuffle(boxes)
        assert tiles(boxes, WHOLE)


def test_nothing_else_is_one() -> None:
    random.seed(0)
    for _ in range(1000):
        boxes = halved(WHOLE, 3)
        place = random.randrange(len(boxes))
        moved = [boxes[place].offsets, boxes[place].sizes]
        which, dimension = random.randrange(2), random.randrange(2)
        changed = list(moved[which])
        changed[dimension] = max(0, changed[dimension] + random.choice([-1, 1]))
        moved[which] = tuple(changed)
        boxes[place] = Box(*moved)
        assert tiles(boxes, WHOLE) <= covered_once(boxes, WHOLE)


@pytest.mark.parametrize(
    "boxes",
    [[], [WHOLE, WHOLE], [Box((0,), (4,))], [Box((0, 0), (4, 4))], [Box((0, 1), (4, 5))]],
    ids=str,
)
def test_faults(boxes: list[Box]) -> None:
    assert not tiles(boxes, WHOLE)


def test_a_number_is_one_box() -> None:
    assert tiles([Box((), ())], Box((), ()))
    assert not tiles([], Box((), ()))


def test_sizes_are_only_numbers() -> None:
    size = 10**15
    halves = [Box((0, 0), (size, 1)), Box((0, 1), (size, size - 1))]
    assert tiles(halves, Box((0, 0), (size, size)))
