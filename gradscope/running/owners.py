"""Which models an optimizer trains."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from torch import nn

__all__ = ["models_of", "outermost", "owned_by"]


def models_of(
    parameters: Collection[int], called: Iterable[nn.Module], alive: Iterable[nn.Module]
) -> list[nn.Module]:
    """The modules that own what an optimizer trains.

    The outermost of those that were called, if one owns all of it; else the smallest module alive
    that does, the parts of which are called; else all that were called and own some.

    Args:
        parameters: identities.
        called: modules whose forward has run.
        alive: all that could own them.
    """
    wanted = set(parameters)
    parts = outermost(module for module in called if owned_by(module) & wanted)
    if len(parts) == 1 and owned_by(parts[0]) >= wanted:
        return parts
    whole = wanted.union(*map(owned_by, parts))
    covers = [(module, owned_by(module)) for module in alive]
    fitting = [(module, owned) for module, owned in covers if owned >= whole]
    if fitting:
        smallest = min(fitting, key=lambda each: (len(each[1]), sum(1 for _ in each[0].modules())))
        return [smallest[0]]
    return parts


def outermost(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Those that are no part of another, in their order."""
    unique = list({id(module): module for module in modules}.values())
    inner = {id(part) for module in unique for part in _parts(module)}
    return [module for module in unique if id(module) not in inner]


def _parts(module: nn.Module) -> Iterable[nn.Module]:
    return (part for part in module.modules() if part is not module)


def owned_by(module: nn.Module) -> set[int]:
    """Identities of its parameters."""
    # Not parameters(): models may define one of their own.
    own = (each for part in module.modules() for each in part._parameters.values())
    return {id(each) for each in own if each is not None}
