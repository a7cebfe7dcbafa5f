"""The hooks of a sampled step, put on before it and taken off after it.

They are torch's global ones, which look the running module up: nothing is put on the user's modules
(but on layers that tensor parallelism splits), so that these are copied, pickled and compiled as if
nobody watched.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

from gradscope.batches import tensors_in
from gradscope.monitor.clock import Clock
from gradscope.monitor.gauges import Gauge
from gradscope.monitor.modes import taken_off, traced
from gradscope.profile import operators
from gradscope.profile.site import recomputing

__all__ = ["Hooks"]


class Hooks:
    """Has gauges see the outputs of their sites.

    Args:
        gauges: of modules and of calls.
        clock: takes the time that the hooks take.
        failed: takes what went wrong in a hook.

    Attributes:
        first_seen: when an output was first measured in this step; what came before it may have
            been an evaluation.
    """

    def __init__(
        self, gauges: Sequence[Gauge], clock: Clock, failed: Callable[[Exception], None]
    ) -> None:
        self.clock, self.failed = clock, failed
        # By identity: modules that are compared by their values have no hash.
        self._modules: dict[int, list[Gauge]] = {}
        self._calls: dict[int, dict[str, list[Gauge]]] = {}
        for gauge in gauges:
            site = gauge.site
            if site.operator:
                called = self._calls.setdefault(id(site.module), {})
                called.setdefault(site.operator, []).append(gauge)
            else:
                self._modules.setdefault(id(site.module), []).append(gauge)
            gauge.hook = self._guarded(gauge.see_gradient)
        calls = [uses for each in self._calls.values() for uses in each.values()]
        for uses in (*self._modules.values(), *calls):
            uses.sort(key=lambda gauge: gauge.site.use)
        # Global hooks run before a module's own, in which tensor parallelism adds up its output.
        modules = {id(gauge.site.module): gauge.site.module for gauge in gauges}
        self._late_modules = [
            modules[key]
            for key in self._modules
            if modules[key]._forward_hooks and _is_parallel(modules[key])
        ]
        self._later = {id(each) for each in self._late_modules}
        self._uses: dict[int, int] = {}
        self._handles: list[RemovableHandle] = []
        self._running: list[nn.Module] = []
        self._modes: list[_Calls] = []
        self._thread = 0
        self._ending = False
        self.first_seen: float | None = None

    def put_on(self) -> None:
        """For the step that comes."""
        self._uses.clear()
        self._ending = False
        self.first_seen = None
        if self._handles:
            return
        self._running.clear()
        self._thread = threading.get_ident()
        if self._calls:
            self._handles = [
                register_module_forward_pre_hook(self._enter),
                register_module_forward_hook(self._leave, always_call=True),
            ]
        else:
            self._handles = [register_module_forward_hook(self._after)]
        self._handles += [each.register_forward_hook(self._at_last) for each in self._late_modules]

    def take_off(self) -> None:
        """At the end of a step; in the midst of a call that is listened to, after that."""
        # A mode that is never left would listen for ever.
        self._modes = [mode for mode in self._modes if not taken_off(mode)]
        self._ending = bool(self._modes)
        if not self._ending:
            for handle in self._handles:
                handle.remove()
            self._handles = []

    # --- Modules ------------------------------------------------------------------------------

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if id(module) not in self._later:
            self._at_last(module, args, output)

    def _at_last(self, module: nn.Module, args: Any, output: Any) -> None:
        gauges = self._modules.get(id(module))
        if gauges is not None:
            start = perf_counter()
            self.see(module, gauges, output)
            self.clock.seconds += perf_counter() - start

    def see(self, key: object, gauges: list[Gauge], output: Any) -> None:
        """Hands an output to the gauge whose turn it is."""
        try:
            if not torch.is_grad_enabled() or threading.get_ident() != self._thread or traced():
                return
            y = output if isinstance(output, Tensor) else next(tensors_in(output), None)
            if y is None or not y.is_floating_point():
                return
            again = recomputing()
            if self.first_seen is None:
                self.first_seen = perf_counter()
            gauge = gauges[0]
            if len(gauges) > 1:
                # Counted apart: checkpointing runs a part of the calls a second time.
                turn = id(key) * 2 + again
                use = self._uses.get(turn, 0)
                self._uses[turn] = use + 1
                gauge = gauges[use % len(gauges)]
            with torch._C.DisableTorchFunction():
                gauge.see(y, again=again)
        except Exception as error:
            self.failed(error)

    def _guarded(self, see: Callable[[Tensor], None]) -> Callable[[Tensor], None]:
        def guarded(gradient: Tensor) -> None:
            start = perf_counter()
            try:
                see(gradient)
            except Exception as error:
                self.failed(error)
            self.clock.seconds += perf_counter() - start

        return guarded

    # --- Calls of functions -------------------------------------------------------------------

    def _enter(self, module: nn.Module, args: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        self._running.append(module)
        calls = self._calls.get(id(module))
        if calls is not None:
            mode = _Calls(self, module, calls)
            mode.__enter__()  # type: ignore[no-untyped-call]
            self._modes.append(mode)

    def _leave(self, module: nn.Module, args: Any, output: Any) -> None:
        if threading.get_ident() != self._thread:
            return
        # A hook of the user's that raised has kept ours from running.
        if self._running and self._running[-1] is module:
            self._running.pop()
            if self._modes and self._modes[-1].module is module:
                self._modes.pop().__exit__(None, None, None)  # type: ignore[no-untyped-call]
        if self._ending:
            self.take_off()
        elif output is not None:
            self._after(module, args, output)

    def innermost(self, module: nn.Module) -> bool:
        """Whether it is the module whose own forward is running."""
        return bool(self._running) and self._running[-1] is module


class _Calls(TorchFunctionMode):
    """Listens to the calls of functions while one module runs that makes some that are sites."""

    def __init__(self, hooks: Hooks, module: nn.Module, calls: dict[str, list[Gauge]]) -> None:
        super().__init__()
        self.module = module
        self._hooks, self._calls = hooks, calls

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        name = getattr(func, "__name__", "")
        if self._hooks.innermost(self.module):
            start = perf_counter()
            try:
                with torch._C.DisableTorchFunction():
                    call = operators.called(name, args, kwargs, _is_parameter)
                gauges = None if call is None else self._calls.get(call.operator)
                if gauges is not None:
                    self._hooks.see(gauges, gauges, out)
            except Exception as error:
                self._hooks.failed(error)
            self._hooks.clock.seconds += perf_counter() - start
        return out


def _is_parameter(x: Tensor) -> bool:
    return isinstance(x, nn.Parameter)


def _is_parallel(module: nn.Module) -> bool:
    return any(type(each).__name__ == "DTensor" for each in module.parameters(recurse=False))
