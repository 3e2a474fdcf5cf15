"""Waiting for tasks without polling: one subscription connection for all waiters.

`Watch` lives on one event loop. The asyncio client uses the caller's loop; the synchronous one
runs a `Watch` on a loop of its own in a background thread, so that both share this code.
A waiter subscribes to its task's channel, and only then reads the record: a change that falls
between the two is either in the record or rings the bell.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from visionq.contract import Status
from visionq.errors import BrokerUnavailable, TaskUnknown, VisionqError, WaitTimeout
from visionq.names import Names
from visionq.records import mapped_errors, parse_statuses, queue_status

RECONNECT_SECONDS = 0.5
"""Pause between attempts to reach Redis again while somebody waits."""


RECHECK_SECONDS = 15.0
"""A waiter reads its record this often even if nothing rings: a connection whose other end has
vanished without a word delivers no event and no error."""


class Bell:
    """Rung by every change of one task, and by every reconnect, after which anything may be new."""

    def __init__(self) -> None:
        self.next_ring = asyncio.Event()
        self.num_waiters = 0
        self.is_subscribed = asyncio.Event()

    def ring(self) -> None:
        self.next_ring.set()
        self.next_ring = asyncio.Event()


class Watch:
    """Reads records and waits for their changes over two connections at most. Not thread-safe.

    Nothing is opened before the first call. What still waits at `close` raises `VisionqError`.
    """

    def __init__(self, url: str, names: Names, *, timeout_seconds: float) -> None:
        self._names = names
        self._timeout_seconds = timeout_seconds
        pool = redis.asyncio.BlockingConnectionPool.from_url(
            url,
            # One to read by turns, one for the subscription: otherwise waiters that wake together
            # would open a connection each, and keep it.
            max_connections=2,
            timeout=timeout_seconds,
            decode_responses=True,
            encoding_errors="replace",
            socket_timeout=timeout_seconds,
            socket_connect_timeout=timeout_seconds,
            retry=Retry(NoBackoff(), 1, supported_errors=(redis.ConnectionError,)),
        )
        self._redis = redis.asyncio.Redis.from_pool(pool)
        self._pubsub = self._redis.pubsub()
        self._bells: dict[str, Bell] = {}
        self._reader: asyncio.Task[None] | None = None
        self._sending = asyncio.Lock()
        self._num_waiting = 0
        self._nobody_waits = asyncio.Event()
        self._is_closed = False

    async def status(self, task_id: str) -> Status:
        return (await self.status_many([task_id]))[0]

    async def status_many(self, task_ids: list[str]) -> list[Status]:
        """The status of each id, in one round trip. Raises `BrokerUnavailable`."""
        with mapped_errors():
            async with self._redis.pipeline(transaction=False) as pipe:
                queue_status(pipe, self._names, task_ids)
                replies = await pipe.execute(raise_on_error=False)
                return list(parse_statuses(task_ids, replies))

    async def wait(self, task_id: str, timeout_seconds: float | None = None) -> Status:
        """Return once the task is final.

        Raises `TaskUnknown`; `WaitTimeout` when the time is up, or `BrokerUnavailable` when at
        that moment Redis could not be reached. An outage shorter than the time left is sat out.
        """
        self._num_waiting += 1
        try:
            return await self._wait(task_id, timeout_seconds)
        finally:
            self._num_waiting -= 1
            if self._num_waiting == 0:
                self._nobody_waits.set()

    async def close(self) -> None:
        self._is_closed = True
        await self._send_waiters_away()
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
        await self._pubsub.aclose()  # type: ignore[no-untyped-call]
        await self._redis.aclose()

    async def _wait(self, task_id: str, timeout_seconds: float | None) -> Status:
        watched, cancels = _Watched(), _Cancels()
        # One look before anything else: a finished task needs no subscription, and a timeout of 0
        # asks for just this look.
        if await self._is_done(task_id, watched):
            return watched.last
        cancels.raise_if_swallowed()
        try:
            async with asyncio.timeout(timeout_seconds), self._listening(task_id) as bell:
                while True:
                    # Taken before the look: a change that comes during it is not missed.
                    ring = bell.next_ring
                    if await self._is_done(task_id, watched):
                        return watched.last
                    cancels.raise_if_swallowed()
                    await (_heard(ring) if watched.error is None else self._pause())
        except TimeoutError:
            raise watched.why_not(task_id, timeout_seconds) from watched.error

    async def _send_waiters_away(self) -> None:
        """Wake every waiter, to find that the client is closed, and see them off."""
        self._nobody_waits.clear()
        for bell in self._bells.values():
            bell.ring()
        if self._num_waiting:
            await self._nobody_waits.wait()

    async def _is_done(self, task_id: str, watched: _Watched) -> bool:
        """Read the record. An outage counts as not done. Raises `TaskUnknown`."""
        if self._is_closed:
            raise VisionqError(f"the client was closed before task {task_id} was done")
        try:
            watched.status = await self.status(task_id)
            watched.error = None
        except BrokerUnavailable as exc:
            watched.error = exc
            return False
        if not watched.status.is_known:
            failure = watched.status.failure
            raise TaskUnknown(
                f"task {task_id}: {failure.message}" if failure else f"no task {task_id}"
            )
        return watched.status.is_done

    async def _pause(self) -> None:
        await asyncio.sleep(RECONNECT_SECONDS)

    @asynccontextmanager
    async def _listening(self, task_id: str) -> AsyncIterator[Bell]:
        channel = self._names.events(task_id)
        bell = self._bells.setdefault(channel, Bell())
        bell.num_waiters += 1
        try:
            if not bell.is_subscribed.is_set():
                await self._subscribe(channel, bell)
            yield bell
        finally:
            bell.num_waiters -= 1
            if bell.num_waiters == 0:
                del self._bells[channel]
                with suppress(redis.RedisError, OSError):
                    async with self._sending:
                        await self._pubsub.unsubscribe(channel)

    async def _subscribe(self, channel: str, bell: Bell) -> None:
        """Return when Redis has confirmed the subscription, or said nothing in time.

        Then the record is read all the same; the reader's reconnect subscribes again.
        """
        with suppress(redis.RedisError, OSError):
            async with self._sending:
                await self._pubsub.subscribe(channel)
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._run_reader())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_seconds):
                await bell.is_subscribed.wait()

    async def _run_reader(self) -> None:
        while True:
            try:
                self._dispatch(await self._next_message())
            except (redis.RedisError, OSError, RuntimeError):
                # RuntimeError: nothing was ever subscribed, the first attempt having failed.
                await asyncio.sleep(RECONNECT_SECONDS)
                await self._resubscribe()

    async def _next_message(self) -> dict[str, Any] | None:
        message: dict[str, Any] | None = await self._pubsub.get_message(timeout=None)
        return message

    def _dispatch(self, message: dict[str, Any] | None) -> None:
        bell = self._bells.get(message["channel"]) if message else None
        if message is None or bell is None:
            return
        if message["type"] == "subscribe":
            bell.is_subscribed.set()
        bell.ring()

    async def _resubscribe(self) -> None:
        """After an outage every waiter reads its record again."""
        with suppress(redis.RedisError, OSError):
            async with self._sending:
                if self._bells:
                    await self._pubsub.subscribe(*self._bells)
            for bell in self._bells.values():
                bell.ring()


class ThreadedWatch:
    """A `Watch` for synchronous callers: it lives on a loop in a background thread.

    Thread-safe. The thread starts with the first wait, and anew in a forked child, because
    threads do not survive a fork.
    """

    def __init__(self, new_watch: Callable[[], Watch]) -> None:
        self._new_watch = new_watch
        self._starting = threading.Lock()
        self._pid: int | None = None
        self._loop: asyncio.AbstractEventLoop
        self._watch: Watch

    def wait(self, task_id: str, timeout_seconds: float | None = None) -> Status:
        """As `Watch.wait`."""
        self._ensure_started()
        waiting = self._watch.wait(task_id, timeout_seconds)
        future = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        if self._pid != os.getpid():
            return
        asyncio.run_coroutine_threadsafe(self._watch.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._pid = None

    def _ensure_started(self) -> None:
        with self._starting:
            if self._pid == os.getpid():
                return
            self._loop = asyncio.new_event_loop()
            self._watch = self._new_watch()
            self._thread = threading.Thread(
                target=self._loop.run_forever, name="visionq-watch", daemon=True
            )
            self._thread.start()
            self._pid = os.getpid()


async def _heard(ring: asyncio.Event) -> None:
    """Return at that ring, or when it is time to look again anyway."""
    with suppress(TimeoutError):
        async with asyncio.timeout(RECHECK_SECONDS):
            await ring.wait()


class _Cancels:
    """Whether the current asyncio task was cancelled and did not notice.

    On Python 3.11 `asyncio.wait_for`, with which redis-py sends, swallows a cancellation that
    comes just when the sending is done: the timeout of a wait would be lost, and the wait endless.
    """

    def __init__(self) -> None:
        task = asyncio.current_task()
        assert task is not None, "made in a coroutine"
        self._task = task
        self._num_before = task.cancelling()

    def raise_if_swallowed(self) -> None:
        if self._task.cancelling() > self._num_before:
            raise asyncio.CancelledError


class _Watched:
    """What one waiter has seen last, for the message when its time is up."""

    def __init__(self) -> None:
        self.status: Status | None = None
        self.error: BrokerUnavailable | None = None

    @property
    def last(self) -> Status:
        assert self.status is not None, "read before it is asked for"
        return self.status

    def why_not(self, task_id: str, timeout_seconds: float | None) -> Exception:
        if self.error is not None:
            return BrokerUnavailable(f"still waiting for task {task_id}: {self.error}")
        return timed_out(self.last, timeout_seconds or 0.0)


def timed_out(status: Status, asked_seconds: float) -> WaitTimeout:
    """What a waiter is told whose time is up, which began `asked_seconds` ago."""
    seconds = f"{asked_seconds:.3f}".rstrip("0").rstrip(".")
    why = "" if status.has_workers is not False else "; no worker is running"
    return WaitTimeout(f"task {status.id} is {status.state} after {seconds} s{why}", status)
