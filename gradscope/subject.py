"""What is examined: a model, batches, a loss, an optimizer; and the file that a user writes it in.

A subject file is a Python file with

    build_model() -> nn.Module
    build_data() -> an iterable of batches
    loss(output, batch) -> scalar tensor

and optionally ``build_optimizer(parameters)`` and ``evaluate(model) -> dict of numbers``. A batch
that is a tensor is passed as ``model(batch)``, a pair ``(inputs, targets)`` as ``model(inputs)``,
a mapping as ``model(**batch)``; whoever needs anything else writes ``step(model, batch) -> scalar
loss`` instead of ``loss``.
"""

from __future__ import annotations

import copy
import hashlib
import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.errors import ModelError, SubjectError

__all__ = ["Subject", "batch_size", "call_model", "load_callable", "load_subject", "to_device"]

Batch = Any
BuildOptimizer = Callable[[Iterable[nn.Parameter]], Optimizer]

_CONTRACT = "build_model(), build_data() and loss(output, batch), or step(model, batch)"


@dataclass(frozen=True)
class Subject:
    """A model that can be built again and again, with all it takes to train it.

    Attributes:
        name: how the user named it.
        build_model: makes a model; a fresh one for each set of weights.
        build_data: makes an iterable of batches, or None where there is no data.
        step: passes one batch forward and returns the scalar loss.
        build_optimizer: makes the optimizer, or None.
        evaluate: measures a trained model: numbers by name, the first is what repairs are judged
            by; or None.
        synthetic: whether the batches are made up.
        kind: ``subject file``, ``model factory`` or ``live model``.
    """

    name: str
    build_model: Callable[[], nn.Module]
    build_data: Callable[[], Iterable[Batch]] | None
    step: Callable[[nn.Module, Batch], Tensor]
    build_optimizer: BuildOptimizer | None = None
    evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None
    synthetic: bool = False
    kind: str = "subject file"

    @classmethod
    def of(
        cls,
        model: nn.Module,
        batches: Iterable[Batch] | None,
        loss: Callable[[Any, Batch], Tensor],
        *,
        build_optimizer: BuildOptimizer | None = None,
        evaluate: Callable[[nn.Module], Mapping[str, float]] | None = None,
        name: str | None = None,
    ) -> Subject:
        """A subject around a model that is already there; the model itself is never touched.

        Args:
            model: deep-copied whenever a model is needed.
            batches: can be iterated again for each training; None where there is no data.
            loss: ``loss(output, batch)``, a scalar.
            build_optimizer: makes an optimizer for the parameters given.
            evaluate: as of a subject file.
            name: for reports; the model's class name without one.
        """
        return cls(
            name=name or type(model).__name__,
            build_model=lambda: copy.deepcopy(model),
            build_data=None if batches is None else lambda: batches,
            step=step_from_loss(loss),
            build_optimizer=build_optimizer,
            evaluate=evaluate,
            kind="live model",
        )

    def on(self, device: str | torch.device) -> Subject:
        """The same subject with its models and batches on ``device``."""
        build_data = self.build_data
        return replace(
            self,
            build_model=lambda: self.build_model().to(device),
            build_data=None if build_data is None else lambda: _Moved(build_data(), device),
        )


class _Moved:
    """Batches moved to a device as they are drawn; sized when the batches are."""

    def __init__(self, batches: Iterable[Batch], device: str | torch.device) -> None:
        self._batches, self._device = batches, device

    def __iter__(self) -> Iterator[Batch]:
        return (to_device(batch, self._device) for batch in self._batches)


def to_device(batch: Batch, device: str | torch.device) -> Batch:
    """Moves the tensors in nested mappings, tuples and lists to ``device``."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: to_device(value, device) for key, value in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(value, device) for value in batch))
    if isinstance(batch, (tuple, list)):
        return type(batch)(to_device(value, device) for value in batch)
    return batch


def call_model(model: nn.Module, batch: Batch) -> Any:
    """Passes a batch to a model by the convention of subject files."""
    if isinstance(batch, Mapping):
        return model(**batch)
    if isinstance(batch, (tuple, list)):
        return model(batch[0])
    return model(batch)


def batch_size(batch: Batch) -> int:
    """How many samples a batch holds: the first extent of its first tensor, 1 without a tensor."""
    for tensor in tensors_in(batch):
        return tensor.shape[0] if tensor.ndim else 1
    return 1


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in nested mappings and sequences, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors_in(item)


def step_from_loss(
    loss: Callable[[Any, Batch], Tensor],
) -> Callable[[nn.Module, Batch], Tensor]:
    """The step that calls the model by convention and passes its output to ``loss``."""

    def step(model: nn.Module, batch: Batch) -> Tensor:
        return loss(call_model(model, batch), batch)

    return step


def checked_loss(subject_step: Callable[[nn.Module, Batch], Tensor]) -> Callable[..., Tensor]:
    """The same step; whatever it raises becomes a ModelError, and its result is a scalar tensor."""

    def step(model: nn.Module, batch: Batch) -> Tensor:
        try:
            value = subject_step(model, batch)
        except Exception as error:
            raise ModelError(
                f"{type(model).__name__} failed on a batch of {_describe(batch)}: "
                f"{type(error).__name__}: {error}. Call step(model, batch) by hand with one batch "
                "to see where (--debug shows the traceback)."
            ) from error
        if not isinstance(value, Tensor):
            raise ModelError(
                f"The loss is a {type(value).__name__}, not a tensor; return the scalar tensor "
                "that backward() is called on."
            )
        if value.numel() != 1:
            raise ModelError(
                f"The loss has shape {tuple(value.shape)}, not a scalar; reduce it, "
                "for instance with .mean()."
            )
        if value.is_complex() or not value.is_floating_point():
            raise ModelError(
                f"The loss has type {value.dtype}; a gradient needs a real floating-point loss."
            )
        return value

    return step


def _describe(batch: Batch) -> str:
    shapes = ["x".join(map(str, tensor.shape)) or "scalar" for tensor in tensors_in(batch)]
    return f"shape {', '.join(shapes)}" if shapes else f"type {type(batch).__name__}"


# --- Loading ----------------------------------------------------------------------------------


def load_subject(spec: str) -> Subject:
    """Loads a subject from ``path/to/file.py`` or ``package.module``.

    With ``:name`` behind it, ``name`` is called in place of ``build_model``; data and loss may
    then be missing (``build_data`` is None, ``step`` raises SubjectError when it is called).

    Raises:
        SubjectError: the file or module is missing, fails to import, or lacks a function.
    """
    module, name = _load_module(spec)
    factory = name or "build_model"
    build_model = _function(module, factory, spec)
    if build_model is None:
        raise SubjectError(
            f"{spec} has no {factory}(); a subject file defines {_CONTRACT}. "
            "Name another factory with FILE.py:NAME."
        )
    build_data = _function(module, "build_data", spec)
    loss, step = _function(module, "loss", spec), _function(module, "step", spec)
    if step is None and loss is not None:
        step = step_from_loss(loss)
    if name is None and (build_data is None or step is None):
        missing = "build_data()" if build_data is None else "loss(output, batch)"
        raise SubjectError(f"{spec} has no {missing}; a subject file defines {_CONTRACT}.")
    return Subject(
        name=spec,
        build_model=_checked_model(build_model, f"{factory}() in {spec}"),
        build_data=build_data,
        step=step or _no_loss(spec),
        build_optimizer=_function(module, "build_optimizer", spec),
        evaluate=_function(module, "evaluate", spec),
        kind="subject file" if name is None else "model factory",
    )


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


def _no_loss(spec: str) -> Callable[[nn.Module, Batch], Tensor]:
    def step(model: nn.Module, batch: Batch) -> Tensor:
        raise SubjectError(f"{spec} comes without a loss; name one with --loss FILE.py:NAME.")

    return step


def _checked_model(build: Callable[[], Any], where: str) -> Callable[[], nn.Module]:
    def build_model() -> nn.Module:
        try:
            model = build()
        except Exception as error:
            raise ModelError(f"{where} raised {type(error).__name__}: {error}") from error
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
    except Exception as error:
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
    except Exception as error:
        del sys.modules[name]
        raise _import_failed(spec, error) from error
    return module


def _importable_from(folder: Path) -> None:
    """What lies in ``folder`` can be imported, also later, as if Python had been started on it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_failed(spec: str, error: Exception) -> SubjectError:
    if isinstance(error, SyntaxError):
        line = f" (line {error.lineno})"
    else:
        frames = traceback.extract_tb(error.__traceback__)
        line = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return SubjectError(f"{spec} could not be imported: {type(error).__name__}: {error}{line}.")
