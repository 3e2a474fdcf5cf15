"""How fast a worker is, by a clock that the test turns."""

from __future__ import annotations

import pytest

from visionq_worker.throughput import HALF_LIFE_SECONDS, Throughput


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def throughput(clock: Clock) -> Throughput:
    return Throughput(clock)


def test_nothing_is_measured_before_a_task_has_ended(clock: Clock, throughput: Throughput) -> None:
    assert throughput.measured() is None
    with throughput.task():
        clock.now += 5
        assert throughput.measured() is None


def test_tasks_one_after_the_other(clock: Clock, throughput: Throughput) -> None:
    for _ in range(3):
        with throughput.task():
            clock.now += 2
    assert throughput.measured() == pytest.approx((0.5, 2.0), rel=0.05)


def test_tasks_beside_each_other_share_the_time(clock: Clock, throughput: Throughput) -> None:
    with throughput.task(), throughput.task(), throughput.task(), throughput.task():
        clock.now += 2
    assert throughput.measured() == pytest.approx((2.0, 2.0), rel=0.05)


def test_idle_time_makes_nobody_slow(clock: Clock, throughput: Throughput) -> None:
    with throughput.task():
        clock.now += 2
    before = throughput.measured()
    clock.now += 3600
    assert throughput.measured() == before


def test_what_was_long_ago_fades(clock: Clock, throughput: Throughput) -> None:
    with throughput.task():
        clock.now += 60
    while clock.now < 1000 + 10 * HALF_LIFE_SECONDS:
        with throughput.task():
            clock.now += 1
    assert throughput.measured() == pytest.approx((1.0, 1.0), rel=0.1)


def test_a_task_that_goes_back_into_the_queue_does_not_count(
    clock: Clock, throughput: Throughput
) -> None:
    with throughput.task():
        clock.now += 2
    with pytest.raises(OSError, match="away"), throughput.task():
        raise OSError("away")
    assert throughput.measured() == pytest.approx((0.5, 2.0))
