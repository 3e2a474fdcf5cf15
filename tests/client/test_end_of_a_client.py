"""A client that is closed, dropped, or left to the interpreter's exit; and one on several loops."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from tests.client.hand_worker import HandWorker
from tests.support.waiting import wait_until
from tests.support.workers import environment
from visionq import (
    AsyncClient,
    BrokerUnavailable,
    Client,
    ClientClosed,
    State,
    StoreAddress,
    Submission,
    VisionqError,
    WaitTimeout,
)
from visionq.connections import connect
from visionq.dead import EVERYTHING, DeadLetters
from visionq.local import LocalUrls
from visionq.names import Names

BOUND_SECONDS = 20.0


def picture(size: int) -> bytes:
    """Bytes of that length, of their own, that begin as a JPEG."""
    return b"\xff\xd8\xff" + os.urandom(size - 3)


@pytest.fixture(autouse=True)
def _leaves_nothing_unclosed() -> Iterator[None]:
    """What a test has left open is found now, as a warning, which fails the test."""
    yield
    gc.collect()


START = """
import asyncio, os, sys, threading
from contextlib import suppress
import visionq

def picture(size):
    "Bytes of that length, of their own, that begin as a JPEG."
    return b"\\xff\\xd8\\xff" + os.urandom(size - 3)

def wait_in_vain(client):
    with suppress(visionq.WaitTimeout):
        client.ocr(picture(100)).wait(0.1)
"""

LEFT_OPEN = {
    "in the module": "client = visionq.Client.from_settings(); wait_in_vain(client)",
    "in a function": "wait_in_vain(visionq.Client.from_settings())",
    "in a cycle": "cycle = [visionq.Client.from_settings()]; cycle += [cycle]\n"
    "wait_in_vain(cycle[0]); del cycle",
    "by sys.exit": "client = visionq.Client.from_settings(); wait_in_vain(client); sys.exit()",
    "closed": "client = visionq.Client.from_settings(); wait_in_vain(client); client.close()",
    "while a daemon thread waits": """
client = visionq.Client.from_settings()
handle = client.ocr(picture(100))
threading.Thread(target=handle.wait, daemon=True).start()
with suppress(visionq.WaitTimeout):
    handle.wait(0.3)
""",
    "by an exception": """
client = visionq.Client.from_settings()
try:
    client.ocr(picture(100)).wait(0.1)
except visionq.WaitTimeout as error:
    kept = error
""",
    "on two event loops": """
client = visionq.AsyncClient.from_settings()
async def main():
    with suppress(visionq.WaitTimeout):
        await (await client.ocr(picture(100))).wait(0.1)
asyncio.run(main())
asyncio.run(main())
""",
    "by a coroutine that was cancelled": """
async def main():
    client = visionq.AsyncClient.from_settings()
    handle = await client.ocr(picture(100))
    waiting = asyncio.create_task(handle.wait())
    await asyncio.sleep(0.1)
asyncio.run(main())
""",
    "in a forked child": """
client = visionq.Client.from_settings(); wait_in_vain(client)
pid = os.fork()
if pid == 0:
    wait_in_vain(client)
    sys.exit()
os.waitpid(pid, 0)
wait_in_vain(client)
""",
    "in a forked child that does not use it": """
client = visionq.Client.from_settings(); wait_in_vain(client)
pid = os.fork()
if pid == 0:
    del client
    sys.exit()
os.waitpid(pid, 0)
wait_in_vain(client)
""",
}


@pytest.mark.parametrize("how", LEFT_OPEN)
def test_the_interpreter_exits_in_silence(urls: LocalUrls, namespace: str, how: str) -> None:
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", START + LEFT_OPEN[how]],
            env=environment(urls, namespace),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_20_clients_that_are_dropped_leave_no_thread_and_no_file_descriptor(
    urls: LocalUrls, address: StoreAddress, namespace: str
) -> None:
    def use_and_drop() -> None:
        client = Client(urls.broker_url, address, namespace=namespace)
        handle = client.ocr(picture(100))
        with suppress(WaitTimeout):
            handle.wait(0.05)
        client.status(handle.id)

    use_and_drop()
    gc.collect()
    before = open_files(), threading.active_count()
    for _ in range(20):
        use_and_drop()
        assert threading.active_count() <= before[1], "a thread was left to the garbage collector"
    gc.collect()
    assert (open_files(), threading.active_count()) == before


def test_20_asyncio_clients_that_are_dropped_leave_no_file_descriptor(
    urls: LocalUrls, address: StoreAddress, namespace: str
) -> None:
    async def use_and_drop() -> None:
        client = AsyncClient(urls.broker_url, address, namespace=namespace)
        handle = await client.ocr(picture(100))
        with suppress(WaitTimeout):
            await handle.wait(0.05)

    async def settle() -> int:
        """The open files, when what was dropped has been closed."""
        gc.collect()
        await asyncio.sleep(0)
        async with asyncio.timeout(BOUND_SECONDS):
            while len(asyncio.all_tasks()) > 1:
                await asyncio.sleep(0.01)
        gc.collect()
        return open_files()

    async def main() -> None:
        await use_and_drop()
        before = await settle()
        for _ in range(20):
            await use_and_drop()
        assert await settle() <= before

    asyncio.run(main())


def calls(client: Any, task_id: str) -> list[Callable[[], Any]]:
    """Every method of either client, but the constructors and `close`."""
    handle = client.task(task_id)
    kinds = ("analyze", "ocr", "describe", "table", "detect")
    return [
        lambda: client.submit("ocr", "inputs/a"),
        *[lambda name=name: getattr(client, name)("inputs/a") for name in kinds],
        lambda: client.compare(["inputs/a", "inputs/b"]),
        lambda: client.ask("inputs/a", "Why?"),
        lambda: client.submit_many([Submission("ocr", "inputs/a")]),
        lambda: client.submit_many([]),
        lambda: client.estimate("ocr", "inputs/a"),
        lambda: client.status(task_id),
        lambda: client.status_many([task_id]),
        lambda: client.status_many([]),
        client.recent,
        lambda: client.wait(task_id, 0),
        lambda: client.result(task_id, 0),
        lambda: client.cancel(task_id),
        handle.status,
        lambda: handle.wait(0),
        lambda: handle.result(0),
        handle.cancel,
    ]


def test_every_call_on_a_closed_client_is_refused(client: Client, worker: HandWorker) -> None:
    handle = client.ocr("inputs/a")
    keys = worker.keys()
    refused = calls(client, handle.id)
    client.close()
    for call in (*refused, lambda: client.task(handle.id), client.__enter__):
        with pytest.raises(ClientClosed, match="closed"):
            call()
    assert worker.keys() == keys
    client.close()


def test_every_call_on_a_closed_asyncio_client_is_refused(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker
) -> None:
    async def main() -> None:
        async with AsyncClient(urls.broker_url, address, namespace=namespace) as client:
            handle = await client.ocr("inputs/a")
            keys = worker.keys()
            refused = calls(client, handle.id)
        for call in (*refused, client.__aenter__):
            with pytest.raises(ClientClosed, match="closed"):
                await call()
        with pytest.raises(ClientClosed):
            client.task(handle.id)
        assert worker.keys() == keys
        await client.close()

    asyncio.run(main())


def test_closed_dead_letters_are_refused(urls: LocalUrls, names: Names) -> None:
    letters = DeadLetters(connect(urls.broker_url, timeout_seconds=2), names, ttl_seconds=600)
    with letters:
        assert letters.list() == ()
    for call in (
        letters.list,
        lambda: letters.show("a"),
        lambda: letters.replay(["a"]),
        lambda: letters.replay(EVERYTHING),
        lambda: letters.purge(["a"]),
        lambda: letters.purge([]),
        letters.__enter__,
    ):
        with pytest.raises(ClientClosed, match="closed"):
            call()
    letters.close()


def test_threads_that_submit_and_wait_while_the_client_is_closed_all_come_back(
    urls: LocalUrls, address: StoreAddress, namespace: str
) -> None:
    for _ in range(5):
        client = Client(urls.broker_url, address, namespace=namespace)
        ends: list[Exception] = []

        def work(client: Client = client, ends: list[Exception] = ends) -> None:
            try:
                while True:
                    with suppress(WaitTimeout):
                        client.ocr("inputs/a").wait(0.01)
            except Exception as error:
                ends.append(error)

        threads = [threading.Thread(target=work) for _ in range(6)]
        for thread in threads:
            thread.start()
        client.status(str(uuid.uuid4()))
        client.close()
        for thread in threads:
            thread.join(BOUND_SECONDS)
        assert not any(thread.is_alive() for thread in threads)
        assert len(ends) == 6
        # What was under way when its connection was closed has failed as in an outage.
        assert all(isinstance(end, ClientClosed | BrokerUnavailable) for end in ends), ends


# Several event loops.


async def use(client: AsyncClient, worker: HandWorker) -> None:
    handle = await client.ocr(picture(100))
    with pytest.raises(WaitTimeout):
        await handle.wait(0.05)
    assert (await handle.status()).state is State.PENDING
    assert (await client.status_many([handle.id]))[0].state is State.PENDING
    waiting = asyncio.create_task(handle.result(BOUND_SECONDS))
    await asyncio.to_thread(worker.succeed, handle.id, "an answer")
    assert (await waiting).text == "an answer"


def test_an_asyncio_client_is_used_on_one_loop_after_the_other(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker
) -> None:
    client = AsyncClient(urls.broker_url, address, namespace=namespace)
    for _ in range(3):
        asyncio.run(use(client, worker))
    asyncio.run(client.close())
    with pytest.raises(ClientClosed):
        asyncio.run(use(client, worker))


def test_an_asyncio_client_is_used_on_several_loops_at_once(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker
) -> None:
    client = AsyncClient(urls.broker_url, address, namespace=namespace)
    ends: list[object] = []

    def run(body: Callable[[], Awaitable[None]]) -> None:
        async def main() -> None:
            await body()

        try:
            asyncio.run(main())
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    threads = [threading.Thread(target=run, args=[lambda: use(client, worker)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND_SECONDS)
    assert ends == [None] * 4
    asyncio.run(client.close())


def test_closing_on_one_loop_ends_what_waits_on_another(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker
) -> None:
    client = AsyncClient(urls.broker_url, address, namespace=namespace)
    handle = asyncio.run(client.ocr("inputs/a"))
    ends: list[object] = []

    def wait() -> None:
        try:
            asyncio.run(handle.wait(BOUND_SECONDS))
        except VisionqError as error:
            ends.append(type(error))

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: worker.raw.pubsub_channels(worker.names.events(handle.id)))
    asyncio.run(client.close())
    thread.join(BOUND_SECONDS / 2)
    assert ends == [ClientClosed]


def test_ended_loops_leave_no_file_descriptor(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker
) -> None:
    client = AsyncClient(urls.broker_url, address, namespace=namespace)
    asyncio.run(use(client, worker))
    before = open_files()
    for _ in range(10):
        asyncio.run(use(client, worker))
    assert open_files() <= before
    asyncio.run(client.close())
