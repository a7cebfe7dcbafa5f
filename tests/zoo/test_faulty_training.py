from __future__ import annotations

import pytest

from tests.zoo.judging import check_faulty, of_calibration
from tests.zoo.subjects import (
    faulty_growth,
    faulty_losses,
    faulty_modes,
    faulty_numbers,
    faulty_updates,
)
from tests.zoo.subjects.case import Case


@pytest.mark.slow
@of_calibration(faulty_growth, faulty_losses, faulty_modes, faulty_numbers, faulty_updates)
def test_a_fault_is_found_before_what_it_causes(case: Case) -> None:
    check_faulty(case)
