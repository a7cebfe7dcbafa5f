"""Records made by hand: a healthy profile, in which a test changes what its rule looks at."""

from __future__ import annotations

from typing import Any

from gradscope.records import ParameterProfile, Profile, Role, SiteProfile, Source

STEPS = 8


def site(name: str = "1", index: int = 0, *, steps: int = STEPS, **changed: Any) -> SiteProfile:
    """A ReLU with 32 units on 64 samples at which nothing is wrong."""
    entries: dict[str, Any] = {
        "name": name,
        "role": Role.ACTIVATION,
        "operator": "ReLU",
        "index": index,
        "shape": (64, 32),
        "unit_axis": 1,
        "is_output": False,
        "forward_rms": (1.0,) * steps,
        "variation": (0.5,) * steps,
        "correlation": (0.3,) * steps,
        "backward_rms": (1e-2,) * steps,
        "forward_nonfinite": (0,) * steps,
        "backward_nonfinite": (0,) * steps,
        "observations": 64 * 40,
        "dead": 0.0,
        "always_positive": 0.0,
        "saturated": None,
        "depth": index,
        "forward_peak": (3.0,) * steps,
        "zeros": 0.5,
        "dormant": 0.0,
        "effective_rank": 12.0,
    }
    return SiteProfile(**(entries | changed))


def layer(name: str = "0", index: int = 0, *, steps: int = STEPS, **changed: Any) -> SiteProfile:
    """A linear layer with 32 units at which nothing is wrong."""
    entries: dict[str, Any] = {
        "role": Role.LAYER,
        "operator": "Linear",
        "dead": None,
        "always_positive": None,
        "dormant": None,
        "zeros": 0.0,
    }
    return site(name, index, steps=steps, **(entries | changed))


def parameter(name: str = "0.weight", *, steps: int = STEPS, **changed: Any) -> ParameterProfile:
    """The weight of a linear layer from 32 to 32, trained by SGD, at which nothing is wrong."""
    entries: dict[str, Any] = {
        "name": name,
        "shape": (32, 32),
        "trainable": True,
        "reached": True,
        "weight_norm": 4.0,
        "nonfinite": 0,
        "gradient_norm": (0.1,) * steps,
        "update_ratio": (1e-3,) * steps,
    }
    return ParameterProfile(**(entries | changed))


def profile(*sites: SiteProfile, steps: int = STEPS, **changed: Any) -> Profile:
    """Of a model with those sites (one layer, one ReLU and an output by default), all healthy."""
    entries: dict[str, Any] = {
        "source": Source.MEASURED,
        "batch_size": 64,
        "losses": tuple(2.3 - 0.01 * step for step in range(steps)),
        "input_variation": (0.8,) * steps,
        "sites": sites
        or (
            layer("0", 0, steps=steps),
            site("1", 1, steps=steps),
            layer("2", 2, steps=steps, is_output=True),
        ),
        "parameters": (parameter(steps=steps), parameter("2.weight", steps=steps)),
        "optimizer": "SGD",
        "epsilon": None,
        "seed": 0,
    }
    return Profile(**(entries | changed))
