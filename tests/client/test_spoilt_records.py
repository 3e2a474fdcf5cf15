"""A record that cannot be read, or a report or a letter, spoils no call about the others."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import (
    AsyncClient,
    Client,
    State,
    Status,
    StoreAddress,
    Submission,
    TaskFailed,
    TaskUnknown,
    records,
)
from visionq.dead import DeadLetters, Outcome
from visionq.fleet import Fleets
from visionq.local import LocalUrls
from visionq.names import Names

Spoil = Callable[[redis.Redis, str], Any]

# A state that is unknown here: nothing can be said.
UNREADABLE: dict[str, Spoil] = {
    "a state of a newer version": lambda raw, name: raw.hset(name, "state", "PAUSED"),
    "no state": lambda raw, name: raw.hset(name, "state", ""),
    "a state that is no text": lambda raw, name: raw.hset(name, "state", b"\xff\xfe"),
    "another type of key": lambda raw, name: (
        raw.delete(name),
        raw.set(name, "a string", ex=60),
    ),
}
# The rest is still told.
IN_PART: dict[str, Spoil] = {
    "a lane of a newer version": lambda raw, name: raw.hset(
        name, "task", json.dumps({"version": 2, "kind": "ocr", "lane": "express"})
    ),
    "a task of a newer version": lambda raw, name: raw.hset(
        name, "task", json.dumps({"version": 2, "what": {"name": "ocr"}})
    ),
    "a kind that is no text": lambda raw, name: raw.hset(name, "task", '{"kind": ["ocr"]}'),
    "a lane that is no text": lambda raw, name: raw.hset(name, "task", '{"lane": {}}'),
    "a task cut off": lambda raw, name: raw.hset(name, "task", '{"kind": "o'),
    "a task that is a list": lambda raw, name: raw.hset(name, "task", "[]"),
    "a task that is no text": lambda raw, name: raw.hset(name, "task", b"\xff\xfe"),
    "deep brackets": lambda raw, name: raw.hset(name, "task", "[" * 100_000),
    "no task": lambda raw, name: raw.hdel(name, "task"),
    "numbers that are none": lambda raw, name: raw.hset(
        name, mapping={"seq": "x", "attempt": "", "tokens": "1.5", "max": "?", "at": "soon"}
    ),
    "fields of a newer version": lambda raw, name: raw.hset(name, "mood", "cheerful"),
}


@pytest.fixture
def three(client: Client, key: str) -> tuple[str, str, str]:
    first, second, third = (client.ocr(key).id for _ in range(3))
    return first, second, third


def statuses_of(
    client: Client, urls: LocalUrls, address: StoreAddress, names: Names, ids: tuple[str, ...]
) -> list[list[Status]]:
    """By both clients."""

    async def of_async() -> list[Status]:
        async with AsyncClient(urls.broker_url, address, namespace=names.namespace) as other:
            return await other.status_many(ids)

    return [client.status_many(ids), asyncio.run(of_async())]


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_record_that_cannot_be_read_is_reported_beside_the_others(
    client: Client,
    urls: LocalUrls,
    address: StoreAddress,
    names: Names,
    raw: redis.Redis,
    three: tuple[str, str, str],
    name: str,
) -> None:
    UNREADABLE[name](raw, names.record(three[1]))
    for statuses in statuses_of(client, urls, address, names, three):
        assert [one.id for one in statuses] == list(three)
        assert [one.state for one in statuses] == [State.PENDING, State.UNKNOWN, State.PENDING]
        failure = statuses[1].failure
        assert failure is not None
        assert failure.code == "unsupported_version"
    assert {one.id for one in client.recent()} == {three[0], three[2]}
    with pytest.raises(TaskUnknown, match="newer version"):
        client.wait(three[1], 0)


@pytest.mark.parametrize("name", IN_PART)
def test_what_can_be_read_of_a_record_is_told(
    client: Client,
    urls: LocalUrls,
    address: StoreAddress,
    names: Names,
    raw: redis.Redis,
    three: tuple[str, str, str],
    name: str,
) -> None:
    IN_PART[name](raw, names.record(three[1]))
    for statuses in statuses_of(client, urls, address, names, three):
        assert [one.state for one in statuses] == [State.PENDING] * 3
        assert [one.kind for one in statuses][::2] == ["ocr", "ocr"]
    assert client.status(three[1]).state is State.PENDING
    assert {one.id for one in client.recent()} == set(three)
    assert client.cancel(three[0]) is State.REVOKED


def test_a_failure_that_was_spoilt_is_still_a_failure(
    client: Client, worker: HandWorker, three: tuple[str, str, str]
) -> None:
    worker.end(three[0], State.FAILURE)
    with pytest.raises(TaskFailed, match=three[0]):
        client.result(three[0], 0)


@pytest.mark.parametrize(
    "told",
    [
        "nothing",
        "",
        b"\xff",
        "99999999999 {",
        "99999999999 []",
        '99999999999 {"model": "m"}',
        '99999999999 {"model": "m", "model_revision": null, "max_context_tokens": "many", '
        '"concurrency": 1}',
        '99999999999 {"model": "m", "model_revision": null, "max_context_tokens": 64, '
        '"concurrency": 1, "tasks_per_second": "fast"}',
    ],
)
def test_a_report_that_was_spoilt_keeps_nobody_from_submitting(
    client: Client, key: str, names: Names, raw: redis.Redis, told: str | bytes
) -> None:
    raw.hset(names.workers(), "host:1", told)
    raw.expire(names.workers(), 60)
    assert client.ocr(key).status().state is State.PENDING
    assert Fleets(client._submitter.records._redis, names).look().workers == ()


@pytest.mark.parametrize("entry", ["{", "[]", "5", '{"id": 5}', b"\xff", '{"at": "x"}'])
def test_a_letter_that_was_spoilt_is_listed_beside_the_others_and_can_be_purged(
    worker: HandWorker, names: Names, raw: redis.Redis, entry: str | bytes
) -> None:
    good = json.dumps({"id": "good", "at": 2.0, "reason": "no JSON", "queue": names.queue("bulk")})
    for number, (name, written) in enumerate({"bad": entry, "good": good}.items()):
        raw.hset(names.dead(), name, written)
        raw.hset(names.dead_messages(), name, "message")
        raw.zadd(names.dead_index(), {name: number})
    for where in (names.dead(), names.dead_messages(), names.dead_index()):
        raw.expire(where, 60)
    letters = DeadLetters(worker.records._redis, names, ttl_seconds=60)
    assert [one.id for one in letters.list()] == ["good", "bad"]
    assert "damaged" in letters.show("bad").letter.reason
    outcomes = {one.id: one.outcome for one in letters.replay(["bad", "good"])}
    assert outcomes == {"bad": Outcome.UNKNOWN, "good": Outcome.REPLAYED}
    assert letters.purge(["bad"]) == ("bad",)


@pytest.mark.parametrize("name", UNREADABLE)
def test_the_status_of_one_is_the_status_among_many(
    client: Client, names: Names, raw: redis.Redis, key: str, name: str
) -> None:
    task_id = client.ocr(key).id
    UNREADABLE[name](raw, names.record(task_id))
    status = client._submitter.records.status(task_id)
    assert (status.state, status.failure) == (State.UNKNOWN, records.UNREADABLE)
    assert client.status(task_id) == status


@pytest.mark.parametrize("state", ["PAUSED", "", b"\xff"])
def test_a_state_of_a_newer_version_is_no_reason_for_another_try(
    client: Client, names: Names, raw: redis.Redis, key: str, state: str | bytes
) -> None:
    first = client.ocr(key, idempotency_key="order-1")
    raw.hset(names.record(first.id), "state", state)
    assert client.ocr(key, idempotency_key="order-1").id == first.id
    submission = Submission("ocr", key, options={"idempotency_key": "order-1"})
    assert [one.id for one in client.submit_many([submission])] == [first.id]
    assert raw.hget(names.record(first.id), "next") is None
    assert client.cancel(first.id) is State.UNKNOWN


def test_a_task_whose_record_was_spoilt_can_be_cancelled(
    client: Client, names: Names, raw: redis.Redis, key: str
) -> None:
    for spoilt in ("{", "[]", "5", ""):
        task_id = client.ocr(key).id
        raw.hset(names.record(task_id), "task", spoilt)
        assert client.cancel(task_id) is State.REVOKED


@pytest.mark.parametrize(
    ("state", "task"), [("PAUSED", "{}"), ("", "{"), (b"\xff", "[" * 100_000), ("PAUSED", "[]")]
)
def test_a_letter_is_shown_whose_record_cannot_be_read(
    worker: HandWorker, names: Names, raw: redis.Redis, state: str | bytes, task: str
) -> None:
    letter_id = str(uuid.uuid4())
    entry = {"id": letter_id, "at": 2.0, "reason": "lost", "queue": names.queue("bulk")}
    raw.hset(names.dead(), letter_id, json.dumps(entry))
    raw.hset(names.dead_messages(), letter_id, "message")
    raw.zadd(names.dead_index(), {letter_id: 1})
    raw.hset(names.record(letter_id), mapping={"state": state, "task": task})
    for where in (names.dead(), names.dead_messages(), names.dead_index(), names.record(letter_id)):
        raw.expire(where, 60)
    letters = DeadLetters(worker.records._redis, names, ttl_seconds=60)
    shown = letters.show(letter_id)
    assert shown.state is State.UNKNOWN
    assert shown.task == ({} if task == "{}" else None)
    (replayed,) = letters.replay([letter_id])
    assert (replayed.outcome, replayed.state) == (Outcome.ALIVE, State.UNKNOWN)
