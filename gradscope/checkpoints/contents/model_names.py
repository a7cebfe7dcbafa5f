"""Takes what wrappers put into the names of parameters off again, and says so."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

__all__ = ["cleaning"]

_ANYWHERE: Final = {
    "_orig_mod": "torch.compile",
    "_fsdp_wrapped_module": "FullyShardedDataParallel",
    "_checkpoint_wrapped_module": "activation checkpointing",
}
"""Parts of names by the wrapper that they come from; any layer may be wrapped."""

_FIRST: Final = "module"
_LIGHTNING: Final = "model"
"""What a LightningModule mostly calls the model that it trains."""

_COUNTER: Final = "n_averaged"
"""A buffer that torch.optim.swa_utils.AveragedModel puts beside the wrapped model."""


def cleaning(
    names: Collection[str], *, is_lightning: bool = False
) -> tuple[Callable[[str], str], dict[str, str]]:
    """What names become without wrappers, and the wrappers by the part that is taken off.

    ``module.`` is taken off where all names begin with it, in checkpoints of Lightning ``model.``,
    too, and the others wherever they stand. Nothing is where two names would become one.
    """
    found = {part for part in _ANYWHERE if any(part in name.split(".") for name in names)}

    def without_parts(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in found)

    rest = [name for name in map(without_parts, names) if name != _COUNTER]
    before: dict[str, str] = {}
    first = {_LIGHTNING: "a LightningModule"} if is_lightning else {}
    for part, wrapper in {**first, _FIRST: "DistributedDataParallel"}.items():
        if rest and all(name.startswith(f"{part}.") for name in rest):
            rest = [name.removeprefix(f"{part}.") for name in rest]
            before[part] = wrapper
    prefix = "".join(f"{part}." for part in before)

    def cleaned(name: str) -> str:
        return (without_parts(name) if found else name).removeprefix(prefix)

    if not found and not before:
        return cleaned, {}
    if len(set(map(cleaned, names))) != len(names):
        return str, {}
    return cleaned, before | {part: how for part, how in _ANYWHERE.items() if part in found}
