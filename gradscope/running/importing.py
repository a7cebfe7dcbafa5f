"""Says when a script has imported a package, without importing it first.

A script may set environment variables that count only until then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["when_imported"]


def when_imported(name: str, then: Callable[[], None]) -> Callable[[], None]:
    """Calls ``then`` as soon as the top-level package is there; now, if it is already.

    Returns:
        What ends the waiting.
    """
    if name in sys.modules:
        then()
        return lambda: None
    waiting = _Waiting(name, then)
    sys.meta_path.insert(0, waiting)
    return waiting.end


class _Waiting:
    def __init__(self, name: str, then: Callable[[], None]) -> None:
        self._name, self._then = name, then

    def end(self) -> None:
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != self._name:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                self._follow(spec)
                return spec
        return None

    def _follow(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        if loader is None:
            return
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            del loader.exec_module
            execute(module)
            # Not earlier: an import that failed is tried again by some.
            self.end()
            self._then()

        loader.exec_module = exec_module  # type: ignore[method-assign]
