from __future__ import annotations

import pytest

from tests.zoo.judging import check_faulty, of_calibration
from tests.zoo.subjects import faulty_activations, faulty_depth, faulty_initialisation
from tests.zoo.subjects.case import Case


@pytest.mark.slow
@of_calibration(faulty_activations, faulty_depth, faulty_initialisation)
def test_a_fault_is_found_before_what_it_causes(case: Case) -> None:
    check_faulty(case)
