from __future__ import annotations

import pytest

from gradscope.pipeline import scan
from tests.zoo.healthy import HEALTHY, healthy_subject


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_network_has_no_finding(name: str, seed: int) -> None:
    report = scan(healthy_subject(name), seed=seed)

    assert [(finding.code, finding.message) for finding in report.findings] == []
