"""The meter: totals, and rates of the last ten seconds, by a clock of the test's own."""

from __future__ import annotations

import threading

import pytest

from visionq_worker.engine import metrics
from visionq_worker.engine.metrics import Meter


class Clock:
    """Stands until it is moved."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(metrics, "perf_counter", clock)
    return clock


def test_meter_without_steps_knows_no_step_time_and_no_rates() -> None:
    assert Meter().recent() == (None, 0.0, 0.0)


def test_lone_step_is_measured_by_its_own_time(clock: Clock) -> None:
    meter = Meter()
    meter.step(0.5, num_in=100, num_out=2)
    assert meter.recent() == (0.5, 200.0, 4.0)


def test_rates_are_over_the_time_since_the_oldest_step_began(clock: Clock) -> None:
    meter = Meter()
    meter.step(1.0, num_in=30, num_out=0)  # it began at 999
    clock.now += 2
    meter.step(0.5, num_in=0, num_out=6)
    # 999 to 1002: three seconds.
    assert meter.recent() == (0.75, 10.0, 2.0)


def test_rates_sink_when_nothing_is_done(clock: Clock) -> None:
    meter = Meter()
    meter.step(1.0, num_in=30, num_out=6)
    clock.now += 5
    assert meter.recent() == (1.0, 5.0, 1.0)


def test_steps_are_forgotten_after_ten_seconds_and_totals_are_not(clock: Clock) -> None:
    meter = Meter()
    meter.step(1.0, num_in=30, num_out=6)
    clock.now += 10.5
    assert meter.recent() == (None, 0.0, 0.0)
    meter.step(0.25, num_in=1, num_out=2)
    assert meter.recent() == (0.25, 4.0, 8.0)
    assert (meter.num_steps, meter.num_prompt_tokens, meter.num_generated_tokens) == (2, 31, 8)


def test_meter_keeps_no_more_steps_than_those_of_ten_seconds(clock: Clock) -> None:
    meter = Meter()
    for _ in range(1_000):
        clock.now += 0.1
        meter.step(0.1, num_in=1, num_out=1)
    assert len(meter._recent) <= 102
    assert meter.num_steps == 1_000


def test_step_without_any_time_is_no_division_by_zero(clock: Clock) -> None:
    meter = Meter()
    meter.step(0.0, num_in=0, num_out=1)
    mean, tokens_in, tokens_out = meter.recent()
    assert (mean, tokens_in) == (0.0, 0.0)
    assert tokens_out > 0


def test_meter_may_be_read_while_it_is_written() -> None:
    meter = Meter()

    def write() -> None:
        for _ in range(20_000):
            meter.step(0.001, num_in=1, num_out=1)

    writer = threading.Thread(target=write)
    writer.start()
    while writer.is_alive():
        mean, _, _ = meter.recent()
        assert mean is None or mean == pytest.approx(0.001)
    writer.join()
    assert meter.num_steps == 20_000
