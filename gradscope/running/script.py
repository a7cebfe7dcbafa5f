"""Runs a script or a module in this process as ``python`` would have run it by itself.

It gets a ``__main__`` of its own, from which worker processes start as from the original one, its
``sys.argv`` and its ``sys.path[0]``. When it fails, what is printed names its own frames alone.
"""

from __future__ import annotations

import difflib
import importlib.util
import io
import sys
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType, TracebackType
from typing import Any

from gradscope.errors import UsageError

__all__ = ["Script"]

# What runs the script, and what watches it: its frames lie around and between the script's.
_OURS = ("gradscope.cli", "gradscope.running", "gradscope.monitor", "gradscope.profile")

# Enough for any chain of causes; one may lead back to its start.
_CHAINED = 100


@dataclass(frozen=True, slots=True)
class Script:
    """What is run.

    Attributes:
        target: path of a file, or name of a module.
        arguments: what the script finds in ``sys.argv[1:]``.
        is_module: whether the target is meant as ``python -m`` means it.
    """

    target: str
    arguments: tuple[str, ...] = ()
    is_module: bool = False

    def check(self) -> None:
        """Refuses what cannot be started, before anything is.

        Raises:
            UsageError: there is no such file or module.
        """
        if self.is_module:
            _put_first(str(Path.cwd()))
            _found(self.target)
            return
        path = Path(self.target)
        if path.is_dir():
            raise UsageError(f"{self.target} is a folder; name the script in it that trains.")
        if not path.is_file():
            hint = " For a module write 'gradscope run -m NAME'." if not path.suffix else ""
            names = [each.name for each in path.parent.glob("*.py")]
            if near := difflib.get_close_matches(path.name, names, n=1):
                hint = f" Is {path.parent / near[0]} meant?"
            raise UsageError(f"{self.target} cannot be run: there is no such file.{hint}")

    def run(self) -> None:
        """Runs it to its end; raises what it raises.

        ``sys.modules["__main__"]`` stays the script's: threads and exit handlers still use it.
        """
        main = ModuleType("__main__")
        vars(main).update(__annotations__={}, __builtins__=__builtins__, __cached__=None)
        code = self._prepare_module(main) if self.is_module else self._prepare_file(main)
        sys.modules["__main__"] = main
        exec(code, vars(main))

    def _prepare_file(self, main: ModuleType) -> CodeType:
        # Python shows the absolute path in tracebacks, and leaves sys.argv as it was typed.
        path = str(Path.cwd() / self.target)
        main.__file__ = path
        main.__loader__ = SourceFileLoader("__main__", path)
        sys.argv[:] = [self.target, *self.arguments]
        _put_first(str(Path(path).resolve().parent))
        with io.open_code(path) as file:
            source = file.read()
        return compile(source, path, "exec", dont_inherit=True)

    def _prepare_module(self, main: ModuleType) -> CodeType:
        _put_first(str(Path.cwd()))
        sys.argv[:] = ["-m", *self.arguments]
        spec, code = _found(self.target)
        main.__spec__, main.__loader__ = spec, spec.loader
        vars(main).update(__file__=spec.origin, __cached__=spec.cached, __package__=spec.parent)
        sys.argv[0] = str(spec.origin)
        return code

    def show_own_frames(self, error: BaseException) -> None:
        """Has the traceback that ends the process name the script's frames alone.

        Args:
            error: what ``run`` raised and is raised on; the interpreter prints it, through
                whatever ``sys.excepthook`` the script has set.
        """
        seen: BaseException | None = error
        for _ in range(_CHAINED):
            if seen is None:
                break
            seen.__traceback__ = _without_ours(seen.__traceback__)
            seen = seen.__cause__ or seen.__context__
        shown, hook = error.__traceback__, sys.excepthook

        def show(kind: type[BaseException], value: BaseException, _: Any) -> None:
            # On its way up it has gathered the frames of the command line.
            hook(kind, value.with_traceback(shown) if value is error else value, shown)

        sys.excepthook = show


def _put_first(folder: str) -> None:
    # Where Python was asked not to put a script's folder there, the first entry is another's.
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _found(name: str) -> tuple[ModuleSpec, CodeType]:
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"Module {name} cannot be run: {error}.") from error
    get_code = getattr(spec and spec.loader, "get_code", None)
    code = get_code(spec.name) if spec is not None and get_code is not None else None
    if spec is None or code is None:
        raise UsageError(
            f"Module {name} cannot be run: there is no such module with Python code, or it is a "
            "package without __main__."
        )
    return spec, code


def _without_ours(traceback: TracebackType | None) -> TracebackType | None:
    frames = []
    while traceback is not None:
        if not str(traceback.tb_frame.f_globals.get("__name__")).startswith(_OURS):
            frames.append(traceback)
        traceback = traceback.tb_next
    kept = None
    for each in reversed(frames):
        kept = TracebackType(kept, each.tb_frame, each.tb_lasti, each.tb_lineno)
    return kept
