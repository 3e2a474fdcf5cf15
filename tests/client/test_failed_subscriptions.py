"""A waiter whose subscription could not be sent at first is rung all the same."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from uuid import uuid4

import redis.asyncio

from visionq.broker_urls import BrokerAddress
from visionq.contract import ImageRef, State, Task
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.records import Records
from visionq.server_connections import pool_options
from visionq.watch import PRIMARY_SECONDS, Watch

TIMEOUT_SECONDS = 0.2


def test_it_is_sent_with_the_next_one_or_soon(
    urls: LocalUrls, names: Names, records: Records
) -> None:
    tasks = [
        Task(id=str(uuid4()), kind="describe", images=(ImageRef(ref="inputs/a"),)) for _ in range(2)
    ]
    for task in tasks:
        records.create(task)

    async def main() -> None:
        watch = Watch(urls.broker_url, names, timeout_seconds=TIMEOUT_SECONDS)
        pool = watch._redis.connection_pool
        taken = [await pool.get_connection() for _ in range(2)]  # type: ignore[no-untyped-call]
        waiting = [asyncio.create_task(watch.wait(tasks[0].id, 30))]
        async with asyncio.timeout(10):
            while watch._reader is None:  # it starts when the first one could not subscribe
                await asyncio.sleep(0.01)
        watch._reader.cancel()  # which would try it again by itself
        for connection in taken:
            await pool.release(connection)
        waiting.append(asyncio.create_task(watch.wait(tasks[1].id, 30)))
        async with asyncio.timeout(PRIMARY_SECONDS):
            while not all(bell.is_subscribed.is_set() for bell in watch._bells.values()):
                await asyncio.sleep(0.01)
        for task in tasks:
            await asyncio.to_thread(records.cancel, task.id)
        done = await asyncio.gather(*waiting)
        assert {status.state for status in done} == {State.REVOKED}
        await watch.close()

    asyncio.run(main())


def test_connection_that_its_reader_closes_under_a_sender_is_a_broken_one(urls: LocalUrls) -> None:
    """With redis-py alone, who waits for a task is sometimes told of a 'NoneType' instead."""

    async def main() -> None:
        options = pool_options(BrokerAddress(urls.broker_url), is_async=True)
        pool = redis.asyncio.ConnectionPool(**options, socket_timeout=TIMEOUT_SECONDS)
        connection = await pool.get_connection()  # type: ignore[no-untyped-call]
        sending = asyncio.create_task(connection.send_command("PING"))
        await asyncio.sleep(0)
        await connection.disconnect(nowait=True)
        with suppress(redis.ConnectionError):
            await sending
        await pool.aclose()

    asyncio.run(main())
