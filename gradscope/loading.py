"""Finds what a user names on the command line: subject files, modules, functions in them."""

from __future__ import annotations

import difflib
import glob
import hashlib
import importlib
import importlib.util
import inspect
import sys
import traceback
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from gradscope.checked import call, one_line
from gradscope.errors import SubjectError
from gradscope.exported import is_program, load_program
from gradscope.huggingface import is_model_folder, load_folder
from gradscope.subject import Subject, own_loss_step, step_from_loss

__all__ = [
    "BY_PATH",
    "checked_model",
    "is_checkpoint",
    "load_callable",
    "load_model",
    "load_module",
    "load_subject",
]

_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pt2"}
"""By which a file that does not exist is known to be meant as a checkpoint."""

BY_PATH = "gradscope_subject_"
"""How the names of modules begin that were loaded by a file's path."""

_CONTRACT = "build_model(), build_data() and loss(output, batch), or step(model, batch)"


def load_subject(spec: str, model: str | None = None) -> Subject:
    """Loads a subject from ``path/to/file.py``, ``package.module`` or a Hugging Face folder.

    With ``:name`` behind a file or module, ``name`` is called in place of ``build_model``. Data
    and loss may be missing: ``build_data`` is None, and ``step`` takes the loss that the model's
    output carries, or raises SubjectError where it carries none.

    Args:
        spec: the file or module, or the folder.
        model: another file or module, to build the model with in place of the first one's own.

    Raises:
        SubjectError: what is named is missing, cannot be read, or lacks a function.
    """
    if is_model_folder(spec):
        if model is not None:
            raise SubjectError(f"{spec} is a model by itself; leave --model out.")
        return load_folder(spec)
    module, name = load_module(spec)
    factory = name or "build_model"
    if model is None:
        build_model, where = _function(module, factory, spec), f"{factory}() in {spec}"
    else:
        build_model, where = load_callable(model, "build_model"), model
    if build_model is None:
        raise SubjectError(f"{spec} has no {factory}(); {_without_factory(module, spec)}")
    build_data = _function(module, "build_data", spec)
    loss, step = _function(module, "loss", spec), _function(module, "step", spec)
    if step is None and loss is not None:
        step = step_from_loss(loss)
    return Subject(
        name=spec,
        build_model=checked_model(build_model, where),
        build_data=build_data,
        step=step or own_loss_step(spec),
        build_optimizer=_function(module, "build_optimizer", spec),
        evaluate=_function(module, "evaluate", spec),
        higher_is_better=_constant(module, "HIGHER_IS_BETTER", spec),
        kind="subject file" if name is None else "model factory",
    )


def load_model(spec: str, *, trust_pickle: bool = False) -> tuple[Subject, str]:
    """What builds a model that a checkpoint is to be put into, and how messages name it.

    Args:
        spec: a subject file or module, with ``:name`` for another function than ``build_model``; a
            Hugging Face folder, whose config builds the model; or a ``.pt2``, whose graph it is.
        trust_pickle: whether code that comes with a ``.pt2`` may run.

    Raises:
        CheckpointError: the ``.pt2`` is not trusted, or damaged.
        SubjectError: what is named is missing, cannot be read, or lacks a function.
    """
    if is_model_folder(spec):
        return load_folder(spec, with_weights=False), f"the model of {Path(spec) / 'config.json'}"
    if is_program(spec):
        return load_program(spec, trusted=trust_pickle), f"the graph of {spec}"
    return load_subject(spec), spec if _has_name(spec) else f"{spec}:build_model"


def is_checkpoint(spec: str) -> bool:
    """Whether a target is a file or folder of saved weights, and no Python and no model folder."""
    path = Path(spec)
    if spec and path.is_dir():
        return not is_model_folder(spec)
    return (path.is_file() and path.suffix != ".py") or path.suffix in _SUFFIXES


def load_callable(spec: str, default: str) -> Callable[..., Any]:
    """The function that ``file.py:name`` or ``package.module:name`` names, or ``default`` in it.

    Raises:
        SubjectError: there is no such file, module or function.
    """
    module, name = load_module(spec)
    function = _function(module, name or default, spec)
    if function is None:
        raise SubjectError(f"{spec} has no function {name or default}().")
    return function


def _without_factory(module: ModuleType, spec: str) -> str:
    """What to do about a file that builds no model: begin with a class in it, if there is one."""
    models = [
        name
        for name, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, nn.Module)
        and value.__module__ == module.__name__
    ]
    if models and not _has_name(spec):
        return (
            f"it has the model {models[-1]}: 'gradscope init {spec}:{models[-1]}' writes a subject "
            f"file for it, which defines {_CONTRACT}."
        )
    return (
        f"a subject file defines {_CONTRACT}. 'gradscope init' writes one to begin with; another "
        "factory is named with FILE.py:NAME."
    )


def checked_model(build: Callable[[], Any], where: str) -> Callable[[], nn.Module]:
    """The factory ``where`` as one that returns a model, and a fresh one each time.

    It raises SubjectError where it does not, and ModelError where it fails.
    """
    last: weakref.ref[nn.Module] | None = None

    def build_model() -> nn.Module:
        nonlocal last
        _refuse_arguments(build, where)
        model = call(build, where=where)
        if isinstance(model, type) and issubclass(model, nn.Module):
            raise SubjectError(
                f"{where} returned the class {model.__name__}, not a model; return "
                f"{model.__name__}()."
            )
        if not isinstance(model, nn.Module):
            raise SubjectError(
                f"{where} returned a {type(model).__name__}; it must return a torch.nn.Module."
            )
        if last is not None and last() is model:
            raise SubjectError(
                f"{where} returned the same {type(model).__name__} twice; build it inside the "
                "function, so that each training begins with fresh weights."
            )
        last = weakref.ref(model)
        return model

    return build_model


def _refuse_arguments(build: Callable[[], Any], where: str) -> None:
    """Refuses a factory that wants what nobody could give.

    Raises:
        SubjectError: it has parameters without a default.
    """
    try:
        parameters = inspect.signature(build).parameters.values()
    except (TypeError, ValueError):
        return
    wanted = [
        each.name
        for each in parameters
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if wanted:
        raise SubjectError(
            f"{where} needs {', '.join(wanted)}, and it is called without arguments; give "
            "defaults, or name a function that calls it."
        )


def _function(module: ModuleType, name: str, spec: str) -> Callable[..., Any] | None:
    value = getattr(module, name, None)
    if value is not None and not callable(value):
        raise SubjectError(f"{name} in {spec} is a {type(value).__name__}, not a function.")
    return value


def _constant(module: ModuleType, name: str, spec: str) -> bool | None:
    value = getattr(module, name, None)
    if value is not None and not isinstance(value, bool):
        raise SubjectError(f"{name} in {spec} is {value!r}; it must be True or False.")
    return value


def load_module(spec: str) -> tuple[ModuleType, str | None]:
    """The module that a spec names, and the name behind its colon.

    Raises:
        SubjectError: there is none, or it cannot be imported.
    """
    location, _, name = spec.rpartition(":") if _has_name(spec) else (spec, "", "")
    if location.endswith(".py") or "/" in location or Path(location).exists():
        return _load_file(Path(location), spec), name or None
    _importable_from(Path.cwd())
    try:
        return importlib.import_module(location), name or None
    except ModuleNotFoundError as error:
        if error.name and (location == error.name or location.startswith(error.name + ".")):
            raise SubjectError(
                f"{spec} is neither a file nor a module that can be imported from "
                f"{Path.cwd()}; {_instead_of_module(location)}"
            ) from error
        raise _import_failed(spec, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(spec, error) from error


def _has_name(spec: str) -> bool:
    head, colon, tail = spec.rpartition(":")
    return bool(colon) and len(head) > 1 and tail.isidentifier()


def _load_file(path: Path, spec: str) -> ModuleType:
    if not path.exists():
        raise SubjectError(f"{path} does not exist; {_instead_of_file(path)}")
    if path.is_dir():
        raise SubjectError(f"{path} is a folder; name a Python file in it.")
    if path.suffix != ".py":
        raise SubjectError(
            f"{path} is not a Python file; a subject file ends in .py and defines {_CONTRACT}."
        )
    # A name of its own for each file keeps two files called model.py apart, and lets classes
    # defined in it be pickled for as long as this process lives.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"{BY_PATH}{path.stem}_{digest}"
    module_spec = importlib.util.spec_from_file_location(name, path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    _importable_from(path.resolve().parent)
    sys.modules[name] = module
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _import_failed(spec, error, path) from error
    return module


def _instead_of_file(path: Path) -> str:
    """Where a file that does not exist may be: under a similar name, or in another folder."""
    beside = path.parent if path.parent.is_dir() else Path()
    names = [each.name for each in beside.glob("*.py")]
    near = difflib.get_close_matches(path.name, names, n=1)
    if near:
        return f"is {beside / near[0]} meant?"
    below = next(Path().glob(f"*/{glob.escape(path.name)}"), None)
    if below is not None:
        return f"is {below} meant?"
    return f"check the path (working directory {Path.cwd()})."


def _instead_of_module(name: str) -> str:
    """Where a module that cannot be imported may be: in a file below the working directory."""
    file = f"{glob.escape(name.replace('.', '/'))}.py"
    found = next(Path().glob(f"*/{file}"), None)
    if found is not None:
        return f"{found} is a file: give it as a path, or go to the folder {found.parts[0]} first."
    return "check the spelling or the working directory."


def _importable_from(folder: Path) -> None:
    """What lies in ``folder`` can be imported, also later, as if Python had been started on it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _package(path: Path) -> tuple[Path, str] | None:
    """The folder that a file's package lies in, and the module's name from there."""
    parts, folder = [path.stem], path.resolve().parent
    while (folder / "__init__.py").exists():
        parts.append(folder.name)
        folder = folder.parent
    return (folder, ".".join(reversed(parts))) if len(parts) > 1 else None


def _import_failed(spec: str, error: BaseException, path: Path | None = None) -> SubjectError:
    """Says what went wrong and at which line, of the user's own file where it is in the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [
        frame
        for frame in frames
        if path is not None and Path(frame.filename).resolve() == path.resolve()
    ]
    if isinstance(error, SyntaxError):
        line = f" (line {error.lineno})" if error.lineno else ""
        what = f"{type(error).__name__}: {error.msg}"
    else:
        frame = (own or frames)[-1]
        line = f" ({Path(frame.filename).name}, line {frame.lineno})"
        what = one_line(error)
    if isinstance(error, SystemExit):
        line += (
            "; a subject file must not exit or read arguments when it is imported: put that under "
            "if __name__ == '__main__'"
        )
    if path is not None and "relative import" in str(error):
        package = _package(path)
        line += (
            f"; it is part of a package: go to {package[0]} and give the module {package[1]}"
            if package
            else "; write its imports without the leading dot"
        )
    return SubjectError(f"{spec} could not be imported: {what}{line}.")
