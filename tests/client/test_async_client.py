"""The asyncio client: the same names as the synchronous one, and the same answers."""

import asyncio
import inspect
import io
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.killing import kill_valkey
from visionq import (
    AsyncClient,
    AsyncTaskHandle,
    BrokerUnavailable,
    Client,
    InvalidTask,
    State,
    StoreAddress,
    Submission,
    TaskFailed,
    TaskHandle,
    TaskUnknown,
    VisionqError,
    WaitTimeout,
)
from visionq.errors import InvalidImage, StorageDenied
from visionq.local import LocalServers, LocalUrls
from visionq.names import input_key

BOUND_SECONDS = 20.0
Body = Callable[[AsyncClient], Awaitable[None]]


@pytest.fixture
def run(urls: LocalUrls, address: StoreAddress, namespace: str) -> Callable[[Body], None]:
    """Runs a coroutine function with a client, on a loop of its own."""

    def run_body(body: Body) -> None:
        async def main() -> None:
            async with AsyncClient(urls.broker_url, address, namespace=namespace) as client:
                await body(client)

        asyncio.run(main(), debug=False)

    return run_body


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(BOUND_SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def test_both_clients_are_made_with_the_same_parameters() -> None:
    assert list(inspect.signature(Client).parameters) == [
        "broker_url",
        "store",
        "namespace",
        "kinds",
        "record_ttl_seconds",
        "limits",
        "replicas_to_confirm",
        "timeout_seconds",
        "store_timeout_seconds",
    ]
    assert inspect.signature(Client) == inspect.signature(AsyncClient)


def public(cls: type) -> dict[str, list[str]]:
    """The public methods of a class, each with the names of its parameters."""
    methods = inspect.getmembers(cls, callable)
    return {
        name: list(inspect.signature(method).parameters)
        for name, method in methods
        if not name.startswith("_")
    }


def test_both_clients_have_the_same_methods_with_the_same_parameters() -> None:
    assert public(Client) == public(AsyncClient)
    assert sorted(public(Client)) == [
        "analyze",
        "ask",
        "cancel",
        "close",
        "compare",
        "describe",
        "detect",
        "estimate",
        "from_settings",
        "ocr",
        "parsed",
        "recent",
        "result",
        "status",
        "status_many",
        "submit",
        "submit_many",
        "table",
        "task",
        "wait",
    ]


def test_both_handles_have_the_same_names() -> None:
    assert public(TaskHandle) == public(AsyncTaskHandle)
    assert sorted(public(TaskHandle)) == ["cancel", "parsed", "result", "status", "wait"]
    for handle in (TaskHandle, AsyncTaskHandle):
        assert isinstance(handle.result_key, property)


def test_a_task_is_submitted_watched_and_answered(
    run: Callable[[Body], None], worker: HandWorker, key: str
) -> None:
    async def body(client: AsyncClient) -> None:
        handle = await client.ocr(key, "Title?", lane="bulk")
        assert (await handle.status()).state is State.PENDING
        assert worker.message_ids("bulk") == [handle.id]
        assert handle.result_key == f"results/{handle.id}.json"
        waiting = asyncio.create_task(handle.result(BOUND_SECONDS))
        await until(lambda: worker.raw.pubsub_channels(worker.names.events(handle.id)))
        await asyncio.to_thread(worker.succeed, handle.id, "Ütopia")
        assert (await waiting).text == "Ütopia"
        assert (await handle.wait(0)).state is State.SUCCESS
        assert await handle.cancel() is State.SUCCESS

    run(body)


@pytest.mark.parametrize("name", ["analyze", "ocr", "describe", "table", "detect"])
def test_a_method_named_after_a_kind_submits_that_kind_here_too(
    run: Callable[[Body], None], key: str, name: str
) -> None:
    async def body(client: AsyncClient) -> None:
        handle = await getattr(client, name)(key)
        assert (await handle.status()).kind == name

    run(body)


def test_compare_and_ask_are_awaited_too(run: Callable[[Body], None], key: str) -> None:
    async def body(client: AsyncClient) -> None:
        assert (await (await client.compare([key, key])).status()).kind == "compare"
        assert (await (await client.ask(key, "Why?")).status()).kind == "ask"

    run(body)


class Upload:
    """What an asyncio web framework hands out for an uploaded file."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        return self.content


def test_upload_objects_are_read_and_mixed_with_other_forms(
    run: Callable[[Body], None], worker: HandWorker, tmp_path: Path
) -> None:
    (tmp_path / "b.png").write_bytes(b"\xff\xd8image b")

    async def body(client: AsyncClient) -> None:
        handle = await client.ask(
            [
                Upload(b"\xff\xd8image a"),
                tmp_path / "b.png",
                io.BytesIO(b"\xff\xd8image c"),
                b"\xff\xd8image d",
            ],
            "Which?",
        )
        [other] = await client.submit_many([Submission("ocr", Upload(b"\xff\xd8image a"))])
        keys = [
            input_key(content)
            for content in (
                b"\xff\xd8image a",
                b"\xff\xd8image b",
                b"\xff\xd8image c",
                b"\xff\xd8image d",
            )
        ]
        assert [image.ref for image in worker.task(handle.id).images] == keys
        assert [image.ref for image in worker.task(other.id).images] == keys[:1]
        assert worker.store.get(keys[0]) == b"\xff\xd8image a"

    run(body)


def test_many_tasks_are_submitted_and_looked_at_at_once(
    run: Callable[[Body], None], worker: HandWorker, key: str
) -> None:
    async def body(client: AsyncClient) -> None:
        handles = await client.submit_many([Submission("ocr", key)] * 300)
        ids = [handle.id for handle in handles]
        assert worker.message_ids() == ids
        statuses = await client.status_many([*ids, str(uuid.uuid4())])
        assert [status.position for status in statuses] == [*range(300), None]
        assert [status.id for status in await client.recent(1000)][::-1] == ids

    run(body)


def test_the_same_idempotency_key_is_the_same_task_for_both_clients(
    run: Callable[[Body], None], client: Client, worker: HandWorker, key: str
) -> None:
    first = client.ocr(key, idempotency_key="order-17")

    async def body(client: AsyncClient) -> None:
        second = await client.ocr(key, idempotency_key="order-17")
        assert second.id == first.id

    run(body)
    assert worker.message_ids() == [first.id]


def test_what_cannot_be_accepted_is_refused_here_too(
    run: Callable[[Body], None], worker: HandWorker
) -> None:
    async def body(client: AsyncClient) -> None:
        for kind, image, error in (
            ("poem", "inputs/a", InvalidTask),
            ("ocr", Upload(b""), InvalidImage),
            ("ocr", "http://example.org/a.png", InvalidImage),
            ("ask", "inputs/a", InvalidTask),
        ):
            with pytest.raises(error):
                await client.submit(kind, image)

    run(body)
    assert worker.keys() == []


def test_unknown_ids_and_bad_ids_are_told_apart_from_waiting_tasks(
    run: Callable[[Body], None],
) -> None:
    async def body(client: AsyncClient) -> None:
        never = str(uuid.uuid4())
        assert (await client.status(never)).state is State.UNKNOWN
        assert await client.cancel(never) is State.UNKNOWN
        with pytest.raises(TaskUnknown, match="no task"):
            await client.wait(never)
        with pytest.raises(TaskUnknown, match="is not a task id"):
            client.task("17")
        for ask in (client.status, client.wait, client.result, client.cancel):
            with pytest.raises(TaskUnknown, match="is not a task id"):
                await ask("17")

    run(body)


def test_a_failure_and_a_timeout_are_raised_here_too(
    run: Callable[[Body], None], worker: HandWorker, key: str
) -> None:
    async def body(client: AsyncClient) -> None:
        handle = await client.ocr(key)
        for timeout in (0, 0.2):
            with pytest.raises(WaitTimeout, match="is PENDING"):
                await handle.wait(timeout)
        worker.end(handle.id, State.FAILURE, code="image_truncated", message="cut off")
        with pytest.raises(TaskFailed, match="cut off") as caught:
            await handle.result(BOUND_SECONDS)
        assert caught.value.code == "image_truncated"

    run(body)


async def under_a_timeout(waiting: Awaitable[Any], seconds: float) -> None:
    async with asyncio.timeout(seconds):
        await waiting


@pytest.mark.parametrize("give_up", [under_a_timeout, asyncio.wait_for])
def test_a_timeout_of_the_caller_s_own_ends_the_wait_and_leaves_nothing(
    run: Callable[[Body], None],
    worker: HandWorker,
    key: str,
    give_up: Callable[[Awaitable[Any], float], Awaitable[None]],
) -> None:
    async def body(client: AsyncClient) -> None:
        handle = await client.ocr(key)
        for seconds in (0.0, 0.0005, 0.001, 0.002, 0.005, 0.1):
            async with asyncio.timeout(BOUND_SECONDS):
                with pytest.raises(TimeoutError):
                    await give_up(handle.wait(), seconds)
        await until(lambda: not worker.raw.pubsub_channels(worker.names.events("*")))

    run(body)


def test_300_coroutines_wait_over_one_subscription(
    own_urls: LocalUrls, own_address: StoreAddress, own_raw: redis.Redis, own_worker: HandWorker
) -> None:
    async def main() -> None:
        async with AsyncClient(own_urls.broker_url, own_address) as client:
            handles = await client.submit_many([Submission("ocr", "inputs/a")] * 300)
            waiting = [asyncio.create_task(handle.wait(BOUND_SECONDS)) for handle in handles]
            await until(lambda: len(own_raw.pubsub_channels()) == 300)
            assert len(own_raw.client_list(_type="pubsub")) == 1
            assert len(own_raw.client_list()) <= 6
            for handle in handles:
                await asyncio.to_thread(own_worker.end, handle.id, State.SUCCESS)
            done = await asyncio.gather(*waiting)
            assert {status.state for status in done} == {State.SUCCESS}
            await until(lambda: not own_raw.pubsub_channels())

    asyncio.run(main())


def test_closing_the_asyncio_client_ends_what_still_waits(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker, key: str
) -> None:
    async def main() -> None:
        client = AsyncClient(urls.broker_url, address, namespace=namespace)
        handle = await client.ocr(key)
        waiting = asyncio.create_task(handle.wait(BOUND_SECONDS))
        await until(lambda: worker.raw.pubsub_channels(worker.names.events(handle.id)))
        await client.close()
        with pytest.raises(VisionqError, match="closed"):
            await waiting
        await client.close()

    asyncio.run(main())


def test_an_asyncio_wait_sits_out_a_redis_that_is_away(
    own_servers: LocalServers,
    own_urls: LocalUrls,
    own_address: StoreAddress,
    own_worker: HandWorker,
) -> None:
    async def main() -> None:
        async with AsyncClient(own_urls.broker_url, own_address, timeout_seconds=0.5) as client:
            handle = await client.ocr("inputs/a")
            waiting = asyncio.create_task(handle.wait(BOUND_SECONDS))
            await until(own_worker.raw.pubsub_channels)
            kill_valkey(own_servers)
            with pytest.raises(BrokerUnavailable):
                await handle.status()
            with pytest.raises(BrokerUnavailable):
                await client.ocr("inputs/a")
            with pytest.raises(BrokerUnavailable):
                await handle.wait(0.2)
            own_servers.restart("valkey")
            await asyncio.to_thread(own_worker.end, handle.id, State.SUCCESS)
            assert (await waiting).state is State.SUCCESS

    asyncio.run(main())


def test_faults_of_broker_and_store_are_typed_and_block_no_other_coroutine(
    mute_port: int, urls: LocalUrls, address: StoreAddress, worker: HandWorker, namespace: str
) -> None:
    async def main() -> None:
        wrong = replace(address, secret_key="wrong")
        async with AsyncClient(urls.broker_url, wrong, namespace=namespace) as client:
            with pytest.raises(StorageDenied):
                await client.ocr(b"\xff\xd8an image")
        async with AsyncClient(
            f"redis://127.0.0.1:{mute_port}/0", address, timeout_seconds=0.5
        ) as client:
            submitting = asyncio.create_task(client.ocr("inputs/a"))
            longest, last = 0.0, time.monotonic()
            while not submitting.done():
                await asyncio.sleep(0.01)
                now = time.monotonic()
                longest, last = max(longest, now - last), now
            assert longest < 0.4, "the loop stood still"
            with pytest.raises(BrokerUnavailable):
                await submitting

    asyncio.run(main())
    assert worker.keys() == []
