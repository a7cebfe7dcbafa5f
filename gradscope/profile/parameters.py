"""The parameters of a model over the steps: weights, gradients, and what updates moved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from gradscope.checked import update
from gradscope.profile import statistics
from gradscope.profile.exchange import Exchange, Packet
from gradscope.profile.rows import Rows
from gradscope.profile.sharding import local, replicas, whole
from gradscope.profile.sums import Sums
from gradscope.records import ParameterProfile

__all__ = ["Parameters", "epsilon_of", "measured_update"]


class Parameters:
    """What is measured of each parameter of ``model``; at first its weights."""

    def __init__(self, model: nn.Module, exchange: Exchange) -> None:
        self.named = list(model.named_parameters())
        self._exchange = exchange
        packet = Packet()
        for name, parameter in self.named:
            held = local(parameter)
            self._add(packet, name, parameter, squares=statistics.squares(held))
            self._add(packet, name, parameter, nonfinite=statistics.nonfinite(held))
        self._before = self._numbers(exchange.total(packet))
        self._rows = {
            name: Rows(whole(parameter.detach()))
            for name, parameter in self.named
            if parameter.requires_grad and _has_rows(parameter)
        }
        self._gradients: list[dict[str, float]] = []
        self._updates: list[dict[str, float]] = []
        self._clipping: list[float] = []

    def _add(self, packet: Packet, name: str, parameter: nn.Parameter, **found: Tensor) -> None:
        """Puts sums into a packet, less what other processes hold copies of."""
        copies = replicas(parameter, self._exchange.processes)
        sums: Sums = packet.sums.setdefault((name, "parameter"), {})
        sums |= {key: value / copies for key, value in found.items()}

    @staticmethod
    def _numbers(total: Packet) -> dict[str, dict[str, float]]:
        entries = [
            (key, what, value)
            for (key, kind), sums in total.sums.items()
            if kind == "parameter"
            for what, value in sums.items()
        ]
        numbers: dict[str, dict[str, float]] = {}
        values = statistics.to_floats([value for *_, value in entries])
        for (key, what, _), value in zip(entries, values, strict=True):
            numbers.setdefault(key, {})[what] = value
        return numbers

    def clear(self) -> None:
        """Takes the gradients off.

        Of these parameters, not of those that the model has now: FSDP2 puts whole ones in their
        place until a backward pass has followed the forward.
        """
        for _, parameter in self.named:
            parameter.grad = None

    def note_gradients(self, packet: Packet) -> None:
        """Puts what the gradients of a step show into a packet, and compares their rows."""
        self._note_norms(packet)
        for name, parameter in self.named:
            rows = self._rows.get(name)
            if rows is not None and rows.alike and parameter.grad is not None:
                rows.compare(whole(parameter.grad))

    def _note_norms(self, packet: Packet) -> None:
        for name, parameter in self.named:
            if parameter.grad is not None:
                self._add(packet, name, parameter, gradient=_squares(parameter.grad))

    def update(self, optimizer: Optimizer, packet: Packet, *, skip_nonfinite: bool) -> None:
        """Takes one optimizer step, and puts what it moved into a packet.

        With ``skip_nonfinite`` a step whose gradients overflowed is not taken, as by GradScaler.
        """
        parameters = [parameter for _, parameter in self.named]
        if skip_nonfinite and self._overflowed(parameters):
            moved = [(torch.zeros(()), torch.ones(())) for _ in parameters]
        else:
            with self._looking_at_what_is_used(optimizer, packet):
                moved = measured_update(optimizer, parameters)
        for (name, parameter), (change, size) in zip(self.named, moved, strict=True):
            self._add(packet, name, parameter, change=change, size=size)

    @contextmanager
    def _looking_at_what_is_used(self, optimizer: Optimizer, packet: Packet) -> Iterator[None]:
        """Inside, puts into the packet the gradients that hooks of the optimizer leave to it."""
        if not optimizer._optimizer_step_pre_hooks:
            yield
            return

        def see(*_: object) -> None:
            for name, parameter in self.named:
                if parameter.grad is not None:
                    self._add(packet, name, parameter, used=_squares(parameter.grad))

        # The last one registered runs last.
        handle = optimizer.register_step_pre_hook(see)
        try:
            yield
        finally:
            handle.remove()

    def _overflowed(self, parameters: list[nn.Parameter]) -> bool:
        packet = Packet()
        for number, parameter in enumerate(parameters):
            if parameter.grad is not None and not parameter.grad.is_sparse:
                wrong = statistics.nonfinite(local(parameter.grad))
                self._add(packet, str(number), parameter, wrong=wrong)
        found = self._numbers(self._exchange.total(packet))
        return any(numbers["wrong"] > 0 for numbers in found.values())

    def squared_gradient(self) -> float:
        """The squared norm of the gradient of all parameters together."""
        packet = Packet()
        self._note_norms(packet)
        found = self._numbers(self._exchange.total(packet))
        return sum(numbers["gradient"] for numbers in found.values())

    @property
    def squared_gradients(self) -> list[float]:
        """The same at each step so far."""
        return [sum(norm**2 for norm in step.values()) for step in self._gradients]

    def close(self, total: Packet) -> None:
        """Takes the sums over all processes of the step that is over."""
        numbers = self._numbers(total)
        self._gradients.append(
            {name: each["gradient"] ** 0.5 for name, each in numbers.items() if "gradient" in each}
        )
        ratios = {
            name: _ratio(each["change"], each["size"])
            for name, each in numbers.items()
            if "change" in each
        }
        if ratios:
            self._updates.append(ratios)
            before = sum(each.get("gradient", 0.0) for each in numbers.values())
            used = [each["used"] for each in numbers.values() if "used" in each]
            self._clipping.append((sum(used) / before) ** 0.5 if used and before else 1.0)

    @property
    def clipping(self) -> tuple[float, ...]:
        """Per step, the norm of the gradient that the update was made from over its first norm."""
        return tuple(self._clipping)

    def profiles(
        self, takes_part: Callable[[str, nn.Parameter], bool]
    ) -> tuple[ParameterProfile, ...]:
        """The records; ``takes_part`` tells whether a parameter was used."""
        profiles = []
        for name, parameter in self.named:
            norms = tuple(step.get(name) for step in self._gradients)
            rows = self._rows.get(name)
            profiles.append(
                ParameterProfile(
                    name=name,
                    shape=tuple(parameter.shape),
                    trainable=parameter.requires_grad,
                    reached=takes_part(name, parameter) or any(norm is not None for norm in norms),
                    weight_norm=self._before[name]["squares"] ** 0.5,
                    nonfinite=round(self._before[name]["nonfinite"]),
                    gradient_norm=norms,
                    update_ratio=tuple(step[name] for step in self._updates),
                    duplicate_rows=0.0 if rows is None else rows.duplicates,
                    symmetric_rows=0.0 if rows is None else rows.symmetric,
                    row_spread=0.0 if rows is None else rows.spread,
                )
            )
        return tuple(profiles)


def _has_rows(parameter: Tensor) -> bool:
    """Whether it has two rows along dimension 0, of two elements each."""
    rows = parameter.shape[0] if parameter.ndim > 1 else 0
    return rows > 1 and parameter.numel() >= 2 * rows


def _squares(gradient: Tensor) -> Tensor:
    """Sum of the squares of a gradient, of what this process holds."""
    held = local(gradient)
    return statistics.squares(held.coalesce().values() if held.is_sparse else held)


def _ratio(change: float, size: float) -> float:
    """Of the norms: 0 where nothing moved, infinite where a zero weight did."""
    if change == 0:
        return 0.0
    return float((change / size) ** 0.5) if size else float("inf")


def epsilon_of(optimizer: Optimizer) -> float | None:
    """The ``eps`` of an optimizer that divides each gradient by its own magnitude, else None.

    Adam and its relatives make updates whose size does not depend on the gradient's scale, down to
    where gradients get as small as eps.
    """
    epsilon = optimizer.defaults.get("eps")
    # Adafactor keeps a pair; the first is added to the squared gradient.
    if isinstance(epsilon, tuple):
        return None if epsilon[0] is None else float(epsilon[0]) ** 0.5
    return None if epsilon is None else float(epsilon)


def measured_update(
    optimizer: Optimizer, parameters: list[nn.Parameter]
) -> list[tuple[Tensor, Tensor]]:
    """Takes one optimizer step.

    Returns:
        For each parameter, of what this process holds, the sum of squares of its change and of
        its elements before.
    """
    before = [local(parameter.detach()).clone() for parameter in parameters]
    update(optimizer)
    moved = []
    for parameter, old in zip(parameters, before, strict=True):
        size = statistics.squares(old)
        moved.append((statistics.squares(old.sub_(local(parameter.detach()))), size))
    return moved
