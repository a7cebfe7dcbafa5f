from __future__ import annotations

import pytest

from tests.zoo.judging import check_faulty, of_calibration
from tests.zoo.subjects import faulty_data, faulty_outputs, faulty_sequences, faulty_wiring
from tests.zoo.subjects.case import Case


@pytest.mark.slow
@of_calibration(faulty_data, faulty_outputs, faulty_sequences, faulty_wiring)
def test_a_fault_is_found_before_what_it_causes(case: Case) -> None:
    check_faulty(case)
