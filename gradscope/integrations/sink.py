"""What all sinks do: choose a few numbers of a sample, and never fail."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

import numpy as np
import torch

from gradscope.errors import UsageError
from gradscope.training import SITE_MEASURES, STEP_MEASURES, Alert, Layout

if TYPE_CHECKING:
    from gradscope.monitor import Sampled

__all__ = ["Sink", "told"]

_STEP = ("gradient_norm", "used_norm", "learning_rate")


class Sink:
    """Takes samples and findings of a monitor to somewhere else.

    It is called with a sample; ``finding`` is called with a finding. What fails in it is warned of
    once, and nothing more is taken. Where several processes train, that of rank 0 alone takes
    anything: all of them are told the same.
    """

    def __init__(
        self, measures: Sequence[str] = ("backward_rms", "dead"), most_sites: int = 40
    ) -> None:
        """Chooses what is told of sites; of the step, all is told that a dashboard has use for.

        Args:
            measures: names in ``SITE_MEASURES``.
            most_sites: of more, as many are taken, evenly spaced, the first and the last included.

        Raises:
            UsageError: There is no such measure, or the number is below 1.
        """
        if unknown := [name for name in measures if name not in SITE_MEASURES]:
            raise UsageError(
                f"no measure of sites is called {unknown[0]!r}: "
                f"there are {', '.join(SITE_MEASURES)}"
            )
        if most_sites < 1:
            raise UsageError(f"most_sites is {most_sites}; it has to be 1 or more")
        self.measures, self.most_sites = tuple(measures), most_sites
        self._layout: Layout | None = None
        self._columns: dict[str, int] = {}
        self._failed = False

    def __call__(self, sampled: Sampled) -> None:
        """Takes a sample."""
        self._guarded(lambda: self.take(sampled))

    def finding(self, alert: Alert) -> None:
        """Takes a finding that opened or closed."""
        self._guarded(lambda: self.take_finding(alert))

    def close(self) -> None:
        """Sees that all that was taken arrives, and closes what the sink has opened itself."""
        self._guarded(self.finish)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        self.close()

    def take(self, sampled: Sampled) -> None:
        raise NotImplementedError

    def take_finding(self, alert: Alert) -> None:
        raise NotImplementedError

    def finish(self) -> None:
        raise NotImplementedError

    def scalars(self, sampled: Sampled) -> dict[str, float]:
        """Numbers by name: ``gradscope/loss``, ``gradscope/backward_rms/<site>`` and so on.

        The loss is the mean since the sample before. What was not measured is left out.
        """
        if sampled.layout is not self._layout:
            self._layout, self._columns = sampled.layout, self._chosen(sampled.layout)
        row = sampled.row
        numbers = {name: float(row[column]) for name, column in self._columns.items()}
        given = sampled.losses[~np.isnan(sampled.losses)]
        if given.size:
            numbers["gradscope/loss"] = float(given.mean(dtype=np.float64))
        return {name: value for name, value in numbers.items() if not math.isnan(value)}

    def _chosen(self, layout: Layout) -> dict[str, int]:
        columns = {f"gradscope/{name}": STEP_MEASURES.index(name) for name in _STEP}
        number = min(self.most_sites, len(layout.sites))
        chosen = np.linspace(0, len(layout.sites) - 1, number).round().astype(int).tolist()
        for measure in self.measures:
            for site in chosen:
                name = f"gradscope/{measure}/{layout.sites[site].name}"
                columns[name] = layout.site_column(site, measure)
        return columns

    def _guarded(self, act: Callable[[], None]) -> None:
        if self._failed or _rank() != 0:
            return
        try:
            act()
        except Exception as error:
            self._failed = True
            warnings.warn(
                f"gradscope: {type(self).__name__} takes nothing more: "
                f"{type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=3,
            )


def _rank() -> int:
    distributed = torch.distributed
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return 0


def told(alert: Alert) -> str:
    """A finding as a line of text."""
    where = f" ({', '.join(alert.sites)})" if alert.sites else ""
    until = "" if alert.closed is None else f" to {alert.closed}"
    return (
        f"{alert.severity.value} {alert.code} {alert.name}{where}, "
        f"from step {alert.step}{until}: {alert.message}"
    )
