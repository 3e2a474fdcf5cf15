"""How the soak tells growth from noise."""

from __future__ import annotations

import pytest

from tests.faults.soak import WorkerSample, slope_mb


def test_slope_is_megabytes_in_ten_thousand_tasks() -> None:
    grown = [WorkerSample(0, 400_000_000), WorkerSample(5_000, 401_000_000)]
    assert slope_mb(grown) == pytest.approx(2.0)


def test_slope_is_that_of_least_squares() -> None:
    # Around the means, in 10,000 tasks and MB: products -1 * -4/3 + 1 * -1/3, squares 1 + 1.
    uneven = [
        WorkerSample(0, 400_000_000),
        WorkerSample(10_000, 403_000_000),
        WorkerSample(20_000, 401_000_000),
    ]
    assert slope_mb(uneven) == pytest.approx(0.5)
