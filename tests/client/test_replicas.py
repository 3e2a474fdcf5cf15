"""`replicas_to_confirm`: what submit and cancel say when replicas have the write, and when not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic
from typing import Any

import pytest
import redis

from tests.faults.replicated import Replicated
from visionq import (
    AsyncClient,
    BrokerUnavailable,
    Client,
    NotReplicated,
    SettingsError,
    State,
    StoreAddress,
    Submission,
    SubmitOptions,
)
from visionq.connections import connect
from visionq.contract import ImageRef, Lane, Task
from visionq.names import Names
from visionq.records import Key, New, QueueLimits, Records
from visionq.replication import Replicas

KEY = "inputs/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
NAMES = Names()
LAG_SECONDS = 0.05
TIMEOUT_SECONDS = 0.8
AWAY = r"0 of 1 replicas of Redis have confirmed the write within 0.6 s \(broker.replicas_to_"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with Replicated(tmp_path_factory.mktemp("pair"), lag_seconds=LAG_SECONDS) as running:
        yield running


@pytest.fixture
def raw(pair: Replicated) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(pair.url, decode_responses=True) as opened:
        opened.flushall()
        yield opened


@pytest.fixture
def client(pair: Replicated, raw: redis.Redis, address: StoreAddress) -> Iterator[Client]:
    with Client(
        pair.url, address, replicas_to_confirm=1, timeout_seconds=TIMEOUT_SECONDS
    ) as opened:
        yield opened


@pytest.fixture
def alone(pair: Replicated, client: Client) -> Iterator[Replicated]:
    """Nobody follows the primary."""
    pair.stop_replica()
    try:
        yield pair
    finally:
        pair.start_replica()


def messages(raw: redis.Redis) -> int:
    return raw.llen(NAMES.queue(Lane.INTERACTIVE))


def waiting(raw: redis.Redis) -> int:
    return int(raw.hget(NAMES.lane(Lane.INTERACTIVE), "waiting") or 0)


def test_submitted_task_is_at_the_replica(
    pair: Replicated, client: Client, raw: redis.Redis
) -> None:
    """As often as not it would not be there yet, the link being slow."""
    for number in range(5):
        began = monotonic()
        task = client.ocr(KEY, idempotency_key=f"there-{number}")
        assert monotonic() - began > LAG_SECONDS / 2
        with redis.Redis(
            port=pair.replica_port, password=pair.password, decode_responses=True
        ) as replica:
            assert replica.hget(NAMES.record(task.id), "state") == "PENDING"


SUBMITS: dict[str, Callable[[Client], Any]] = {
    "submit": lambda client: client.ocr(KEY),
    "with a key": lambda client: client.ocr(KEY, idempotency_key="a"),
    "delayed": lambda client: client.ocr(KEY, start_in_seconds=60),
    "many": lambda client: client.submit_many([Submission("ocr", KEY)] * 3),
    "many, one with a key": lambda client: client.submit_many(
        [Submission("ocr", KEY), Submission("ocr", KEY, None, {"idempotency_key": "b"})]
    ),
}


@pytest.mark.parametrize("call", SUBMITS)
def test_submit_that_no_replica_confirms_fails_in_time_and_sends_nothing(
    alone: Replicated, client: Client, raw: redis.Redis, call: str
) -> None:
    began = monotonic()
    with pytest.raises(BrokerUnavailable, match=AWAY) as caught:
        SUBMITS[call](client)
    assert monotonic() - began < 2 * TIMEOUT_SECONDS
    assert isinstance(caught.value, NotReplicated)
    assert "again" in str(caught.value)
    assert messages(raw) == 0
    with_key = 1 if "with a key" in call else 0
    assert len(raw.keys(NAMES.record("*"))) == waiting(raw) == with_key
    assert raw.zcard(NAMES.open()) == with_key, "a task without a key is withdrawn"


def test_same_key_is_the_same_task_once_a_replica_is_back(
    pair: Replicated, client: Client, raw: redis.Redis
) -> None:
    pair.stop_replica()
    for _ in range(2):  # a record that is found has to be confirmed, too
        with pytest.raises(NotReplicated, match="the same idempotency_key"):
            client.ocr(KEY, idempotency_key="again")
    (record,) = raw.keys(NAMES.record("*"))
    pair.start_replica()
    task = client.ocr(KEY, idempotency_key="again")
    assert NAMES.record(task.id) == record
    assert messages(raw) == 1
    assert client.ocr(KEY, idempotency_key="again").id == task.id
    assert messages(raw) == 1


def test_found_task_is_not_confirmed_by_what_the_connection_wrote_before(
    pair: Replicated, client: Client
) -> None:
    """WAIT on a connection whose own last write is old says yes at once, whatever it has found."""
    client.ocr(KEY)
    other_key: SubmitOptions = {"idempotency_key": "other"}
    with pair.silent_link():
        with Client(pair.url, timeout_seconds=TIMEOUT_SECONDS) as careless:
            task = careless.ocr(KEY, **other_key)
        with pytest.raises(NotReplicated):
            client.ocr(KEY, **other_key)
        with pytest.raises(NotReplicated):
            client.submit_many([Submission("ocr", KEY, None, other_key)])
    assert client.ocr(KEY, **other_key).id == task.id


def test_refusal_needs_no_replica(alone: Replicated, client: Client) -> None:
    with Client(
        alone.url,
        replicas_to_confirm=1,
        timeout_seconds=TIMEOUT_SECONDS,
        limits=QueueLimits(max_waiting=1),
    ) as full:
        with pytest.raises(NotReplicated):
            full.ocr(KEY, idempotency_key="first")
        with pytest.raises(Exception, match="tasks of the lane wait already"):
            full.ocr(KEY)
        with pytest.raises(Exception, match="asks something else"):
            full.describe(KEY, idempotency_key="first")


def test_cancel_is_confirmed(pair: Replicated, client: Client) -> None:
    task = client.ocr(KEY)
    pair.stop_replica()
    with pytest.raises(NotReplicated, match="cancel the task again"):
        task.cancel()
    pair.start_replica()
    assert task.cancel() is State.REVOKED


def test_asyncio_client_confirms_too(alone: Replicated, address: StoreAddress) -> None:
    async def submit() -> None:
        async with AsyncClient(
            alone.url, address, replicas_to_confirm=1, timeout_seconds=TIMEOUT_SECONDS
        ) as client:
            with pytest.raises(NotReplicated):
                await client.ocr(KEY)

    asyncio.run(submit())


def test_one_server_without_replicas_is_named_by_the_first_submit(
    raw: redis.Redis, pair: Replicated
) -> None:
    with (
        Client(pair.url, replicas_to_confirm=2, timeout_seconds=TIMEOUT_SECONDS) as client,
        pytest.raises(NotReplicated, match="1 of 2 replicas of Redis"),
    ):
        client.ocr(KEY)


def test_confirmed_submit_sends_one_script_and_one_wait(pair: Replicated, raw: redis.Redis) -> None:
    def calls_of(num: int) -> dict[str, int]:
        records = Records(
            connect(pair.url, timeout_seconds=2),
            NAMES,
            ttl_seconds=600,
            replicas=Replicas(num=num, timeout_seconds=2),
        )

        def create(name: str) -> None:
            records.create(Task(id=name, kind="ocr", images=(ImageRef(ref=KEY),)))

        create(f"00000000-0000-4000-8000-00000000000{num}")  # connects, and loads the script
        before = total_commands_of(raw)
        create(f"00000000-0000-4000-8000-00000000001{num}")
        after = total_commands_of(raw)
        records.close()
        return {name: after.get(name, 0) - before.get(name, 0) for name in ("evalsha", "wait")}

    assert calls_of(0) == {"evalsha": 1, "wait": 0}
    assert calls_of(1) == {"evalsha": 1, "wait": 1}


def total_commands_of(raw: redis.Redis) -> dict[str, int]:
    stats: Any = raw.info("commandstats")
    return {name.removeprefix("cmdstat_"): int(one["calls"]) for name, one in stats.items()}


def test_script_that_redis_has_lost_is_loaded_again(client: Client, raw: redis.Redis) -> None:
    client.ocr(KEY)
    raw.script_flush()
    before = total_commands_of(raw)
    assert client.ocr(KEY).status().state is State.PENDING
    num_waits = total_commands_of(raw)["wait"] - before["wait"]
    assert num_waits == 2, "each may take most of a time-out where replicas are missing"


@pytest.mark.parametrize("wrong", [-1, True, 1.0, "1"])
def test_number_of_replicas_is_checked(wrong: Any) -> None:
    with pytest.raises(SettingsError, match="replicas_to_confirm"):
        Client("redis://127.0.0.1:1/0", replicas_to_confirm=wrong)


def test_submitted_tasks_outlive_their_primary(
    pair: Replicated, client: Client, address: StoreAddress
) -> None:
    """Each one whose submit has returned when the primary is lost, with what is on its link."""
    for number in range(3):
        with ThreadPoolExecutor(4) as pool:
            submitting = [
                pool.submit(client.ocr, KEY, idempotency_key=f"{number}-{n}") for n in range(12)
            ]
            submitting[number].result()
            pair.lose_primary()
        accepted = [each.result().id for each in submitting if each.exception() is None]
        assert accepted
        known = {one.id for one in client.status_many(accepted) if one.is_known}
        assert known == set(accepted)
        pair.start_replica()


def test_task_of_a_key_that_was_not_confirmed_is_not_withdrawn_with_the_others(
    alone: Replicated, raw: redis.Redis
) -> None:
    opened = connect(alone.url, timeout_seconds=TIMEOUT_SECONDS)
    records = Records(opened, NAMES, ttl_seconds=600, replicas=Replicas(num=1, timeout_seconds=0.2))
    ids = [f"00000000-0000-4000-8000-00000000000{n}" for n in range(2)]
    plain, keyed = (Task(id=each, kind="ocr", images=(ImageRef(ref=KEY),)) for each in ids)
    key = Key(first_id=keyed.id, fingerprint="print")
    with pytest.raises(NotReplicated):
        records.create_many([New(plain), New(keyed, key=key)])
    opened.close()
    assert raw.keys(NAMES.record("*")) == [NAMES.record(keyed.id)]
