from __future__ import annotations

import pytest

from tests.zoo.judging import check_healthy, of_calibration
from tests.zoo.subjects import (
    healthy_embedding,
    healthy_generative,
    healthy_reinforcement,
    healthy_tabular,
)
from tests.zoo.subjects.case import Case


@pytest.mark.slow
@of_calibration(healthy_embedding, healthy_generative, healthy_reinforcement, healthy_tabular)
def test_a_healthy_subject_has_no_finding(case: Case) -> None:
    check_healthy(case)
