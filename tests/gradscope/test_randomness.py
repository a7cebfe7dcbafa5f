"""No generator is left as it was not found, and streams of random numbers do not mix."""

from __future__ import annotations

import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from gradscope.randomness import RandomStream, preserved_randomness, seed_everything


def drawn() -> tuple[float, float, float]:
    """The next number of Python's, NumPy's and torch's generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    """The tests here seed and draw; what runs after them must not depend on it."""
    state = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    yield
    random.setstate(state[0])
    np.random.set_state(state[1])  # noqa: NPY002
    torch.set_rng_state(state[2])


@pytest.mark.parametrize("seed", [None, 0, 7, 2**32 + 5, -3])
def test_what_is_drawn_inside_leaves_no_trace(seed: int | None) -> None:
    seed_everything(11)
    expected = drawn()
    seed_everything(11)
    with preserved_randomness(seed):
        drawn()
    assert drawn() == expected


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt, SystemExit])
def test_no_trace_is_left_by_an_exception(raised: type[BaseException]) -> None:
    seed_everything(11)
    expected = drawn()
    seed_everything(11)

    @preserved_randomness(5)
    def failing() -> None:
        drawn()
        raise raised

    with pytest.raises(raised):
        failing()
    assert drawn() == expected


def test_a_seed_fixes_every_generator_and_another_changes_every_one() -> None:
    def inside(seed: int) -> tuple[float, float, float]:
        with preserved_randomness(seed):
            return drawn()

    assert inside(3) == inside(3)
    assert not set(inside(3)) & set(inside(4))


def test_without_a_seed_the_numbers_go_on() -> None:
    seed_everything(11)
    expected = drawn()
    seed_everything(11)
    with preserved_randomness():
        assert drawn() == expected


def test_the_cached_normal_of_each_generator_is_preserved_too() -> None:
    def normals() -> tuple[float, float, float]:
        return random.gauss(), float(np.random.randn()), float(torch.randn(()))  # noqa: NPY002

    seed_everything(11)
    normals()
    expected = normals()
    seed_everything(11)
    normals()
    with preserved_randomness(1):
        normals()
    assert normals() == expected


# --- Streams ----------------------------------------------------------------------------------


def items(count: int) -> Iterator[tuple[float, float, float]]:
    for _ in range(count):
        yield drawn()


def test_a_stream_gives_the_same_items_whatever_is_drawn_in_between() -> None:
    alone = list(RandomStream(3).draw(items(6)))
    among = []
    for number, item in enumerate(RandomStream(3).draw(items(6))):
        among.append(item)
        for _ in range(number):
            drawn()
        if number == 3:
            seed_everything(99)
    assert among == alone
    assert list(RandomStream(4).draw(items(6))) != alone


def test_a_stream_does_not_disturb_its_consumer() -> None:
    seed_everything(11)
    expected = [drawn() for _ in range(4)]
    seed_everything(11)
    stream = RandomStream(3)
    assert [drawn() for _ in stream.draw(items(4))] == expected


def test_a_stream_goes_on_where_it_stopped() -> None:
    whole = list(RandomStream(3).draw(items(6)))
    stream = RandomStream(3)
    first = list(stream.draw(items(2)))
    with stream.resumed():
        third = drawn()
    rest = list(stream.draw(items(3)))
    assert [*first, third, *rest] == whole


def test_a_shuffling_loader_gives_the_same_order() -> None:
    def order(disturb: bool) -> list[list[int]]:
        loader = torch.utils.data.DataLoader(
            torch.arange(12),  # type: ignore[arg-type]
            batch_size=4,
            shuffle=True,
        )
        seen = []
        for batch in RandomStream(3).draw(loader):
            seen.append(batch.tolist())
            if disturb:
                drawn()
        return seen

    seed_everything(1)
    first = order(disturb=False)
    seed_everything(2)
    assert order(disturb=True) == first


def test_closing_a_stream_early_leaves_no_trace() -> None:
    seed_everything(11)
    expected = [drawn() for _ in range(2)]
    seed_everything(11)
    stream = RandomStream(3)
    drawing = stream.draw(items(6))
    first = next(drawing)
    assert drawn() == expected[0]
    drawing.close()
    assert drawn() == expected[1]
    assert [first, *stream.draw(items(5))] == list(RandomStream(3).draw(items(6)))


@pytest.mark.parametrize("raised", [ValueError, KeyboardInterrupt])
def test_items_that_raise_leave_no_trace(raised: type[BaseException]) -> None:
    def failing() -> Iterator[float]:
        yield drawn()[0]
        drawn()
        raise raised

    seed_everything(11)
    expected = [drawn() for _ in range(2)]
    seed_everything(11)
    drawing = RandomStream(3).draw(failing())
    next(drawing)
    assert drawn() == expected[0]
    with pytest.raises(raised):
        next(drawing)
    assert drawn() == expected[1]
