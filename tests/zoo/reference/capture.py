"""Sees every site of a forward pass: is told of each call of a module and of a function.

What is observed is put aside and a copy of it is handed on, so that nothing the model does later
reaches it; an operation in place is carried out elsewhere and its result copied back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import activation as activation_modules
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

# fmt: off
ACTIVATIONS = (
    "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus",
    "softsign", "tanh", "sigmoid", "hardtanh", "hardsigmoid", "hardswish", "hardshrink",
    "softshrink", "tanhshrink", "threshold", "logsigmoid", "prelu", "rrelu", "glu", "softmax",
    "log_softmax", "softmin", "clamp", "clamp_min",
)
LAYERS = (
    "linear", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d",
    "conv_transpose3d", "bilinear", "matmul", "mm", "addmm", "bmm",
)
NORMALISATIONS = ("batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm")
NAMES = (
    *ACTIVATIONS, *LAYERS, *NORMALISATIONS, "embedding", "scaled_dot_product_attention",
)
# fmt: on
ACTIVATION_MODULES = tuple(
    kind
    for name in activation_modules.__all__
    if (kind := getattr(activation_modules, name)) is not nn.MultiheadAttention
)
NORMALISATION_MODULES = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    nn.LocalResponseNorm,
)


@dataclass
class Seen:
    """One site in one pass: the tensor y, before anything could change it.

    ``given`` is the input of a layer, as it was; ``entered`` the copy of its input that a fused
    recurrent layer got, which requires a gradient, and ``time_steps`` how long that is.
    """

    name: str
    role: str
    operator: str
    y: Tensor
    module: nn.Module | None = None
    arguments: tuple[Any, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    given: Tensor | None = None
    entered: Tensor | None = None
    time_steps: int = 0


@dataclass
class Frame:
    """A module whose forward is running; ``name`` is None where it computes weights."""

    module: nn.Module
    name: str | None
    functions: list[Seen] = field(default_factory=list)
    begun_at: int = 0
    given: Tensor | None = None
    entered: Tensor | None = None
    time_steps: int = 0


def first_tensor(value: Any) -> Tensor | None:
    return next(tensors(value), None)


def tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from tensors(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from tensors(getattr(value, name))


def with_first(value: Any, old: Tensor, new: Tensor) -> Any:
    """The same structure with a tensor exchanged."""
    if value is old:
        return new
    if isinstance(value, (tuple, list)):
        items = [with_first(item, old, new) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    if isinstance(value, dict):
        return {key: with_first(item, old, new) for key, item in value.items()}
    return value


def input_of(arguments: Any) -> Tensor | None:
    """A copy of the first tensor that is no weight."""
    first = next((t for t in tensors(arguments) if not isinstance(t, nn.Parameter)), None)
    return None if first is None else first.detach().clone()


def owns_parameters(module: nn.Module) -> bool:
    """Directly, or as what a parametrisation computes."""
    return "parametrizations" in module._modules or any(
        p is not None for p in module._parameters.values()
    )


def is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def softmax_role(z: Tensor, dim: int | None) -> str:
    over_last = dim is not None and dim in (-1, z.ndim - 1)
    return "attention" if z.ndim >= 3 and over_last else "activation"


class Capture:
    """What one pass shows: ``sites`` in execution order, ``inputs`` of the model, ``outputs``."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[Frame] = []
        self.sites: list[Seen] = []
        self.called: set[str] = set()
        self.inputs: list[Tensor] = []
        self.outputs: list[Tensor] = []
        self.returned: list[Tensor] = []
        self._uses: Counter[str] = Counter()
        self._within = 0
        self._aliases: dict[int, tuple[Tensor, int, Tensor]] = {}

    # --- what is what -------------------------------------------------------------------------

    def same(self, value: Tensor) -> Tensor:
        """The tensor that was observed, for the copy of it that the model got."""
        known, version, y = self._aliases.get(id(value), (None, 0, value))
        return y if known is value and version == value._version else value

    def _alias(self, value: Tensor, y: Tensor) -> None:
        self._aliases[id(value)] = value, value._version, y

    def _numbered(self, name: str) -> str:
        use = self._uses[name]
        self._uses[name] += 1
        return name if use == 0 else f"{name}@{use}"

    def _role(self, module: nn.Module, arguments: tuple[Any, ...]) -> str | None:
        """The role of a module by its class, or None where it is no site."""
        if isinstance(module, ACTIVATION_MODULES):
            if isinstance(module, nn.Softmax):
                return softmax_role(arguments[0], module.dim)
            return "activation"
        if module is self.model:
            return None
        if isinstance(module, NORMALISATION_MODULES):
            return "normalisation"
        if not owns_parameters(module):
            return None
        return "embedding" if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) else "layer"

    # --- modules ------------------------------------------------------------------------------

    def call(
        self, forward: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any
    ) -> Any:
        name = self.names.get(id(module))
        if name is None:  # made within a forward, or hidden in a list: its caller's functions
            return forward(module, *args, **kwargs)
        if "parametrizations" in name.split("."):
            name = None
        frame = Frame(module, name, begun_at=len(self.sites))
        if name is not None:
            self.called.add(name)
        if module is self.model and not self.inputs:
            self.inputs = [t.detach().clone() for t in tensors([*args, *kwargs.values()])]
        role = None if name is None else self._role(module, args or tuple(kwargs.values()))
        before: tuple[Any, ...] = ()
        if isinstance(module, ACTIVATION_MODULES):
            given = args or (kwargs["input"],)
            before = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in given)
        if role == "layer":
            frame.given = input_of([*args, *kwargs.values()])
        if isinstance(module, nn.RNNBase):
            args = (self._entering(frame, module, args[0]), *args[1:])
        self.stack.append(frame)
        try:
            output = forward(module, *args, **kwargs)
        finally:
            self.stack.pop()
        if name is not None:
            output = self._left(frame, role, before, output)
        if module is self.model:
            if not self.outputs:
                self.returned = [t.detach().clone() for t in tensors(output)]
            self.outputs += [self.same(t if t._base is None else t._base) for t in tensors(output)]
        return output

    def _entering(self, frame: Frame, module: nn.RNNBase, x: Any) -> Any:
        if isinstance(x, PackedSequence):
            frame.time_steps = len(pad_packed_sequence(x)[0])
            return x
        frame.time_steps = x.shape[1 if module.batch_first and x.ndim == 3 else 0]
        frame.entered = x.clone()
        if not x.requires_grad and any(p.requires_grad for p in module.parameters()):
            frame.entered.requires_grad_(torch.is_grad_enabled())
        return frame.entered

    def _left(self, frame: Frame, role: str | None, before: tuple[Any, ...], output: Any) -> Any:
        module = frame.module
        value = first_tensor(output)
        if value is None or not observable(value):
            return output
        y = self.same(value)
        if role is None:
            role = self._composed(frame, output, y)
            if role is None:
                return output
        elif not is_torchs(module) and any(y is seen.y for seen in self.sites[frame.begun_at :]):
            return output
        name = self._numbered(frame.name or "")
        # A parametrised module is of a class made for it, named after what it was.
        operator = type(module).__name__.removeprefix("Parametrized")
        seen = Seen(name, role, operator, y, module, before)
        seen.given, seen.entered, seen.time_steps = frame.given, frame.entered, frame.time_steps
        self.sites.append(seen)
        if y is not value:  # it is safe already: an operation in place, or seen before
            return output
        copy = y.clone()
        self._alias(copy, y)
        return with_first(output, value, copy)

    def _composed(self, frame: Frame, output: Any, y: Tensor) -> str | None:
        """Whether a module is an activation that its author has put together from others."""
        module = frame.module
        parts = [seen for seen in frame.functions if seen.role == "activation"]
        is_leaf = next(module.children(), None) is None and next(module.parameters(), None) is None
        if not (is_leaf and parts and isinstance(output, Tensor)) or is_torchs(module):
            return None
        if any(seen.y is y for seen in frame.functions):
            return None
        for seen in parts:
            seen.role = "gate"
        return "activation"

    # --- functions ----------------------------------------------------------------------------

    def apply(self, name: str, function: Callable[..., Any], plain: Callable[..., Any] | None,
              args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:  # fmt: skip
        """Runs a function; ``plain`` is what does the same out of place."""
        if self._within:
            return function(*args, **kwargs)
        before = tuple(a.detach().clone() if isinstance(a, Tensor) else a for a in args)
        given = input_of([*args, *kwargs.values()])
        options = {k: v.detach().clone() if isinstance(v, Tensor) else v for k, v in kwargs.items()}
        self._within += 1
        try:
            if plain is not None:
                x = args[0] if args else kwargs["input"]
                rest = {k: v for k, v in kwargs.items() if k != "input"}
                y = plain(x.clone(), *args[1:], **rest)
                x.copy_(y)
                self._alias(x, y)
                value = x
            else:
                value = y = function(*args, **kwargs)
        finally:
            self._within -= 1
        role = self._function_role(name, args, kwargs)
        if role is None or not isinstance(y, Tensor) or not observable(y):
            return value
        if name in ("clamp", "clamp_min"):
            name = "relu"
        frame = self.stack[-1]
        key = f"{frame.name}::{name}"
        number = self._uses[key]
        self._uses[key] += 1
        seen = Seen(f"{key}@{number}", role, name, y, None, before, options, given)
        self.sites.append(seen)
        frame.functions.append(seen)
        if value is not y:
            return value
        copy = y.clone()
        self._alias(copy, y)
        return copy

    def _function_role(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> str | None:
        if not self.stack or self.stack[-1].name is None:
            return None
        module = self.stack[-1].module
        if isinstance(module, ACTIVATION_MODULES):
            return None
        if name == "scaled_dot_product_attention":
            return "attention"
        if name == "softmax":
            z = args[0] if args else kwargs["input"]
            return softmax_role(z, args[1] if len(args) > 1 else kwargs.get("dim"))
        if name in ("clamp", "clamp_min"):
            options = dict(zip(("input", "min", "max"), args, strict=False)) | kwargs
            least, most = options.get("min"), options.get("max")
            is_zero = isinstance(least, (int, float)) and least == 0
            return "activation" if is_zero and most is None else None
        if name in ACTIVATIONS:
            return "activation"
        if is_torchs(module) or (module is not self.model and owns_parameters(module)):
            return None
        if name in ("matmul", "mm", "addmm", "bmm"):
            operands = [*args, *kwargs.values()]
            return "layer" if any(isinstance(a, nn.Parameter) for a in operands) else None
        if name in LAYERS:
            return "layer"
        return "embedding" if name == "embedding" else "normalisation"


def observable(value: Tensor) -> bool:
    return (
        value.is_floating_point()
        and value.layout == torch.strided
        and value.numel() > 0
        and value.ndim > 0
    )
