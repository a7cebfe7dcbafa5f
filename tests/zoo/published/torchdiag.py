"""torchdiag 0.1.0: its four checks that judge.

Thresholds and definitions are those of its README and of torchdiag/diagnostics.py, in
github.com/AddyM/torchdiag at commit 740c8fc (the package on PyPI). ``summary``,
``check_dead_neurons``, ``verify_step`` and ``check_gradients`` are single calls and not hooks in
the training; its README makes them before it. Here they are made in the first step of the run and
once more in its last.

Neurons are dimension 1 of an output whatever it holds: of a transformer's the tokens. NaN in a
gradient is neither above nor below a threshold, and so healthy. ``memory_report`` judges no model.
"""

from __future__ import annotations

from tests.zoo.published.trace import Trace

__all__ = ["faults"]

EXPLODING = 100.0
"""Largest magnitude in a parameter's gradient (README; check_gradients)."""

VANISHING = 1e-7
"""The same, below it (README; check_gradients)."""

DEAD = 0.2
"""Share of a layer's neurons at 0 for all samples, at its level WARNING (README;
check_dead_neurons); CRITICAL from 0.5."""


def faults(trace: Trace) -> list[str]:
    found: dict[str, None] = {}
    trained = [parameter for parameter in trace.parameters if parameter.trainable]
    if not trained:
        found["all parameters are frozen"] = None
    for step in sorted({0, trace.steps - 1}) if trace.steps else ():
        gradients = [parameter.gradients[step] for parameter in trained]
        largest = [gradient.largest for gradient in gradients if gradient is not None]
        idle = [output.idle for layer in trace.layers if (output := layer.outputs[step])]
        seen = {
            "exploding": any(value > EXPLODING for value in largest),
            "vanishing": any(value < VANISHING for value in largest),
            "no gradient": any(gradient is None for gradient in gradients),
            "dead neurons": any(share is not None and share > DEAD for share in idle),
            "loss is not finite": not abs(trace.losses[step]) < float("inf"),
            "no parameters changed": bool(trained)
            and not any(parameter.weights[step].change > 0 for parameter in trained),
        }
        found |= {name: None for name, holds in seen.items() if holds}
    return list(found)
