"""Finds where a model's gradient vanishes or explodes, says why, repairs it, proves the repair.

    profile  = gradscope.profile(model, batches, loss)
    findings = gradscope.diagnose(profile)
    plan     = gradscope.prescribe(findings, model)
    patch    = gradscope.apply(model, plan)
    report   = gradscope.fix(subject)
    with gradscope.Monitor(model, optimizer) as monitor:
        ...; optimizer.step(); monitor.step(loss)

Importing gradscope does not import torch; the first use of a function does.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradscope.bias import bias
    from gradscope.config import Settings, find_settings
    from gradscope.diagnose import diagnose
    from gradscope.errors import GradscopeError
    from gradscope.loading import load_subject
    from gradscope.monitor import Monitor
    from gradscope.patch import Patch, apply, replace_derivative
    from gradscope.pipeline import fix, scan
    from gradscope.prescribe import prescribe
    from gradscope.profile import profile
    from gradscope.records import Finding, Findings, Plan, Profile, Report, Verdict
    from gradscope.reports import load_plan, load_report
    from gradscope.schedule import Annealing, Conversion
    from gradscope.store import open_run
    from gradscope.subject import Subject
    from gradscope.verify import verify

__version__ = "0.1.0.dev0"

__all__ = [
    "Annealing",
    "Bias",
    "Conversion",
    "Finding",
    "Findings",
    "GradscopeError",
    "Monitor",
    "Patch",
    "Plan",
    "Profile",
    "Report",
    "Settings",
    "Subject",
    "Verdict",
    "apply",
    "bias",
    "diagnose",
    "find_settings",
    "fix",
    "load_plan",
    "load_report",
    "load_subject",
    "open_run",
    "prescribe",
    "profile",
    "replace_derivative",
    "scan",
    "verify",
]

_HOMES = {
    "Annealing": "schedule",
    "Bias": "records",
    "Conversion": "schedule",
    "Finding": "records",
    "Findings": "records",
    "GradscopeError": "errors",
    "Monitor": "monitor",
    "Patch": "patch",
    "Plan": "records",
    "Profile": "records",
    "Report": "records",
    "Settings": "config",
    "Subject": "subject",
    "Verdict": "records",
    "apply": "patch",
    "bias": "bias",
    "diagnose": "diagnose",
    "find_settings": "config",
    "fix": "pipeline",
    "load_plan": "reports",
    "load_report": "reports",
    "load_subject": "loading",
    "open_run": "store",
    "prescribe": "prescribe",
    "profile": "profile",
    "replace_derivative": "patch",
    "scan": "pipeline",
    "verify": "verify",
}


class _Package(ModuleType):
    """Lets ``gradscope.profile`` be the function although a module of that name holds it.

    The import system sets a loaded submodule as an attribute of its package; here the public
    function of the same name takes that place. ``from gradscope.profile import …`` is untouched.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(value, ModuleType) and _HOMES.get(name) == name:
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'gradscope' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"gradscope.{_HOMES[name]}"), name)
    setattr(sys.modules[__name__], name, value)
    return value


def __dir__() -> list[str]:
    return __all__
