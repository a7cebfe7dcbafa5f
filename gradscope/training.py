"""What a monitor keeps of a training run: plain records, no torch.

Of a sampled step it keeps one row of numbers; a layout says which number is which. Layouts change
when a run adds layers or parameters, rows do not refer to any other than their own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gradscope.severity import Severity

__all__ = [
    "PARAMETER_MEASURES",
    "SITE_MEASURES",
    "STEP_MEASURES",
    "Alert",
    "Layout",
    "RunInfo",
    "WatchedParameter",
    "WatchedSite",
]

STEP_MEASURES = ("loss", "gradient_norm", "used_norm", "learning_rate", "seconds")
"""Of a step as a whole.

loss: as given to the monitor; NaN where it was given none. gradient_norm: Euclidean norm of the
gradient of all parameters together, loss scale undone, before clipping. used_norm: of the gradient
that the update was made from, after clipping. learning_rate: of the first parameter group.
seconds: duration of a step that is not sampled, at that time.
"""

SITE_MEASURES = ("forward_rms", "backward_rms", "dead", "always_positive", "saturated")
"""Of each site, as in ``SiteProfile``.

The last three are shares of units, over the observations of several samples, as many as it takes to
tell; NaN where the operator has no dead zone, or no bounds.
"""

PARAMETER_MEASURES = ("gradient_norm", "weight_norm", "update_norm")
"""Euclidean norms of each parameter: of the gradient that its update was made from (NaN where none
arrived), of its elements before the update, of the update (NaN where it was not measured)."""


@dataclass(frozen=True, slots=True)
class WatchedSite:
    """A site; the attributes are those of ``SiteProfile``."""

    name: str
    role: str
    operator: str
    shape: tuple[int, ...]
    unit_axis: int
    is_output: bool = False
    depth: int = 0
    branch: bool = False
    joins: str | None = None
    dtype: str = "float32"
    dead_zone: bool = False
    bounded: bool = False

    @property
    def units(self) -> int:
        return self.shape[self.unit_axis]

    @property
    def counted_units(self) -> int:
        """Units of which it is counted whether they are dead or saturated."""
        return self.units if self.dead_zone or self.bounded else 0


@dataclass(frozen=True, slots=True)
class WatchedParameter:
    """A parameter; the attributes are those of ``ParameterProfile``."""

    name: str
    shape: tuple[int, ...]
    trainable: bool = True
    reached: bool = False


@dataclass(frozen=True, slots=True)
class Layout:
    """Which number of a row is which: those of the step, then of each site, then of each parameter.

    Attributes:
        sites: in execution order.
        parameters: in the model's order.
    """

    sites: tuple[WatchedSite, ...]
    parameters: tuple[WatchedParameter, ...]

    @property
    def first_parameter(self) -> int:
        """Where the numbers of parameters begin."""
        return len(STEP_MEASURES) + len(self.sites) * len(SITE_MEASURES)

    @property
    def columns(self) -> int:
        """How many numbers a row has."""
        return self.first_parameter + len(self.parameters) * len(PARAMETER_MEASURES)

    def site_column(self, site: int, measure: str) -> int:
        """Where a measure of the site of that index stands."""
        width = len(SITE_MEASURES)
        return len(STEP_MEASURES) + site * width + SITE_MEASURES.index(measure)

    def parameter_column(self, parameter: int, measure: str) -> int:
        """Where a measure of the parameter of that index stands."""
        width = len(PARAMETER_MEASURES)
        return self.first_parameter + parameter * width + PARAMETER_MEASURES.index(measure)


@dataclass(frozen=True, slots=True)
class Alert:
    """A finding while training: it opened at a step, and may have closed at a later one.

    Attributes:
        code, name, severity, sites, message: as of the finding.
        values: of its evidence, by measure.
        cause: code of the finding that explains it, or None.
        step: where it opened.
        closed: where it was no longer found; None while it stands.
        limits: that its values were held against, by measure; those that have one.
        remedies: names of the remedies that treat it.
    """

    code: str
    name: str
    severity: Severity
    sites: tuple[str, ...]
    message: str
    values: dict[str, float]
    cause: str | None
    step: int
    closed: int | None = None
    limits: dict[str, float] = field(default_factory=dict)
    remedies: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a run is, as it is told when it starts.

    Attributes:
        model: class name.
        parameters: how many elements its parameters have.
        optimizers: class names.
        epsilon: the first optimizer's, where it divides by gradient magnitudes, else None.
        processes: how many take part.
        every: steps between samples, as asked for.
        environment: as of a report.
        command: how the process was started.
    """

    model: str
    parameters: int
    optimizers: tuple[str, ...] = ()
    epsilon: float | None = None
    processes: int = 1
    every: int = 100
    environment: dict[str, str] = field(default_factory=dict)
    command: tuple[str, ...] = ()
