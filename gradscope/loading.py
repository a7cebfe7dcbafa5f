"""Finds what a user names on the command line: subject files, modules, functions in them."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
import traceback
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

__all__ = ["is_checkpoint", "load_callable", "load_model", "load_subject"]

_SUFFIXES = {".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pt2"}
"""By which a file that does not exist is known to be meant as a checkpoint."""

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
    module, name = _load_module(spec)
    factory = name or "build_model"
    if model is None:
        build_model, where = _function(module, factory, spec), f"{factory}() in {spec}"
    else:
        build_model, where = load_callable(model, "build_model"), model
    if build_model is None:
        raise SubjectError(
            f"{spec} has no {factory}(); a subject file defines {_CONTRACT}. "
            "Name another factory with FILE.py:NAME."
        )
    build_data = _function(module, "build_data", spec)
    loss, step = _function(module, "loss", spec), _function(module, "step", spec)
    if step is None and loss is not None:
        step = step_from_loss(loss)
    return Subject(
        name=spec,
        build_model=_checked_model(build_model, where),
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
    module, name = _load_module(spec)
    function = _function(module, name or default, spec)
    if function is None:
        raise SubjectError(f"{spec} has no function {name or default}().")
    return function


def _checked_model(build: Callable[[], Any], where: str) -> Callable[[], nn.Module]:
    def build_model() -> nn.Module:
        model = call(build, where=where)
        if not isinstance(model, nn.Module):
            raise SubjectError(
                f"{where} returned a {type(model).__name__}; it must return a torch.nn.Module."
            )
        return model

    return build_model


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


def _load_module(spec: str) -> tuple[ModuleType, str | None]:
    """The module that a spec names, and the name behind its colon."""
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
                f"{Path.cwd()}; check the spelling or the working directory."
            ) from error
        raise _import_failed(spec, error) from error
    except (Exception, SystemExit) as error:
        raise _import_failed(spec, error) from error


def _has_name(spec: str) -> bool:
    head, colon, tail = spec.rpartition(":")
    return bool(colon) and len(head) > 1 and tail.isidentifier()


def _load_file(path: Path, spec: str) -> ModuleType:
    if not path.exists():
        raise SubjectError(
            f"{path} does not exist; check the path (working directory {Path.cwd()})."
        )
    if path.is_dir():
        raise SubjectError(f"{path} is a folder; name a Python file in it.")
    if path.suffix != ".py":
        raise SubjectError(
            f"{path} is not a Python file; a subject file ends in .py and defines {_CONTRACT}."
        )
    # A name of its own for each file keeps two files called model.py apart, and lets classes
    # defined in it be pickled for as long as this process lives.
    digest = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:8]
    name = f"gradscope_subject_{path.stem}_{digest}"
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


def _importable_from(folder: Path) -> None:
    """What lies in ``folder`` can be imported, also later, as if Python had been started on it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_failed(spec: str, error: BaseException, path: Path | None = None) -> SubjectError:
    """Says what went wrong and at which line, of the user's own file where it is in the way."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if path is not None and Path(frame.filename) == path]
    if isinstance(error, SyntaxError):
        line = f" (line {error.lineno})" if error.lineno else ""
        what = f"{type(error).__name__}: {error.msg}"
    else:
        frame = (own or frames)[-1]
        line = f" ({Path(frame.filename).name}, line {frame.lineno})"
        what = one_line(error)
    if isinstance(error, SystemExit):
        line += "; a subject file must not exit or read arguments when it is imported"
    return SubjectError(f"{spec} could not be imported: {what}{line}.")
