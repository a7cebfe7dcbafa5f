"""Trains and profiles cases of the zoo in several processes; profiles can be kept on disk."""

from __future__ import annotations

import copy
import inspect
import math
import os
import pickle
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch

from gradscope.diagnose import diagnose
from gradscope.metric import evaluate
from gradscope.pipeline import scan
from gradscope.records import Finding, Profile, Severity
from gradscope.subject import Subject
from gradscope.trial import Arm, Running
from tests.zoo.published import RULE_SETS, Trace, record
from tests.zoo.subjects import cases
from tests.zoo.subjects.case import Case

__all__ = ["Examined", "examine", "examine_all", "faults_of", "trained"]

KEPT = Path("build/zoo-profiles")
"""Where profiles are kept for another run; git ignores it."""

PUBLISHED_STEPS = 24
"""That the published rule sets see at least: their rules over time say nothing on our eight."""


@dataclass(frozen=True)
class Examined:
    """What was seen of one case.

    Attributes:
        name: of the case.
        profile: as ``gradscope scan`` makes it, of the trained model.
        before, after: the case's metric (its loss without one) before and after its training; NaN
            for a case that is not trained.
        seconds: of the processor, for all of it.
        published: what each published rule set found; the error's text where it crashed.
    """

    name: str
    profile: Profile
    before: float
    after: float
    seconds: float
    published: dict[str, list[str] | str]


def trained(case: Case, seed: int) -> Subject:
    """The case's subject, whose models start as training has left them, as the case asks."""
    subject = case.build()
    if not case.trained:
        return subject
    running = Running(subject, Arm("train"), seed)
    running.advance(case.trained)
    return replace(subject, build_model=lambda: copy.deepcopy(running.model))


def examine(case: Case, *, seed: int = 0, published: bool = False) -> Examined:
    """Builds the case's model, trains it, and scans it; with the published rule sets if asked."""
    start = time.process_time()
    subject = case.build()
    running = Running(subject, Arm("train"), seed)
    before = after = math.nan
    if case.trained:
        before = evaluate(subject, running.model)[1]
        running.advance(case.trained)
        after = evaluate(subject, running.model)[1]
    model = running.model
    profile = scan(
        replace(subject, build_model=lambda: model), steps=case.steps, seed=seed, select=()
    ).profile
    assert profile is not None
    found: dict[str, list[str] | str] = {}
    if published:
        trace: Trace | None = None
        steps = max(case.steps, PUBLISHED_STEPS)
        for name, rule_set in RULE_SETS.items():
            try:
                trace = trace or record(subject, steps, model, seed)
                found[name] = rule_set(trace)
            except Exception as error:  # a crash is a result
                found[name] = f"{type(error).__name__}: {error}"
    return Examined(case.name, profile, before, after, time.process_time() - start, found)


def examine_all(
    names: Iterable[str],
    *,
    jobs: int,
    seed: int = 0,
    published: bool = False,
    keep: bool = False,
    reuse: bool = False,
) -> Iterator[Examined]:
    """Examines cases.

    Args:
        names: of the cases.
        jobs: processes.
        seed: of weights, the order of batches, and all else that is drawn.
        published: whether the published rule sets run, too.
        keep: whether what is seen is written down for another run.
        reuse: whether what an earlier run has written down is taken instead.
    """
    names = list(names)
    kept = {name: _kept(name, seed) for name in names} if reuse else {}
    missing = [
        name
        for name in names
        if (seen := kept.get(name)) is None or (published and not seen.published)
    ]
    yield from (seen for name, seen in kept.items() if seen is not None and name not in missing)
    if not missing:
        return
    if keep:
        KEPT.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs, get_context("spawn"), _on_one_thread) as pool:
        examining = partial(_examine_named, seed=seed, published=published)
        for seen in pool.map(examining, missing):
            if keep:
                _write(seen, _place(seen.name, seed))
            yield seen


def faults_of(profile: Profile) -> list[Finding]:
    """What is found of it, without what only informs."""
    return [finding for finding in diagnose(profile) if finding.severity is not Severity.INFO]


def _on_one_thread() -> None:
    torch.set_num_threads(1)


def _examine_named(name: str, *, seed: int, published: bool) -> Examined:
    try:
        return examine(cases()[name], seed=seed, published=published)
    except Exception as error:
        error.add_note(f"in the case {name}")
        raise


def _place(name: str, seed: int) -> Path:
    """A file for each case, seed, and version of what a profile holds."""
    version = zlib.crc32(Path(inspect.getfile(Profile)).read_bytes())
    return KEPT / f"{name}-{seed}-{version:08x}.pickle"


def _write(seen: Examined, place: Path) -> None:
    """Another run that reads the file at that moment finds the old one."""
    new = place.with_suffix(f".{os.getpid()}")
    new.write_bytes(pickle.dumps(seen))
    new.replace(place)


def _kept(name: str, seed: int) -> Examined | None:
    """What an earlier run has kept."""
    place = _place(name, seed)
    if not place.exists():
        return None
    seen = pickle.loads(place.read_bytes())
    assert isinstance(seen, Examined)
    return seen
