"""A deadline goes by Redis's clock, whatever the producer's machine believes the time to be."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.waiting import wait_until
from tests.support.workers import environment
from visionq import BrokerUnavailable, Client, InvalidTask, Submission
from visionq.local import LocalUrls
from visionq.names import Names

PRODUCER = """
import asyncio, sys, time

right, off = time.time, float(sys.argv[3])
time.time = lambda: right() + off

import visionq

assert abs(time.time() - right() - off) < 5
kwargs = {"expires_in_seconds": 60}
with visionq.Client(sys.argv[1], namespace=sys.argv[2]) as client:
    print(client.describe("inputs/a", **kwargs).id)
    print(client.submit_many([visionq.Submission("describe", "inputs/a", options=kwargs)])[0].id)

async def submit():
    async with visionq.AsyncClient(sys.argv[1], namespace=sys.argv[2]) as client:
        print((await client.describe("inputs/a", **kwargs)).id)

asyncio.run(submit())
"""


def redis_time(raw: redis.Redis) -> float:
    seconds, micros = raw.time()
    return float(seconds) + float(micros) / 1e6


def deadline(raw: redis.Redis, names: Names, task_id: str) -> float:
    task = json.loads(str(raw.hget(names.record(task_id), "task")))
    return float(task["deadline"])


@pytest.mark.parametrize("off_seconds", [-600, 600, -30 * 24 * 3600])
def test_a_producer_s_wrong_clock_does_not_move_the_deadline(
    urls: LocalUrls, namespace: str, raw: redis.Redis, names: Names, off_seconds: int
) -> None:
    before = redis_time(raw)
    done = subprocess.run(
        [sys.executable, "-c", PRODUCER, urls.broker_url, namespace, str(off_seconds)],
        env=environment(urls, namespace),
        capture_output=True,
        text=True,
        timeout=60,
    )
    after = redis_time(raw)
    assert done.returncode == 0, done.stderr
    ids = done.stdout.split()
    assert len(ids) == 3
    for task_id in ids:
        assert before + 60 - 0.5 <= deadline(raw, names, task_id) <= after + 60


def test_the_message_has_the_deadline_of_the_record(
    client: Client, key: str, worker: HandWorker
) -> None:
    handle = client.ocr(key, expires_in_seconds=60)
    assert worker.task(handle.id).deadline is not None
    assert worker.messages()[0]["headers"]["id"] == handle.id


def test_a_deadline_costs_no_round_trip(
    own_client: Client, key: str, num_reads: Callable[[Callable[[], Any]], int]
) -> None:
    own_client.ocr(key)
    without = num_reads(lambda: own_client.ocr(key))
    assert num_reads(lambda: own_client.ocr(key, expires_in_seconds=60)) == without == 2


def test_a_task_that_waits_past_its_deadline_is_expired(
    client: Client, key: str, worker: HandWorker, raw: redis.Redis
) -> None:
    handle = client.ocr(key, expires_in_seconds=0.05)
    looked = wait_until(lambda: worker.records.due(10).tasks, seconds=10)
    assert [(one.task_id, one.verdict) for one in looked] == [(handle.id, "expire")]
    due = worker.task(handle.id).deadline
    assert due is not None
    assert redis_time(raw) > due


@pytest.mark.parametrize("wrong", ["soon", float("nan"), 0, -1, True, 10**400, float("inf")])
def test_a_wrong_expiry_is_refused_before_redis_is_asked(closed_port: int, wrong: Any) -> None:
    with (
        Client(f"redis://127.0.0.1:{closed_port}/0", timeout_seconds=0.1) as away,
        pytest.raises(InvalidTask, match="expires_in_seconds"),
    ):
        away.submit_many([Submission("ocr", "inputs/a", options={"expires_in_seconds": wrong})])


@pytest.mark.parametrize("jump_seconds", [3600, -3600])
@pytest.mark.parametrize("key", [None, "a key"])
def test_clock_that_was_set_since_it_was_read_does_not_move_the_deadline(
    client: Client, raw: redis.Redis, names: Names, jump_seconds: int, key: str | None
) -> None:
    """A client asks for Redis's time once a minute."""
    options: Any = {"expires_in_seconds": 60, "idempotency_key": key}
    other: Any = {"expires_in_seconds": 90}
    client.describe("inputs/b", **other)
    fleets = client._submitter.fleets
    fleets._redis_ahead_seconds -= jump_seconds
    before = redis_time(raw)
    first = client.describe("inputs/a", **options).id
    again = client.describe("inputs/a", **options).id
    assert (again == first) == (key is not None)
    fleets._redis_ahead_seconds -= jump_seconds
    submissions = [
        Submission("describe", "inputs/a", options=options),
        Submission("describe", "inputs/c", options=other),
        Submission("describe", "inputs/d"),
    ]
    same, third, fourth = (handle.id for handle in client.submit_many(submissions))
    after = redis_time(raw)
    assert (same == first) == (key is not None)
    for task_id, seconds in ((first, 60), (again, 60), (same, 60), (third, 90)):
        assert before + seconds - 1 <= deadline(raw, names, task_id) <= after + seconds + 1
    assert "deadline" not in json.loads(str(raw.hget(names.record(fourth), "task")))
    waiting = int(str(raw.hget(names.lane("interactive"), "waiting")))
    assert waiting == (4 if key else 6), "none is counted twice"
    assert raw.llen(names.queue("interactive")) == waiting


def test_clock_that_is_set_again_and_again_refuses_the_task(
    client: Client, raw: redis.Redis, names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client._submitter.fleets, "now", lambda: redis_time(raw) - 3600)
    with pytest.raises(BrokerUnavailable, match="clock was set"):
        client.describe("inputs/a", expires_in_seconds=60)
    assert raw.llen(names.queue("interactive")) == 0
