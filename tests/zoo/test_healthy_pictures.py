from __future__ import annotations

import pytest

from tests.zoo.judging import check_healthy, of_calibration
from tests.zoo.subjects import healthy_convolutional, healthy_dense
from tests.zoo.subjects.case import Case


@pytest.mark.slow
@of_calibration(healthy_convolutional, healthy_dense)
def test_a_healthy_subject_has_no_finding(case: Case) -> None:
    check_healthy(case)
