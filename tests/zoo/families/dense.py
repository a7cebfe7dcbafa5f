"""Fully connected families, and those that call functions rather than modules."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.zoo.families.entry import Family, adam, pairs, sgd


def mlp(activation: Callable[[], nn.Module], depth: int = 3, gain: float = 1.0) -> nn.Sequential:
    widths = [6, *[9] * depth]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    model = nn.Sequential(*layers, nn.Linear(widths[-1], 3))
    with torch.no_grad():
        for layer in model:
            if isinstance(layer, nn.Linear):
                layer.weight *= gain
    return model


def half_dead() -> nn.Module:
    """Some units never fire, some always do, some tanh units are saturated."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        model[0].bias[:2] = -30.0
        model[0].bias[2] = 30.0
        model[2].bias[:3] = torch.tensor([-20.0, 20.0, 20.0])
    return model


def alike() -> nn.Module:
    """Of the rows of the first layer two are alike for good, two at first, and four are zero."""
    model = nn.Sequential(nn.Linear(6, 11), nn.ReLU(), nn.Linear(11, 3))
    first, last = model[0], model[2]
    with torch.no_grad():
        for one, other in ((3, 7), (1, 2), (8, 9)):
            first.weight[other], first.bias[other] = first.weight[one], first.bias[one]
            last.weight[:, other] = last.weight[:, one]
        last.weight[:, 2] *= 2.0
        first.weight[[5, 6, 8, 9]] = 0.0
        first.bias[[5, 6]] = 0.0
        first.bias[[8, 9]] = 1.0
    return model


def apart() -> list[tuple[Tensor, Tensor]]:
    """Batches whose features differ in scale by orders of magnitude; one is always zero."""
    scale = torch.tensor([1.0, 1e3, 0.0, 1e-2, 3.0, 10.0])
    return [(x * scale, y) for x, y in pairs(6)()]


class Zoo(nn.Module):
    """Many activations in parallel, each after a layer of its own."""

    KINDS = (
        nn.PReLU, nn.RReLU, nn.CELU, nn.ELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus,
        nn.Softsign, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Hardshrink, nn.Softshrink,
        nn.Tanhshrink, nn.LogSigmoid, nn.LeakyReLU, nn.ReLU6,
    )  # fmt: skip

    def __init__(self) -> None:
        super().__init__()
        kinds = [kind() for kind in self.KINDS]
        kinds += [nn.Threshold(0.1, 0.0), nn.Softmin(dim=1), nn.Softmax(dim=1), nn.Hardtanh(-3, 0)]
        self.layers = nn.ModuleList(nn.Linear(6, 4) for _ in kinds)
        self.acts = nn.ModuleList(kinds)
        self.head = nn.Linear(4, 3)
        with torch.no_grad():
            for layer in self.layers:
                layer.bias[0] = 12.0

    def forward(self, x: Tensor) -> Tensor:
        pairs = zip(self.layers, self.acts, strict=True)
        return self.head(sum(act(layer(x)) for layer, act in pairs))


class Reused(nn.Module):
    """A layer that is used twice, an activation that all share, and a layer that nothing uses."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(6, 7), nn.Linear(7, 7), nn.Linear(7, 3)
        self.unused = nn.Linear(2, 2)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        h = self.act(self.again(h))
        return self.head(self.act(self.again(h)) + h)


class Functional(nn.Module):
    """No module at all: parameters of its own, functions, operators and methods."""

    def __init__(self) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.randn(6, 8) * 0.5)
        self.w2 = nn.Parameter(torch.randn(8, 8) * 0.4)
        self.w3 = nn.Parameter(torch.randn(8, 8) * 0.4)
        self.b3 = nn.Parameter(torch.randn(8) * 0.1)
        self.w4 = nn.Parameter(torch.randn(3, 8) * 0.4)

    def forward(self, x: Tensor) -> Tensor:
        h = functional.relu(x @ self.w1)
        h = torch.tanh(torch.matmul(h, self.w2))
        h = h.mm(self.w3).sigmoid()
        h = functional.gelu(torch.addmm(self.b3, h, self.w3))
        h = functional.layer_norm(h, (8,))
        h = functional.silu(h) + torch.special.expit(h) + h.clamp(min=0) + torch.clamp_min(h, 0)
        h = h.clamp(-1, 1) + torch.selu(h) + functional.softplus(h)
        return functional.linear(h, self.w4)


class InPlace(nn.Module):
    """Functions that overwrite their argument, with and without a use of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(6))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c, d, e, f = self.layers
        h = torch.relu_(a(x))
        h = b(h)
        h.sigmoid_()
        h = functional.elu_(c(h))
        h = functional.leaky_relu(d(h), 0.2, inplace=True)
        h = functional.hardtanh(e(h), -0.2, 0.3, True)
        h = f(h)
        h.clamp_(min=0)
        return self.head(h)


class Highway(nn.Module):
    """Srivastava et al. 2015: a gate decides how much of a layer's input it passes on."""

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transform, self.gate = nn.Linear(8, 8), nn.Linear(8, 8)
            nn.init.constant_(self.gate.bias, -1.0)

        def forward(self, x: Tensor) -> Tensor:
            gate = torch.sigmoid(self.gate(x))
            return gate * functional.relu(self.transform(x)) + (1 - gate) * x

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.layers = nn.Sequential(*(self.Layer() for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(self.stem(x)))


class ReZero(nn.Module):
    """Bachlechner et al. 2020: residual branches behind gates that start at (nearly) zero."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(8, 8)
            self.gate = nn.Parameter(torch.full((1,), 0.01))

        def forward(self, x: Tensor) -> Tensor:
            return x + self.gate * torch.relu(self.layer(x))

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.blocks = nn.Sequential(*(self.Block() for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)))


class Euler(nn.Module):
    """A differential equation in four steps of one block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Linear(6, 8), nn.Linear(8, 3)
        self.field = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem(x)
        for _ in range(4):
            h = h + 0.25 * self.field(h)
        return self.head(h)


class Swish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: torch.autograd.function.FunctionCtx, z: Tensor) -> Tensor:
        ctx.save_for_backward(z)
        return z / (1 + torch.exp(-z))

    @staticmethod
    def backward(ctx: torch.autograd.function.FunctionCtx, gradient: Tensor) -> Tensor:
        (z,) = ctx.saved_tensors
        share = 1 / (1 + torch.exp(-z))
        return gradient * (share + z * share * (1 - share))


class CustomFunction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(Swish.apply(self.second(Swish.apply(self.first(x)))))


class Tanhed(nn.Module):
    """GPT-2's own GELU, whose tanh serves it as a gate."""

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x * (1.0 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3.0))))


class Wrapped(nn.Module):
    """Hands on what a function returns: no activation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return functional.gelu(x)


class Composed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(6, 9), nn.Linear(9, 9), nn.Linear(9, 9)])
        self.own, self.wrapped, self.head = Tanhed(), Wrapped(), nn.Linear(9, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.layers
        return self.head(self.own(c(self.wrapped(b(self.own(a(x)))))))


class Gain(nn.Module):
    """Parameters of its own around a layer: as a site, what it adds to the layer's output."""

    def __init__(self, gain: bool) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.scale = nn.Parameter(torch.full((8,), 0.7))
        self.gain = gain

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layer(x) if self.gain else self.layer(self.scale * x)


def gains() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 8), Gain(True), nn.ReLU(), Gain(False), nn.Tanh(), nn.Linear(8, 3)
    )


def dropouts() -> nn.Module:
    return nn.Sequential(
        nn.Dropout(0.1), nn.Linear(6, 12), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 12),
        nn.SELU(), nn.AlphaDropout(0.2), nn.Linear(12, 12), nn.RReLU(), nn.Dropout(0.2, True),
        nn.Linear(12, 3),
    )  # fmt: skip


def frozen(*names: str) -> nn.Module:
    model = mlp(nn.Tanh, 4)
    for name in names:
        model.get_submodule(name).requires_grad_(False)
    return model


def parametrised() -> nn.Module:
    model = mlp(nn.Tanh, 3)
    nn.utils.parametrizations.weight_norm(model[0])
    nn.utils.parametrizations.spectral_norm(model[2])
    nn.utils.parametrizations.orthogonal(model[4])
    return model


class SwiGLU(nn.Module):
    """Gated units: nn.GLU, F.glu over another dimension, and Shazeer's product with SiLU."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(8, 12)
        self.gate, self.up, self.head = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 3)
        self.act = nn.GLU()
        with torch.no_grad():
            self.first.bias[9] = 25.0

    def forward(self, x: Tensor) -> Tensor:
        h = self.act(self.first(x))
        h = functional.glu(self.second(h), dim=1)
        return self.head(functional.silu(self.gate(h)) * self.up(h))


POINTS = pairs(6)

FAMILIES = (
    Family("mlp-relu", lambda: mlp(nn.ReLU), POINTS, optimizer=sgd),
    Family("mlp-tanh", lambda: mlp(nn.Tanh, gain=4.0), POINTS),
    Family("mlp-sigmoid", lambda: mlp(nn.Sigmoid, 4, gain=8.0), POINTS, optimizer=adam),
    Family(
        "mlp-wide",
        lambda: nn.Sequential(nn.Linear(6, 1500), nn.ReLU(), nn.Linear(1500, 3)),
        pairs(6, samples=90),
    ),
    Family("mlp-many-samples", lambda: mlp(nn.ReLU), pairs(6, samples=700)),
    Family("few-batches", lambda: nn.Sequential(nn.Linear(6, 8, bias=False),
        nn.BatchNorm1d(8), nn.Sigmoid(), nn.Dropout(), nn.Linear(8, 3)), pairs(6, count=2)),
    Family("until-enough-is-seen", lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.ReLU(),
        nn.Flatten(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3)),
        pairs(2, 5, samples=300, count=10), units_at_1=("[01]",)),
    Family("rows-alike", alike, POINTS, optimizer=sgd),
    Family("features-apart", lambda: mlp(nn.Tanh), apart),
    Family("half-dead", half_dead, pairs(6, samples=24)),
    Family("activation-zoo", Zoo, POINTS, shows=("acts.0", "acts.22")),
    Family("reused", Reused, POINTS, optimizer=sgd, shows=("again@1", "act@2")),
    Family(
        "functional",
        Functional,
        POINTS,
        shows=("::matmul@1", "::addmm@0", "::sigmoid@1", "::relu@2", "::linear@0"),
    ),
    Family("functional-in-place", InPlace, POINTS, shows=("::relu@1", "::hardtanh@0")),
    Family("highway", Highway, POINTS, shows=("layers.1::sigmoid@0",)),
    Family("rezero", ReZero, POINTS, optimizer=adam, shows=("blocks.0",)),
    Family("euler", Euler, POINTS, shows=("field.1@3",)),
    Family("custom-function", CustomFunction, POINTS),
    Family(
        "composed-activation", Composed, POINTS, shows=("own@1", "own::tanh@1", "wrapped::gelu@0")
    ),
    Family("gain", gains, POINTS, shows=("1", "3.layer")),
    Family("dropout", dropouts, POINTS),
    Family(
        "frozen-first", lambda: frozen("0", "2"), POINTS, optimizer=sgd,
        depths={str(number): number for number in range(9)},
    ),
    Family("frozen-middle", lambda: frozen("2", "4"), POINTS, optimizer=sgd),
    Family("parametrised", parametrised, POINTS, shows=("0", "2", "4")),
    Family("gated-units", SwiGLU, pairs(6), shows=("act", "::glu@0")),
    Family("float64", lambda: mlp(nn.Tanh).double(), pairs(6, dtype=torch.float64)),
)  # fmt: skip
