"""What the client knows of tasks: state, place in the queue, and nothing of what it never saw."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.waiting import wait_until
from visionq import AsyncClient, Client, Lane, State, StoreAddress, TaskUnknown, WaitTimeout
from visionq.fleet import Fleets, WorkerReport
from visionq.local import LocalUrls
from visionq.names import Names


def test_an_id_that_was_never_submitted_is_unknown_and_not_pending(client: Client) -> None:
    status = client.status(str(uuid.uuid4()))
    assert status.state is State.UNKNOWN
    assert (status.is_known, status.is_done) == (False, False)
    assert (status.kind, status.position, status.result_key) == (None, None, None)


@pytest.mark.parametrize(
    "bad", ["", "17", "../results/a", str(uuid.uuid4()).upper(), f"{uuid.uuid4()}\n", "*"]
)
def test_what_is_no_task_id_is_no_task(client: Client, bad: str) -> None:
    for ask in (client.task, client.status, client.wait, client.result, client.cancel):
        with pytest.raises(TaskUnknown, match="is not a task id"):
            ask(bad)
    with pytest.raises(TaskUnknown, match="is not a task id"):
        client.status_many([str(uuid.uuid4()), bad])


def test_a_handle_is_made_again_from_its_id(client: Client, key: str) -> None:
    handle = client.ocr(key)
    again = client.task(handle.id)
    assert again == handle
    assert again.status().state is State.PENDING


def test_the_position_counts_down_as_tasks_start(
    client: Client, key: str, worker: HandWorker
) -> None:
    ids = [client.ocr(key).id for _ in range(4)]

    def positions() -> list[int | None]:
        return [status.position for status in client.status_many(ids)]

    assert positions() == [0, 1, 2, 3]
    worker.start(ids[0])
    assert positions() == [None, 0, 1, 2]
    worker.start(ids[1])
    worker.start(ids[2])
    assert positions() == [None, None, None, 0]
    worker.start(ids[3])
    assert positions() == [None, None, None, None]


def test_each_lane_counts_its_own_positions(client: Client, key: str, worker: HandWorker) -> None:
    slow = [client.ocr(key, lane=Lane.BULK).id for _ in range(2)]
    fast = client.ocr(key).id
    assert [client.status(item).position for item in [*slow, fast]] == [0, 1, 0]
    worker.start(fast)
    assert [client.status(item).position for item in slow] == [0, 1]


def test_a_task_started_again_pushes_nobody_back(
    client: Client, key: str, worker: HandWorker
) -> None:
    first, second, third = (client.ocr(key).id for _ in range(3))
    worker.start(first)
    worker.start(second)
    worker.start(first)
    assert client.status(third).position == 0


def test_statuses_come_in_the_order_of_the_ids_asked_for(
    client: Client, key: str, worker: HandWorker
) -> None:
    waiting, done = client.ocr(key).id, client.ocr(key).id
    worker.end(done, State.SUCCESS)
    never = str(uuid.uuid4())
    statuses = client.status_many([done, never, waiting, done])
    assert [status.id for status in statuses] == [done, never, waiting, done]
    assert [status.state for status in statuses] == [
        State.SUCCESS,
        State.UNKNOWN,
        State.PENDING,
        State.SUCCESS,
    ]
    assert client.status_many([]) == []


def test_many_statuses_are_one_round_trip(
    own_client: Client, num_reads: Callable[[Callable[[], Any]], int]
) -> None:
    ids = [own_client.ocr("inputs/a").id for _ in range(20)]
    own_client.status(ids[0])
    assert num_reads(lambda: own_client.status_many(ids)) == 1
    assert num_reads(lambda: own_client.status(ids[0])) == 1


def test_recent_tasks_come_newest_first_and_end_at_the_limit(client: Client, key: str) -> None:
    assert client.recent() == []
    ids = [client.ocr(key).id for _ in range(5)]
    assert [status.id for status in client.recent()] == ids[::-1]
    assert len(client.recent(limit=2)) == 2
    assert client.recent(limit=0) == []


def test_recent_shows_no_task_of_another_namespace(client: Client, key: str) -> None:
    client.ocr(key)
    with Client(
        client._parts.broker, client._parts.store, namespace=f"{client._parts.names.namespace}x"
    ) as other:
        assert other.recent() == []


def test_a_status_says_whether_any_worker_has_reported_lately(
    client: Client,
    key: str,
    worker: HandWorker,
    raw: redis.Redis,
    names: Names,
    urls: LocalUrls,
    address: StoreAddress,
) -> None:
    """Sync and asyncio, one and many: the same, until the report is as old as it may be."""
    handle = client.ocr(key)

    async def asked() -> bool | None:
        async with AsyncClient(urls.broker_url, address, namespace=names.namespace) as other:
            return (await other.status(handle.id)).has_workers

    def told() -> set[bool | None]:
        (many,) = client.status_many([handle.id])
        return {handle.status().has_workers, many.has_workers, asyncio.run(asked())}

    assert told() == {False}
    with pytest.raises(WaitTimeout, match=r"after 0 s; no worker is running$"):
        handle.wait(0)
    report = WorkerReport(model="m", model_revision=None, max_context_tokens=64, concurrency=1)
    Fleets(raw, names).tell("hand", report)
    assert told() == {True}
    with pytest.raises(WaitTimeout, match=r"after 0 s$"):
        handle.wait(0)
    raw.pexpire(names.workers(), 1)
    wait_until(lambda: told() == {False})
    Fleets(raw, names).tell("hand", report)
    worker.end(handle.id, State.SUCCESS)
    assert told() == {None}
    assert client.status(str(uuid.uuid4())).has_workers is None


def test_whether_there_are_workers_costs_no_round_trip(
    own_client: Client, own_raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = own_client.ocr("inputs/a")
    handle.status()
    own_raw.config_resetstat()
    handle.status()
    stats: Any = own_raw.info("commandstats")
    calls = {name: stats[name]["calls"] for name in stats if name.startswith("cmdstat_")}
    assert calls.pop("cmdstat_evalsha") == 1
    assert calls["cmdstat_exists"] == 1
