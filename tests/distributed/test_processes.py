"""A profile that several processes take together is the profile one process takes of all samples.

The processes are real ones, started by torchrun, that talk through gloo.
"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch.distributed as dist

from gradscope.records import Profile

pytestmark = pytest.mark.skipif(
    not dist.is_available() or sys.platform == "win32", reason="torch has no gloo here"
)

Torchrun = Callable[[int, tuple[str, ...]], dict[str, dict[str, Any]]]

# Sums over samples are taken in another order than on one process: rounding, and no more.
FLOAT64 = 1e-5
# Of single precision that is seen in its gradients, which are what is left of larger terms.
FLOAT32 = 1e-3

# Seconds; see what a scene in worker.py makes a rank wait that waits for the other.
WAITED = 2

# Across processes the mean of an element is taken off as a difference of squares: where samples
# differ by less than this share of their size, rounding shows.
VARIATION = 1e-8

# On several processes the rows that a router picks for an expert are in no known order among all.
UNORDERED = (".index", ".correlation", ".effective_rank")

# No gradient comes from nothing but rounding where the exact one is zero.
ZERO = 1e-15

ON_ANY = (
    "ddp-mlp",
    "ddp-cnn",
    "ddp-sgd",
    "ddp-experts",
    "fsdp",
    "fsdp-attention",
    "fsdp-adam",
    "tp",
    "tp-attention",
    "tp-adam",
    "tp-sequence",
)
ON_TWO = (
    "ddp-attention",
    "ddp-further-batches",
    "ddp-float32",
    "ddp-adam",
    "ddp-checkpointed",
    "ddp-collapsed",
    "ddp-recurrent",
    "ddp-twins",
    "ddp-in-training",
    "fsdp-further-batches",
    "fsdp-in-training",
    "fsdp-twins",
    "tp-twins",
    "tp-nan",
)
ON_FOUR = ("fsdp-tp", "fsdp-tp-attention", "fsdp-tp-twins")
SCENES = ("plain-on-rank-0", "one-sample-on-rank-1", "raised-on-rank-1", "raised-by-the-loss")
STARTED = {2: (*ON_ANY, *ON_TWO, *SCENES), 4: (*ON_ANY, *ON_FOUR)}
COMPARED = [(2, name) for name in (*ON_ANY, *ON_TWO)] + [(4, name) for name in STARTED[4]]


class Ranks:
    """What was written about one case."""

    def __init__(self, torchrun: Torchrun, ranks: int, name: str) -> None:
        results = torchrun(ranks, STARTED[ranks])
        self._output = results["start"]["output"]
        names = range(ranks) if name in SCENES else [*range(ranks), "reference"]
        self._found = {who: self._of(results, name, who) for who in names}

    def _of(self, results: dict[str, dict[str, Any]], name: str, who: int | str) -> dict[str, Any]:
        found = results.get(f"{name}.{who}")
        if found is None:
            status = results["start"]["status"]
            pytest.fail(
                f"Rank {who} wrote nothing of {name}; torchrun: {status}\n{self._output[-8000:]}"
            )
        if "traceback" in found:
            pytest.fail(f"{name}, rank {who}:\n{found['traceback']}")
        return found

    def each(self, what: str) -> list[Any]:
        """What each rank wrote."""
        return [found[what] for who, found in self._found.items() if who != "reference"]

    @property
    def reference(self) -> Profile:
        """The profile of one process."""
        profile: Profile = self._found["reference"]["profile"]
        return profile


def values(thing: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of nested records and sequences, by its path."""
    if dataclasses.is_dataclass(thing) and not isinstance(thing, type):
        for field in dataclasses.fields(thing):
            yield from values(getattr(thing, field.name), f"{path}.{field.name}".lstrip("."))
    elif isinstance(thing, tuple):
        yield f"{path} length", len(thing)
        for number, each in enumerate(thing):
            key = getattr(each, "name", number)
            yield from values(each, f"{path}[{key}]")
    else:
        yield path, thing


def off(one: Any, other: Any) -> float:
    """The relative difference of two numbers; infinite for anything else that differs."""
    if not (isinstance(one, float) and isinstance(other, float)):
        return 0.0 if one == other else math.inf
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    largest = max(abs(one), abs(other))
    if not math.isfinite(largest):
        return math.inf
    return 0.0 if largest < ZERO else abs(one - other) / largest


def differences(profile: Profile, reference: Profile) -> dict[str, float]:
    """Relative difference of every value of two profiles, but for how many processes took part."""
    one = dict(values(dataclasses.replace(profile, processes=1)))
    other = dict(values(reference))
    absent = object()
    found = {}
    for path in one | other:
        pair = one.get(path, absent), other.get(path, absent)
        if path.startswith("sites[experts.") and any(what in path for what in UNORDERED):
            continue
        if path.startswith("skipped"):
            continue
        if ".variation[" in path and abs(pair[0] - pair[1]) < VARIATION:
            continue
        found[path] = off(*pair)
    return found


def told(profile: Profile, reference: Profile, paths: list[str]) -> str:
    """The values that differ, for the message."""
    one, other = dict(values(profile)), dict(values(reference))
    lines = [f"{path}: {one.get(path, '-')} instead of {other.get(path, '-')}" for path in paths]
    return "\n".join(lines)


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_the_profile_is_that_of_one_process_over_all_samples(
    torchrun: Torchrun,
    ranks: int,
    name: str,
    record_property: Callable[[str, object], None],
) -> None:
    found = Ranks(torchrun, ranks, name)
    profile, reference = found.each("profile")[0], found.reference
    differing = differences(profile, reference)
    worst = max(differing, key=lambda path: differing[path])
    record_property(
        "measured",
        f"{name}, {ranks} processes: {len(differing)} values, largest relative difference "
        f"{differing[worst]:.1e} ({worst})",
    )
    limit = FLOAT32 if name == "ddp-float32" else FLOAT64
    wrong = [path for path, difference in differing.items() if not difference < limit]
    assert not wrong, told(profile, reference, wrong)
    assert profile.processes == ranks


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_all_ranks_return_the_same_profile(torchrun: Torchrun, ranks: int, name: str) -> None:
    # By their representations: NaN is not equal to itself.
    assert len({repr(profile) for profile in Ranks(torchrun, ranks, name).each("profile")}) == 1


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_nothing_is_left_on_the_model(torchrun: Torchrun, ranks: int, name: str) -> None:
    assert Ranks(torchrun, ranks, name).each("changed") == [[]] * ranks


@pytest.mark.parametrize(("ranks", "name"), COMPARED)
def test_the_model_trains_with_the_gradients_that_the_profile_tells(
    torchrun: Torchrun, ranks: int, name: str
) -> None:
    found = Ranks(torchrun, ranks, name)
    first = [each.gradient_norm[0] for each in found.reference.parameters]
    limit = FLOAT32 if name == "ddp-float32" else FLOAT64
    for trained in found.each("trained"):
        if name.startswith("tp"):
            # A plain parameter next to those that are split: each rank has all of its gradient.
            assert len(trained) == len(first)
        for one, other in zip(trained, first, strict=True):
            assert off(one, other) < limit


def test_a_plain_model_is_one_ranks_own(torchrun: Torchrun) -> None:
    results = torchrun(2, STARTED[2])
    profile = Ranks(torchrun, 2, "plain-on-rank-0")._found[0]["profile"]
    reference = results["ddp-mlp.reference"]["profile"]
    assert profile.processes == 1
    assert repr(profile) == repr(reference)


def test_a_batch_that_one_rank_cannot_divide_keeps_none_waiting(torchrun: Torchrun) -> None:
    found = Ranks(torchrun, 2, "one-sample-on-rank-1")
    for profile in found.each("profile"):
        assert profile.gradient_noise is None
        assert "gradient noise" in [each.what for each in profile.skipped]
    assert max(found.each("took")) < WAITED


def test_a_rank_that_fails_says_so_and_leaves_its_model_as_it_was(torchrun: Torchrun) -> None:
    found = Ranks(torchrun, 2, "raised-on-rank-1")
    assert found.each("known")[1]
    assert "no second pass on this rank" in found.each("error")[1]
    # The other one waits for it in vain, which is an error of its own, and ends as cleanly.
    assert found.each("error")[0]
    assert found.each("changed") == [[], []]


def test_a_sharded_model_whose_loss_fails_is_sharded_again(torchrun: Torchrun) -> None:
    found = Ranks(torchrun, 2, "raised-by-the-loss")
    assert all("no loss" in error for error in found.each("error"))
    assert found.each("changed") == [[], []]
