"""What a probe says of a worker, moment by moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from visionq_worker.health import (
    MAX_AGE_SECONDS,
    STUCK_SECONDS,
    Health,
    Pulse,
    problem,
    stuck_seconds,
    write_health,
)

WELL = Health(
    at=time(),
    loop_age=0.5,
    claim_age=0.5,
    accepted_age=0.5,
    write_age=0.5,
    fresh_for=None,
    num_in_hand=3,
    may_claim=True,
    is_full=False,
)
OLD = MAX_AGE_SECONDS + 1
LONG = STUCK_SECONDS + 1
STANDSTILLS: list[tuple[dict[str, float | None], str]] = [
    ({"write_age": OLD}, "Redis has taken no write of this worker's for 16 s"),
    ({"write_age": None}, "Redis has taken no write of this worker's yet"),
    ({"loop_age": OLD}, "the event loop has not turned for 16 s"),
    ({"loop_age": None}, "the event loop has not turned yet"),
    ({"claim_age": OLD}, "Redis has answered no claim for messages for 16 s"),
    ({"claim_age": None}, "Redis has answered no claim for messages yet"),
]


def changed(changes: dict[str, float | None]) -> Health:
    return replace(WELL, **changes)  # type: ignore[arg-type]


def test_worker_that_takes_messages_is_live_and_ready() -> None:
    assert WELL.why_not_live() is None
    assert WELL.why_not_ready() is None


@pytest.mark.parametrize(("change", "reason"), STANDSTILLS)
@pytest.mark.parametrize("fresh_for", [None, 0.0, STUCK_SECONDS - 1])
def test_what_stands_still_in_an_outage_is_not_ready_and_lives(
    change: dict[str, float | None], reason: str, fresh_for: float | None
) -> None:
    """Also just after it, when new connections work and those of the worker soon will."""
    health = changed(change | {"fresh_for": fresh_for})
    assert health.why_not_live() is None
    assert health.why_not_ready() == reason


@pytest.mark.parametrize(("change", "reason"), STANDSTILLS)
def test_what_stands_still_while_new_connections_work_does_not_live(
    change: dict[str, float | None], reason: str
) -> None:
    health = changed(change | {"fresh_for": LONG})
    stuck = f"{reason}, and over new connections it has taken writes for 31 s"
    assert health.why_not_live() == health.why_not_ready() == health.why_stuck() == stuck


def test_slow_connections_are_given_more_time() -> None:
    health = replace(changed({"write_age": OLD, "fresh_for": LONG}), stuck_seconds=60.0)
    assert health.why_not_live() is None


@pytest.mark.parametrize(("timeout", "patience"), [(0.5, 30), (5, 30), (10, 60)])
def test_time_given_is_for_some_time_outs(timeout: float, patience: float) -> None:
    assert stuck_seconds(timeout) == patience


def test_new_connections_say_nothing_against_a_worker_that_works() -> None:
    assert replace(WELL, fresh_for=LONG).why_not_live() is None


def test_worker_whose_engine_makes_no_progress_does_not_live_and_is_no_case_of_redis() -> None:
    health = replace(WELL, is_engine_well=False, fresh_for=LONG)
    assert health.why_not_live() == health.why_not_ready() == "the engine makes no progress"
    assert health.why_stuck() is None, "the watchdog ends it"


@pytest.mark.parametrize("change", [{"is_full": True}, {"may_claim": False}])
def test_worker_with_a_reason_not_to_ask_for_messages_lives(change: dict[str, bool]) -> None:
    health = replace(WELL, claim_age=OLD, fresh_for=LONG, **change)
    assert health.why_not_live() is None


def test_worker_whose_claims_are_refused_lives_and_is_not_ready() -> None:
    """Any other process would be refused them, too: by access rules, or by a full Redis."""
    health = replace(WELL, accepted_age=OLD, fresh_for=LONG)
    assert health.why_not_live() is None
    assert health.why_not_ready() == "Redis has refused all claims for messages for 16 s"


def test_worker_without_the_store_is_not_ready() -> None:
    reason = replace(WELL, may_claim=False, claim_age=OLD).why_not_ready()
    assert reason is not None
    assert reason.startswith("the object store is away")


def test_full_worker_is_ready() -> None:
    assert replace(WELL, is_full=True, claim_age=OLD, accepted_age=OLD).why_not_ready() is None


def moment(pulse: Pulse) -> Health:
    return pulse.health(num_in_hand=0, may_claim=True, is_full=False, is_engine_well=True)


def test_file_tells_the_probe(tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    pulse = Pulse()
    pulse.loop_turned()
    pulse.claim_accepted()
    write_health(file, moment(pulse))
    assert problem(file, must_be_ready=False) is None
    never = "Redis has taken no write of this worker's yet"
    assert problem(file, must_be_ready=True) == never
    pulse.wrote()
    write_health(file, moment(pulse))
    assert problem(file, must_be_ready=True) is None
    assert list(tmp_path.iterdir()) == [file]


def test_refused_claim_is_answered_and_not_accepted() -> None:
    pulse = Pulse()
    pulse.claim_refused()
    assert moment(pulse).claim_age is not None
    assert moment(pulse).accepted_age is None


def test_one_failure_ends_the_row_of_writes_over_new_connections() -> None:
    pulse = Pulse()
    assert moment(pulse).fresh_for is None
    pulse.wrote_freshly()
    assert moment(pulse).fresh_for == 0
    pulse.wrote_freshly()
    since_first = moment(pulse).fresh_for
    assert since_first is not None
    assert since_first > 0
    pulse.forget_fresh()
    assert moment(pulse).fresh_for is None


def test_file_that_is_old_missing_or_spoilt_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    assert "there is no" in (problem(file, must_be_ready=False) or "")
    write_health(file, replace(WELL, at=time() - OLD))
    assert "was last written 16 s ago" in (problem(file, must_be_ready=False) or "")
    file.write_text("{")
    assert "cannot be read" in (problem(file, must_be_ready=False) or "")
