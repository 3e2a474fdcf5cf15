"""Redis's clock is set an hour forward: leases do not end by that, and those of the dead soon.

The stamps are written as the clock before would have.
"""

from __future__ import annotations

import pytest

from tests.worker.test_leases import LEASE_SECONDS, Desk, MakeLeases, desk, make_leases, message
from visionq_worker.clock_steps import ClockSteps
from visionq_worker.leases import Leases, Swept

__all__ = ["desk", "make_leases"]  # fixtures of the leases' own tests

HOUR = 3600.0


def set_forward(desk: Desk, *workers: Leases, seconds: float = HOUR) -> None:
    """For claims, and for workers that have swept before."""
    desk.let_time_pass(seconds)
    for leases in workers:
        assert leases._steps._ahead is not None
        leases._steps._ahead -= seconds


def test_tasks_of_those_who_live_are_left_to_them(desk: Desk, make_leases: MakeLeases) -> None:
    alive = make_leases("alive:1")
    desk.leases.sweep()
    desk.push(message())
    _, claim = desk.must_claim(alive)
    set_forward(desk, desk.leases)
    assert desk.leases.sweep() == Swept(0, ())
    assert alive.renew() == []
    assert alive.held == [claim]


def test_task_of_a_dead_worker_goes_back_one_lease_later(
    desk: Desk, make_leases: MakeLeases
) -> None:
    desk.leases.sweep()
    desk.push(message())
    desk.must_claim(make_leases("dead:1"))
    set_forward(desk, desk.leases)
    desk.leases.sweep()
    desk.let_time_pass(LEASE_SECONDS - 1)
    assert desk.leases.sweep() == Swept(0, ())
    desk.let_time_pass(2)
    assert desk.leases.sweep() == Swept(1, ())


def test_all_claims_count_from_then_however_many_there_are(
    desk: Desk, make_leases: MakeLeases, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("visionq_worker.leases.MAX_SWEPT", 2)
    alive = make_leases("alive:1")
    desk.leases.sweep()
    for _ in range(5):
        desk.push(message())
        desk.must_claim(alive)
    set_forward(desk, desk.leases)
    assert [desk.leases.sweep() for _ in range(3)] == [Swept(0, ())] * 3
    assert len(alive.held) == 5


def test_time_that_has_really_passed_is_no_step(desk: Desk, make_leases: MakeLeases) -> None:
    """All workers were away: what they held goes back at the first sweep."""
    desk.leases.sweep()
    desk.push(message())
    desk.must_claim(make_leases("dead:1"))
    desk.let_time_pass(HOUR)
    assert desk.leases.sweep() == Swept(1, ())


def test_new_worker_sweeps_at_once(desk: Desk, make_leases: MakeLeases) -> None:
    desk.push(message())
    desk.must_claim(make_leases("dead:1"))
    desk.let_time_pass(LEASE_SECONDS + 1)
    assert make_leases("new:1").sweep() == Swept(1, ())


def test_small_step_ends_no_lease_that_is_renewed_in_time(
    desk: Desk, make_leases: MakeLeases
) -> None:
    """Renewed each third of it, and half of it on top."""
    alive = make_leases("alive:1")
    desk.leases.sweep()
    desk.push(message())
    desk.must_claim(alive)
    desk.let_time_pass(LEASE_SECONDS / 3)
    set_forward(desk, desk.leases, seconds=LEASE_SECONDS / 2 - 1)
    assert desk.leases.sweep() == Swept(0, ())


class Machine:
    """Elapsed time, and a clock elsewhere."""

    def __init__(self) -> None:
        self.elapsed = 100.0
        self.ahead = 1e9
        self.steps = ClockSteps(lambda: self.elapsed)

    def excess(self, reply_seconds: float) -> float | None:
        """By how much the clock shows more than it can, when its answer takes so long."""
        asked_at, latest = self.steps.asks()
        self.elapsed += reply_seconds
        shown = self.elapsed + self.ahead
        self.steps.saw(shown, asked_at)
        self.elapsed += 1.0
        return None if latest is None else shown - latest


def test_first_look_knows_nothing() -> None:
    assert Machine().excess(0.0) is None


@pytest.mark.parametrize("step", [3.0, 600.0, 1e6])
def test_step_forward_is_seen_once(step: float) -> None:
    machine = Machine()
    machine.excess(0.0)
    assert machine.excess(0.0) == pytest.approx(0)
    machine.ahead += step
    assert machine.excess(0.0) == pytest.approx(step)
    assert machine.excess(0.0) == pytest.approx(0)


def test_replies_that_are_slow_now_and_then_are_taken_for_a_step_once_at_most() -> None:
    machine = Machine()
    machine.excess(0.0)
    found = [machine.excess(seconds) or 0.0 for seconds in (0.0, 4.0, 0.0, 4.0, 0.1, 3.9)]
    assert sum(excess > 1.0 for excess in found) == 1


def test_step_forward_is_seen_after_one_back() -> None:
    machine = Machine()
    machine.excess(0.0)
    machine.ahead -= 3600
    machine.excess(0.0)
    machine.ahead += 3600
    assert machine.excess(0.0) == pytest.approx(3600)
