"""Runs the graph of an exported program (``.pt2``) so that it can be watched like a model of code.

``torch.export.load`` executes texts of the file, so it is called only for files that are trusted. A
graph calls operators of aten, one after another, in no module: here each is called in a module of
the name that the file gives, under the name that torch.nn.functional has for it. That makes sites
such as ``features.0::conv2d``. The graph is what was exported: dropout and batch normalisation stay
in the mode of then, and sizes that were fixed stay fixed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator, Tensor, fx, nn
from torch.export import ExportedProgram
from torch.overrides import handle_torch_function, has_torch_function
from torch.utils import _pytree as pytree

from gradscope.batches import Batch, described
from gradscope.checked import one_line
from gradscope.checkpoints.formats.exported_program import ExportedProgramReader
from gradscope.errors import CheckpointError, ModelError
from gradscope.inputs import made_up_step
from gradscope.records import Skipped
from gradscope.subject import Subject

__all__ = ["is_program", "load_program"]

_KIND = "exported program"
_PART = re.compile(r"[A-Za-z0-9_]+")
_SAMPLES = 8
"""Of a batch that is made up, where the program leaves the number open."""

_BATCHES = 64
_OF_A_MASK = 2
"""Distinct numbers of what is not to be drawn anew: masks, and what is the same everywhere."""

_FUSED = ("lstm", "gru", "rnn_tanh", "rnn_relu", "native_layer_norm", "native_group_norm",
          "_native_batch_norm_legit", "_native_batch_norm_legit_no_training")  # fmt: skip
"""Operators that hold whole layers, or return several tensors: no site is made of them."""


def is_program(path: str | Path) -> bool:
    """Whether it is a file of ``torch.export.save``, by its content."""
    return Path(path).is_file() and ExportedProgramReader().recognises(Path(path))


def load_program(path: str | Path, *, trusted: bool) -> Subject:
    """The graph of a ``.pt2`` as a model with the weights that are in it.

    Batches are the one that it was exported with, if that was saved, else made up in its shapes;
    the loss is made up.

    Args:
        path: of the file.
        trusted: whether what is in it may be executed: expressions of sizes, names of arguments and
            guards become Python source, and operators may write where they like.

    Raises:
        CheckpointError: it is not trusted, or cannot be loaded.
    """
    path = Path(path)
    if not trusted:
        raise CheckpointError(
            f"{path} brings its graph with it, and torch.export.load may execute what is in it; "
            "scan it without --model, which reads its weights alone, give the model's code, or "
            "pass --trust-pickle, which is for files of your own only."
        )
    model, batch, stored = _loaded(path)
    first = [model]
    shapes = described(batch)
    inputs = f"its example inputs of {shapes} were passed, and made-up ones like them"
    if not stored:
        inputs = f"inputs of {shapes} were made up"
    return Subject(
        name=str(path),
        # Trials change the model; each of them gets one of its own.
        build_model=lambda: first.pop() if first else _loaded(path)[0],
        build_data=lambda: _Batches(batch),
        step=made_up_step,
        synthetic=True,
        kind=_KIND,
        skipped=(
            Skipped("data", f"none was given; {inputs}"),
            Skipped("train() and eval()", "an exported graph keeps the mode of its export"),
            *_not_seen(model),
        ),
    )


def _loaded(path: Path) -> tuple[ExportedGraph, Batch, bool]:
    """The model, a batch, and whether the batch was stored."""
    try:
        program = torch.export.load(path)
        model = ExportedGraph(program)
        if program.example_inputs is not None:
            args, kwargs = program.example_inputs
            return model, model.batch(args, kwargs), True
        return model, model.batch(*_made_up(program)), False
    except Exception as error:
        raise CheckpointError(
            f"{path} cannot be loaded by torch.export.load ({one_line(error):.300}); export it "
            "again with this version of torch, or scan it without --model."
        ) from error


# --- The graph as a module ------------------------------------------------------------------------


class _Scope(nn.Module):
    """Stands for a module of the exported model; the operators of its forward are called in it."""

    def forward(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)


@dataclass(frozen=True)
class _Program:
    """What is the same in all copies of a model.

    Attributes:
        graph: of operators.
        signature: what the model is called with.
        scopes: names of modules by that of the node.
    """

    graph: fx.Graph
    signature: inspect.Signature
    scopes: Mapping[str, str]

    def __deepcopy__(self, memo: Any) -> _Program:
        return self


class ExportedGraph(nn.Module):
    """An exported program that is gone through operator by operator.

    Parameters lie in the outermost module, under their whole names, which are those of the exported
    model's: so the scopes have none, and what is called in them are sites by themselves.
    """

    def __init__(self, program: ExportedProgram) -> None:
        super().__init__()
        unlifted = program.module()
        parameters = dict(unlifted.named_parameters(remove_duplicate=False))
        self._parameters.update(parameters)
        kept = set(program.graph_signature.buffers) - set(
            program.graph_signature.non_persistent_buffers
        )
        for name, buffer in unlifted.named_buffers(remove_duplicate=False):
            self._buffers[name] = buffer
            if name not in kept:
                self._non_persistent_buffers_set.add(name)
        self._others = {
            str(node.target): _attribute(unlifted, str(node.target))
            for node in unlifted.graph.nodes
            if node.op in ("get_attr", "call_module")
            and node.target not in self._parameters
            and node.target not in self._buffers
        }
        scopes = {
            node.name: scope
            for node in unlifted.graph.nodes
            if node.op == "call_function" and (scope := self._scope(node))
        }
        for name in parameters:
            self._holder(name.rpartition(".")[0], nn.Module)
        signature = inspect.signature(unlifted.forward)
        self._program = _Program(unlifted.graph, signature, scopes)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self._program.signature.bind(*args, **kwargs).arguments.values()
        return _Interpreter(self).run(*given)

    def train(self, mode: bool = True) -> ExportedGraph:
        """Does nothing: the mode is part of the graph."""
        return self

    def batch(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Batch:
        """Inputs as a batch: the only one by itself, several by their names."""
        named = dict(self._program.signature.bind(*args, **kwargs).arguments)
        only = next(iter(named.values()), None)
        return only if len(named) == 1 and isinstance(only, Tensor) else named

    def _scope(self, node: fx.Node) -> str:
        """The name of the module in whose forward a node was called; empty for the outermost."""
        stack = [entry[0] for entry in node.meta.get("nn_module_stack", {}).values()]
        # The second use of a module is "name@1".
        name = stack[-1].partition("@")[0] if stack else ""
        return name if name and self._holder(name, _Scope) else ""

    def _holder(self, name: str, kind: type[nn.Module]) -> bool:
        """Sees to it that there is a module of that name; whether there can be one."""
        parts = name.split(".") if name else []
        if not all(_PART.fullmatch(part) for part in parts):
            return False
        at: nn.Module = self
        for index, part in enumerate(parts):
            wanted = kind if index == len(parts) - 1 else nn.Module
            inner = at._modules.get(part)
            if inner is None:
                if hasattr(at, part):
                    return False
                inner = wanted()
                at.add_module(part, inner)
            elif wanted is _Scope and not isinstance(inner, _Scope):
                inner_scope = _Scope()
                inner_scope._modules.update(inner._modules)
                at._modules[part] = inner = inner_scope
            at = inner
        return True


class _Interpreter(fx.Interpreter):
    def __init__(self, model: ExportedGraph) -> None:
        super().__init__(model, graph=model._program.graph)
        self.extra_traceback = False
        self._model = model
        self._called_in = ""

    def run_node(self, n: fx.Node) -> Any:
        self._called_in = self._model._program.scopes.get(n.name, "")
        return super().run_node(n)

    def fetch_attr(self, target: str) -> Any:
        model = self._model
        for held in (model._parameters, model._buffers):
            if target in held:
                return held[target]
        return model._others[target]

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return self._model._others[target](*args, **kwargs)
        except AssertionError as error:
            raise ModelError(
                f"The program was exported for inputs of other sizes ({error}); pass such, or "
                "export it with dynamic_shapes."
            ) from error

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if isinstance(target, torch._ops.OpOverload):
            target = _named(target)
        if not self._called_in:
            return target(*args, **kwargs)
        return self._model.get_submodule(self._called_in)(target, *args, **kwargs)


def _named(operator: torch._ops.OpOverload) -> Callable[..., Any]:
    """The operator as a function of torch's, which whoever listens to calls is told of by name."""

    def function(*args: Any, **kwargs: Any) -> Any:
        return operator(*args, **kwargs)

    function.__name__ = _name(operator)

    def called(*args: Any, **kwargs: Any) -> Any:
        tensors = tuple(each for each in args if isinstance(each, Tensor))
        if has_torch_function(tensors):
            return handle_torch_function(function, tensors, *args, **kwargs)
        return operator(*args, **kwargs)

    return called


def _name(operator: torch._ops.OpOverload) -> str:
    """As torch.nn.functional has it."""
    name = str(operator._schema.name).partition("::")[2]
    return _ALIASES.get(name, name)


_ALIASES = {"_softmax": "softmax", "_log_softmax": "log_softmax", "_unsafe_view": "view"}
"""Names in graphs that were decomposed (``run_decompositions``)."""


def _attribute(module: nn.Module, target: str) -> Any:
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    return found


def _not_seen(model: ExportedGraph) -> Iterable[Skipped]:
    """Layers of the graph that are no sites."""
    called = {
        _name(node.target): None
        for node in model._program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    }
    for name in called:
        if name in _FUSED:
            yield Skipped(name, "one operator for a whole layer, into which nobody can look")
        elif name == "convolution":
            yield Skipped(name, "the graph was decomposed; what convolutions return is not seen")


# --- Inputs ---------------------------------------------------------------------------------------


class _Batches:
    """A batch and others like it; the same ones on every pass."""

    def __init__(self, batch: Batch) -> None:
        self._batch = batch

    def __iter__(self) -> Iterator[Batch]:
        yield self._batch
        # The first may be drawn with 0.
        generator = Generator().manual_seed(1)
        for _ in range(_BATCHES - 1):
            yield pytree.tree_map_only(Tensor, lambda each: _like(each, generator), self._batch)


def _like(example: Tensor, generator: Generator) -> Tensor:
    """Numbers of the same mean and spread, or whole ones in the same range; a mask as it is."""
    if example.is_complex() or example.unique().numel() <= _OF_A_MASK:
        return example
    if not example.is_floating_point():
        low, high = int(example.min()), int(example.max())
        shape = example.shape
        return torch.randint(low, high + 1, shape, generator=generator, dtype=example.dtype)
    wide = example.double()
    drawn = torch.randn(example.shape, generator=generator, dtype=torch.float64)
    drawn = drawn * wide.std() + wide.mean()
    return drawn.to(example.dtype) if drawn.isfinite().all() else example


def _made_up(program: ExportedProgram) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the shapes and types that the program takes."""
    generator = Generator().manual_seed(0)
    rows = _table_rows(program)
    flat = [
        _filled(node.meta["val"], program, rows, generator)
        for node in program.graph.nodes
        if node.op == "placeholder" and node.name in program.graph_signature.user_inputs
    ]
    args, kwargs = pytree.tree_unflatten(flat, program.call_spec.in_spec)
    return args, kwargs


def _filled(value: Any, program: ExportedProgram, rows: int, generator: Generator) -> Any:
    if isinstance(value, Tensor):
        shape = [_extent(size, program) for size in value.shape]
        if value.dtype.is_floating_point or value.dtype.is_complex:
            return torch.randn(shape, generator=generator).to(value.dtype)
        if value.dtype is torch.bool:
            return torch.ones(shape, dtype=torch.bool)
        return torch.randint(rows, shape, generator=generator, dtype=value.dtype)
    return _extent(value, program) if isinstance(value, torch.SymInt) else value


def _extent(size: int | torch.SymInt, program: ExportedProgram) -> int:
    """A size; of one that may vary, what is close to the number of samples."""
    if isinstance(size, int):
        return size
    bounds = program.range_constraints.get(size.node.expr)
    if bounds is None:
        return int(size.node.hint if size.node.has_hint() else _SAMPLES)
    return int(min(max(_SAMPLES, bounds.lower), bounds.upper))


def _table_rows(program: ExportedProgram) -> int:
    """The fewest rows of any table that is looked up, 2 where there is none."""
    tables = [
        node.args[0].meta["val"].shape[0]
        for node in program.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload) and _name(node.target) == "embedding"
    ]
    return min(map(int, tables), default=2)
