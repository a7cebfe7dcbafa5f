from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch._dynamo
from torch._dynamo.utils import counters

from tests.gradscope.monitor.compiled_trainings import has_hooks, stance


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing is compiled before, and nothing of a monitor is left after."""
    torch._dynamo.reset()
    counters.clear()
    yield
    assert stance() == "default"
    assert not has_hooks()
    torch._dynamo.reset()
