"""Every error that gradscope raises on purpose, and the exit status each one becomes.

    GradscopeError                  1   never raised itself; catch it to catch them all
    ├── UsageError                  2   what was asked for cannot be meant
    │   ├── ConfigError             2   settings that cannot be read or meant
    │   └── PlanError               2   a plan that does not fit the model, or is not a plan
    ├── PluginError                 3   an installed rule or remedy cannot be used
    └── TargetError                 3   the target could not be loaded or run
        ├── SubjectError            3   a subject file is missing, broken or incomplete
        ├── ModelError              3   the model, its data or its loss failed while it ran
        ├── ReportError             3   a saved report cannot be read
        ├── CheckpointError         3   a checkpoint cannot be read, or must not be
        └── StoreError              3   the store of a training run cannot be read

A message is one sentence or two: it names the thing, the value, and the next step.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "CheckpointError",
    "ConfigError",
    "GradscopeError",
    "ModelError",
    "PlanError",
    "PluginError",
    "ReportError",
    "StoreError",
    "SubjectError",
    "TargetError",
    "UsageError",
]


class GradscopeError(Exception):
    """Base of all errors raised on purpose; ``exit_status`` is what the command line exits with."""

    exit_status: ClassVar[int] = 1


class UsageError(GradscopeError):
    """What was asked for cannot be meant: an unknown name, a value out of range."""

    exit_status = 2


class ConfigError(UsageError):
    """Settings that cannot be read, or that name or hold what cannot be meant."""


class PlanError(UsageError):
    """A plan that is no plan, or that does not fit the model it is applied to."""


class PluginError(GradscopeError):
    """A rule or remedy of an installed package cannot be loaded, or gets in another's way."""

    exit_status = 3


class TargetError(GradscopeError):
    """The target could not be loaded or run."""

    exit_status = 3


class SubjectError(TargetError):
    """A subject file is missing, broken or incomplete."""


class ModelError(TargetError):
    """The model, its data or its loss failed while it ran."""


class ReportError(TargetError):
    """A saved report or plan cannot be read."""


class CheckpointError(TargetError):
    """A checkpoint cannot be read, or would run code that nobody has trusted."""


class StoreError(TargetError):
    """The store of a training run cannot be read."""
