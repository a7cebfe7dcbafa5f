"""``gradscope scan`` of a run's checkpoints: a folder of them, or several targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from gradscope.cli import options
from gradscope.errors import CheckpointError, UsageError
from gradscope.records import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gradscope.config import Settings

__all__ = ["help_out", "scan_run", "tell_unread"]

_UNREADABLE = CheckpointError.exit_status
_REASONS_SHOWN = 5


def help_out(targets: Sequence[str]) -> None:
    """Under torchrun: where checkpoints are scanned, ranks other than 0 help in here and exit."""
    from gradscope.trajectories.ranks import torchrun_ranks

    ranks = torchrun_ranks()
    if ranks is not None and not ranks.leads and _saved(targets):
        from gradscope.trajectories import help_scan

        help_scan(ranks)
        raise typer.Exit(0)


def scan_run(
    targets: Sequence[str],
    *,
    given: Mapping[str, object],
    trust_pickle: bool,
    select: Iterable[str] | None,
    ignore: Iterable[str] | None,
    settings: Settings,
    progress: Callable[[str, float], None],
) -> Report | None:
    """The report of a run's checkpoints; None where the target is anything else.

    ``given`` are options that only a model can be run with.

    Raises:
        UsageError: there are several targets, and not all of them are checkpoints; or an option
            was given that is not for them.
        CheckpointError: one does not exist, none can be read, or they are not of one model.
    """
    if not _saved(targets):
        return None
    from gradscope.trajectories.ranks import torchrun_ranks

    ranks = torchrun_ranks()
    paths = _paths(targets)
    if len(targets) == len(paths) == 1:
        if ranks is not None:
            ranks.dismiss()
        return None
    options.refuse_without_model(targets[0], **given)
    from gradscope.trajectories import scan_checkpoints

    return scan_checkpoints(
        paths,
        name=targets[0] if len(targets) == 1 else None,
        trust_pickle=trust_pickle,
        select=select,
        ignore=ignore,
        settings=settings,
        ranks=ranks,
        progress=progress,
    )


def tell_unread(report: Report) -> int:
    """Says which checkpoints could not be read; the exit status that this makes, 0 for none."""
    unread = [each for each in report.profile.trajectory if each.unread] if report.profile else []
    for each in unread[:_REASONS_SHOWN]:
        typer.echo(f"gradscope: {each.name} was skipped: {each.unread}", err=True)
    if len(unread) > _REASONS_SHOWN:
        more = len(unread) - _REASONS_SHOWN
        typer.echo(f"gradscope: {more} more were skipped; the report says why.", err=True)
    return _UNREADABLE if unread else 0


def _saved(targets: Sequence[str]) -> bool:
    """Whether the targets have to be checkpoints, and the only one is."""
    from gradscope.loading import is_checkpoint

    return len(targets) > 1 or is_checkpoint(targets[0])


def _paths(targets: Sequence[str]) -> list[Path]:
    from gradscope.checkpoints import checkpoints_in
    from gradscope.loading import is_checkpoint

    if len(targets) > 1:
        for target in targets:
            if not Path(target).exists():
                raise CheckpointError(f"{target} does not exist; give the path of a checkpoint.")
            # A folder of transformers' is a model by itself, and a checkpoint among others.
            if not is_checkpoint(target) and not (Path(target).is_dir() and checkpoints_in(target)):
                raise UsageError(
                    f"{target} is no checkpoint, and only checkpoints can be given together; "
                    "give it by itself."
                )
        return list(map(Path, targets))
    found = checkpoints_in(targets[0]) if Path(targets[0]).is_dir() else []
    return found if len(found) > 1 else [Path(targets[0])]
