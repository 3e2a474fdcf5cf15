"""What Redis refuses while a message changes hands leaves it where it was, to be tried again."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.redis_users import EVERYTHING, redis_user
from tests.worker.test_leases import Desk, MakeLeases, desk, make_leases, message
from visionq import Lane
from visionq.local import LocalUrls
from visionq_worker.leases import Leases, Swept

__all__ = ["desk", "make_leases"]

Settle = Callable[[Leases, str], object]
SETTLE: dict[str, Settle] = {
    "give back": lambda leases, claim: leases.give_back(claim),
    "strike": lambda leases, claim: leases.strike(claim, "it broke"),
    "sweep": lambda leases, _: leases.sweep(),
}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
def test_message_whose_queue_is_no_list_is_kept(desk: Desk, settle: Settle) -> None:
    text = message(str(uuid.uuid4()))
    desk.push(text)
    _, claim = desk.must_claim()
    desk.let_time_pass(61)
    desk.raw.set(desk.names.queue(Lane.INTERACTIVE), "somebody's", ex=60)
    settle(desk.leases, claim)
    assert desk.raw.hexists(desk.names.unacked(), claim)
    desk.raw.delete(desk.names.queue(Lane.INTERACTIVE))
    desk.let_time_pass(61)
    desk.leases.retry()
    desk.leases.sweep()
    assert desk.queued() == [text]
    assert desk.is_clean()


def test_message_whose_queue_may_not_be_written_is_kept(
    desk: Desk, make_leases: MakeLeases, urls: LocalUrls
) -> None:
    queue, text = desk.names.queue(Lane.INTERACTIVE), message(str(uuid.uuid4()))
    with redis_user(urls, *EVERYTHING) as user:
        limited = make_leases("host:2", user.urls.broker_url)
        desk.push(text)
        _, claim = desk.must_claim(limited)
        user.may("resetkeys", f"%R~{queue}", f"~{desk.names.namespace}:*", "&*", "+@all")
        for _ in range(3):
            limited.give_back(claim)
        assert desk.raw.hexists(desk.names.unacked(), claim)
        assert desk.queued() == []
        user.may(*EVERYTHING)
        limited.retry()
    assert desk.queued() == [text]
    assert desk.is_clean()


def test_claim_that_cannot_be_ended_keeps_no_other_from_it(desk: Desk) -> None:
    texts = [message(str(uuid.uuid4())) for _ in range(2)]
    for text, lane in zip(texts, Lane, strict=False):
        desk.push(text, lane)
        desk.must_claim()
    desk.let_time_pass(61)
    desk.raw.set(desk.names.queue(Lane.INTERACTIVE), "somebody's", ex=60)
    assert desk.leases.sweep() == Swept(1, ())
    assert desk.queued(Lane.BULK) == [texts[1]]
    desk.raw.delete(desk.names.queue(Lane.INTERACTIVE))
    assert desk.leases.sweep() == Swept(0, ()), "it is looked at again a lease later"
    desk.let_time_pass(61)
    assert desk.leases.sweep() == Swept(1, ())
    assert desk.queued() == [texts[0]]


@pytest.mark.parametrize("which", ["put aside", "strike", "sweep"])
def test_message_that_cannot_be_put_aside_is_kept(desk: Desk, which: str) -> None:
    task_id = str(uuid.uuid4())
    text = message(task_id)
    desk.push(text)
    _, claim = desk.must_claim()
    desk.let_time_pass(61)
    desk.raw.hset(desk.names.record(task_id), "strikes", "2")
    desk.raw.expire(desk.names.record(task_id), 60)
    desk.raw.set(desk.names.dead_messages(), "somebody's", ex=60)
    settle: dict[str, Settle] = {**SETTLE, "put aside": lambda one, of: one.put_aside(of, "bad")}
    settle[which](desk.leases, claim)
    assert desk.raw.hexists(desk.names.unacked(), claim)
    assert desk.record(task_id)["strikes"] == "2", "else each try would be one more"
    desk.raw.delete(desk.names.dead_messages())
    desk.let_time_pass(61)
    desk.leases.retry()
    desk.leases.sweep()
    assert list(desk.raw.hgetall(desk.names.dead_messages()).values()) == [text]
    assert desk.is_clean()


def test_message_that_cannot_be_left_to_a_newer_worker_is_kept(desk: Desk) -> None:
    task_id = str(uuid.uuid4())
    text = message(task_id)
    desk.push(text)
    _, claim = desk.must_claim()
    newer = desk.names.newer(f"2:{desk.names.queue(Lane.INTERACTIVE)}")
    desk.raw.set(f"{newer}:messages", "somebody's", ex=60)
    desk.leases.defer(claim, 2, json.dumps({"id": task_id}), "{}")
    assert desk.raw.hexists(desk.names.unacked(), claim)
    desk.raw.delete(f"{newer}:messages")
    desk.leases.retry()
    assert desk.raw.hgetall(f"{newer}:messages") == {task_id: text}
    assert desk.is_clean()


def test_messages_that_name_their_task_in_the_body_do_not_replace_each_other(desk: Desk) -> None:
    """Celery's first protocol: its headers have no id, so the claim knows none."""
    ids = [str(uuid.uuid4()) for _ in range(2)]
    for task_id in ids:
        desk.push(json.dumps({"body": "W10=", "headers": {}, "properties": {"tag": task_id}}))
        _, claim = desk.must_claim()
        desk.leases.defer(claim, 2, json.dumps({"id": task_id}), "{}")
    newer = desk.names.newer(f"2:{desk.names.queue(Lane.INTERACTIVE)}")
    left: Any = desk.raw.hgetall(f"{newer}:messages")
    assert sorted(left) == sorted(ids)
    assert {desk.record(task_id)["state"] for task_id in ids} == {"PENDING"}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
def test_full_redis_takes_a_message_back(desk: Desk, settle: Settle) -> None:
    """It is no larger in its queue than it was under its claim."""
    text = message(str(uuid.uuid4()))
    desk.push(text)
    _, claim = desk.must_claim()
    desk.let_time_pass(61)
    desk.raw.config_set("maxmemory", 1)
    try:
        settle(desk.leases, claim)
    finally:
        desk.raw.config_set("maxmemory", 0)
    assert desk.queued() == [text]
    assert desk.is_clean()


def test_message_whose_record_is_something_else_keeps_no_other_from_being_taken(
    desk: Desk,
) -> None:
    spoilt, behind = str(uuid.uuid4()), message(str(uuid.uuid4()))
    desk.raw.set(desk.names.record(spoilt), "somebody's", ex=60)
    desk.push(message(spoilt))
    desk.push(behind)
    taken, claim = desk.must_claim()
    assert taken == behind
    desk.leases.ack(claim)
    assert desk.queued() == []
    assert desk.is_clean()
    [letter] = map(json.loads, desk.raw.hvals(desk.names.dead()))
    assert letter["reason"] == "the key of its record holds something else"
