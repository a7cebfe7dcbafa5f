"""Published rule sets, written anew from what is published, to be scored beside gradscope.

Formulas and thresholds are as published, with their sources; the code is not. ``smdebug examples``
are SageMaker's rules together with those that have no defaults, set as its documentation shows.
"""

from __future__ import annotations

from collections.abc import Callable

from tests.zoo.published import autotrainer, smdebug, torchdiag, torchmortem
from tests.zoo.published.trace import Trace, record

__all__ = ["RULE_SETS", "Trace", "record"]

RULE_SETS: dict[str, Callable[[Trace], list[str]]] = {
    "autotrainer": autotrainer.faults,
    "smdebug": smdebug.faults,
    "smdebug examples": smdebug.faults_by_examples,
    "torchdiag": torchdiag.faults,
    "torchmortem": torchmortem.faults,
}
"""Names of the faults that a published rule set sees in a trace; none for a healthy one."""
