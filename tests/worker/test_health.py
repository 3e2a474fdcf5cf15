"""What a probe says of a worker, moment by moment."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from time import time

import pytest

from visionq_worker.health import MAX_AGE_SECONDS, Health, Pulse, problem, write_health

WELL = Health(
    at=time(),
    loop_age=0.5,
    claim_age=0.5,
    broker_age=0.5,
    num_in_hand=3,
    may_claim=True,
    is_full=False,
)
OLD = MAX_AGE_SECONDS + 1


def test_worker_that_takes_messages_is_live_and_ready() -> None:
    assert WELL.why_not_live() is None
    assert WELL.why_not_ready() is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"loop_age": OLD}, "the event loop does not turn"),
        ({"loop_age": None}, "the event loop does not turn"),
        ({"claim_age": OLD}, "no messages are asked for"),
        ({"claim_age": None}, "no messages are asked for"),
        ({"is_engine_well": False}, "the engine makes no progress"),
    ],
)
def test_worker_that_has_stopped_consuming_does_not_live(
    change: dict[str, float | None], reason: str
) -> None:
    health = replace(WELL, **change)  # type: ignore[arg-type]
    assert health.why_not_live() == reason
    assert health.why_not_ready() == reason


@pytest.mark.parametrize("change", [{"is_full": True}, {"may_claim": False}, {"broker_age": OLD}])
def test_worker_with_a_reason_not_to_ask_for_messages_lives(change: dict[str, bool]) -> None:
    assert replace(WELL, claim_age=OLD, **change).why_not_live() is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"broker_age": OLD}, "Redis does not answer"),
        ({"may_claim": False}, "the object store is away, or the worker is stopping"),
    ],
)
def test_worker_without_broker_or_store_is_not_ready(change: dict[str, bool], reason: str) -> None:
    assert replace(WELL, **change).why_not_ready() == reason


def test_full_worker_is_ready() -> None:
    assert replace(WELL, is_full=True, claim_age=OLD).why_not_ready() is None


def test_file_tells_the_probe(tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    pulse = Pulse()
    pulse.loop_turned()
    pulse.claim_sent()
    write_health(
        file, pulse.health(num_in_hand=0, may_claim=True, is_full=False, is_engine_well=True)
    )
    assert problem(file, must_be_ready=False) is None
    assert problem(file, must_be_ready=True) == "Redis does not answer"
    pulse.broker_answered()
    write_health(
        file, pulse.health(num_in_hand=0, may_claim=True, is_full=False, is_engine_well=True)
    )
    assert problem(file, must_be_ready=True) is None
    assert list(tmp_path.iterdir()) == [file]


def test_file_that_is_old_missing_or_spoilt_is_a_problem(tmp_path: Path) -> None:
    file = tmp_path / "health.json"
    assert "there is no" in (problem(file, must_be_ready=False) or "")
    write_health(file, replace(WELL, at=time() - OLD))
    assert "was last written 16 s ago" in (problem(file, must_be_ready=False) or "")
    file.write_text("{")
    assert "cannot be read" in (problem(file, must_be_ready=False) or "")
