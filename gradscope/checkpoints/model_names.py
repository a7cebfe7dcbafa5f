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
_COUNTER: Final = "n_averaged"
"""A buffer that torch.optim.swa_utils.AveragedModel puts beside the wrapped model."""


def cleaning(names: Collection[str]) -> tuple[Callable[[str], str], dict[str, str]]:
    """What names become without wrappers, and the wrappers by the part that is taken off.

    ``module.`` is taken off where all names begin with it, and the others wherever they stand.
    Nothing is where two names would become one.
    """
    found = {part for part in _ANYWHERE if any(part in name.split(".") for name in names)}

    def without_parts(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in found)

    wrapped = [name for name in map(without_parts, names) if name != _COUNTER]
    everywhere = bool(wrapped) and all(name.startswith(f"{_FIRST}.") for name in wrapped)

    def cleaned(name: str) -> str:
        name = without_parts(name) if found else name
        return name.removeprefix(f"{_FIRST}.") if everywhere else name

    if not found and not everywhere:
        return cleaned, {}
    if len(set(map(cleaned, names))) != len(names):
        return str, {}
    wrappers = {part: wrapper for part, wrapper in _ANYWHERE.items() if part in found}
    return cleaned, {**({_FIRST: "DistributedDataParallel"} if everywhere else {}), **wrappers}
