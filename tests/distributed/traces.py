"""Everything about a model, and about torch, that being profiled must leave as it was."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

# Not those of state_dict(): FSDP adds some itself in the first forward pass.
HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def traces(model: nn.Module) -> dict[str, Any]:
    """What to compare before and after, by what it is called."""
    found: dict[str, Any] = {
        "function modes": list(map(id, _get_current_function_mode_stack())),
        "dispatch modes": list(map(id, _get_current_dispatch_mode_stack())),
        "gradient mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "functions": [id(each) for each in (torch.relu, torch.nn.functional.relu, Tensor.relu)],
        "torch's generator": torch.get_rng_state().tolist(),
        "numpy's generator": str(np.random.get_state()),  # noqa: NPY002
        "Python's generator": random.getstate(),
        "global hooks": [len(getattr(nn.modules.module, f"_global{kind}")) for kind in HOOKS],
    }
    for name, module in model.named_modules():
        found[f"class of {name!r}"] = type(module)
        found[f"mode of {name!r}"] = module.training
        found[f"attributes of {name!r}"] = sorted(module.__dict__)
        for kind in HOOKS:
            found[f"{kind} of {name!r}"] = list(getattr(module, kind))
    # A parameter may stand under several names; a sharded one also as what it was gathered into.
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found[f"identity of {name}"] = (id(tensor), type(tensor))
        found[f"gradient of {name}"] = (tensor.requires_grad, id(tensor.grad))
        found[f"tensor hooks of {name}"] = [
            len(getattr(tensor, kind, None) or ())
            for kind in ("_backward_hooks", "_post_accumulate_grad_hooks")
        ]
        found[f"bits of {name}"] = _bits(tensor)
        found[f"bits of the gradient of {name}"] = _bits(tensor.grad)
    return found


def _bits(tensor: Tensor | None) -> bytes:
    if tensor is None:
        return b""
    local = tensor.to_local() if isinstance(tensor, DTensor) else tensor
    # Of a copy: what shares its memory with numpy cannot be freed by FSDP any more.
    return local.detach().clone().numpy().tobytes()
