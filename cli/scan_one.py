"""``gradscope scan`` of one target: run where there is a model to run, else read."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gradscope.cli import options
from gradscope.records import Report, Skipped

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradscope.config import Settings

__all__ = ["scan_one"]


def scan_one(
    target: str,
    *,
    model: str | None,
    data: str | None,
    loss: str | None,
    input_shape: str | None,
    device: str | None,
    steps: int,
    seed: int,
    trust_pickle: bool,
    select: Iterable[str] | None,
    ignore: Iterable[str] | None,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> Report:
    """The report of a subject, of a checkpoint in its model, or of a checkpoint alone.

    Raises:
        TargetError: it cannot be loaded or run.
        UsageError: options contradict each other or the target.
    """
    from gradscope.huggingface import CannotBuild, has_weights
    from gradscope.loading import is_checkpoint
    from gradscope.pipeline import scan, scan_checkpoint

    given = {"data": data, "loss": loss, "input_shape": input_shape, "device": device}

    def read() -> Report:
        return scan_checkpoint(
            target,
            trust_pickle=trust_pickle,
            select=select,
            ignore=ignore,
            settings=settings,
            progress=progress,
        )

    if model is None and is_checkpoint(target):
        options.refuse_without_model(target, **given)
        return read()
    try:
        subject = options.subject_of(target, model=model, trust_pickle=trust_pickle, **given)
    except CannotBuild as error:
        if model is not None or any(given.values()) or not has_weights(target):
            raise
        report = read()
        return replace(report, skipped=(Skipped("the run", error.reason), *report.skipped))
    return scan(
        subject,
        steps=steps,
        seed=seed,
        select=select,
        ignore=ignore,
        settings=settings,
        progress=progress,
    )
