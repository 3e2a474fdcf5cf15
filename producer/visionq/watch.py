"""Waiting for tasks without polling: one subscription connection for all waiters.

`Watch` lives on one event loop. The asyncio client has one on each loop that it is used on; the
synchronous one runs a `Watch` on a loop of its own in a background thread, so that both share this
code.
A waiter subscribes to its task's channel, and only then reads the record: a change that falls
between the two is either in the record or rings the bell.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import redis
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from visionq.broker_urls import BrokerAddress, as_address
from visionq.connections import mapped_errors
from visionq.contract import Status
from visionq.errors import BrokerDenied, BrokerUnavailable, ClientClosed, TaskUnknown, WaitTimeout
from visionq.names import Names
from visionq.per_process import PerProcess
from visionq.records import parse_statuses, queue_status
from visionq.refusals import is_for_good
from visionq.server_connections import pool_options

RECONNECT_SECONDS = 0.5
"""Pause between attempts to reach Redis again while somebody waits."""


CANCEL_SECONDS = 0.1
"""Until a reader that was cancelled and goes on is cancelled again."""
BROKEN = (redis.RedisError, OSError, AttributeError)
"""What sending over the subscription raises; AttributeError where redis-py's own reader closes the
connection meanwhile."""
RECHECK_SECONDS = 15.0
"""A waiter reads its record this often even if nothing rings: a connection whose other end has
vanished without a word delivers no event and no error."""

PRIMARY_SECONDS = 5.0
"""A subscription that is silent for so long may be one to a server that is the primary no longer:
then the server's role is asked for over the connection for reading."""

END_SECONDS = 3.0
"""How long a client that was dropped waits for its thread, which has two sockets to close."""


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

    Nothing is opened before the first call. What still waits at `close` raises `ClientClosed`.
    """

    def __init__(
        self, broker: str | BrokerAddress, names: Names, *, timeout_seconds: float
    ) -> None:
        self._names = names
        self._timeout_seconds = timeout_seconds
        pool = redis.asyncio.BlockingConnectionPool(
            **pool_options(as_address(broker).for_namespace(names.namespace), is_async=True),
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
        self._pubsub: Any = self._redis.pubsub()
        self._bells: dict[str, Bell] = {}
        self._unsent: set[str] = set()
        """Channels whose subscription failed, and goes with the next one."""
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
        that moment Redis could not be reached. An outage shorter than the time left is sat out;
        what Redis's access rules forbid is not (`BrokerDenied`).
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
        try:
            await self._send_waiters_away()
        finally:
            await self.disconnect()

    async def disconnect(self) -> None:
        """Close the connections. Who still waits is not told."""
        self._is_closed = True
        try:
            await self._disconnect()
        except asyncio.CancelledError:
            # Where waiting was all that `asyncio.run` had to do, it now cancels what is left, once.
            await self._disconnect()
            raise

    async def _disconnect(self) -> None:
        while self._reader is not None and not self._reader.done():
            # More than once: redis-py may swallow a cancellation that comes just when it is done.
            self._reader.cancel()
            await asyncio.wait([self._reader], timeout=CANCEL_SECONDS)
        with suppress(redis.RedisError, OSError):
            await self._pubsub.aclose()
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
        """Read the record. An outage counts as not done. Raises `TaskUnknown`, `BrokerDenied`."""
        if self._is_closed:
            raise ClientClosed(f"the client was closed before task {task_id} was done")
        try:
            watched.status = await self.status(task_id)
            watched.error = None
        except BrokerDenied:
            raise
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
                self._unsent.discard(channel)
                await self._unsubscribe(channel)

    async def _subscribe(self, channel: str, bell: Bell) -> None:
        """Return when Redis has confirmed the subscription, or said nothing in time.

        Then the record is read all the same; the reader's reconnect subscribes again.
        """
        self._unsent.add(channel)
        await self._send_subscriptions()
        if self._reader is None or self._reader.done():
            self._reader = asyncio.get_running_loop().create_task(self._run_reader())
        with suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_seconds):
                await bell.is_subscribed.wait()

    async def _send_subscriptions(self) -> None:
        with suppress(*BROKEN):
            async with self._sending:
                sent = self._unsent & self._bells.keys()
                if sent:
                    await self._pubsub.subscribe(*sent)
                self._unsent -= sent

    async def _unsubscribe(self, channel: str) -> None:
        if self._is_closed:
            return  # it would connect again
        with suppress(*BROKEN):
            async with self._sending:
                await self._pubsub.unsubscribe(channel)

    async def _run_reader(self) -> None:
        while not self._is_closed:
            try:
                message = await self._next_message()
                self._dispatch(message)
                if message is None and self._unsent:
                    await self._send_subscriptions()
                if message is None and await self._is_outdated():
                    await self._resubscribe(anew=True)
            except (*BROKEN, RuntimeError):
                # RuntimeError: nothing was ever subscribed, the first attempt having failed.
                await asyncio.sleep(RECONNECT_SECONDS)
                await self._resubscribe()

    async def _next_message(self) -> dict[str, Any] | None:
        async with self._sending:  # whoever connects reads the replies of the handshake alone
            connection = self._pubsub.connection
            if connection is None or not connection.is_connected:
                raise redis.ConnectionError("the subscription is not connected")
        message: dict[str, Any] | None = await self._pubsub.get_message(timeout=PRIMARY_SECONDS)
        return message

    async def _is_outdated(self) -> bool:
        if self._bells:
            with suppress(redis.RedisError, OSError):
                await self._redis.ping()
        return bool(self._pubsub.connection.is_outdated)

    def _dispatch(self, message: dict[str, Any] | None) -> None:
        bell = self._bells.get(message["channel"]) if message else None
        if message is None or bell is None:
            return
        if message["type"] == "subscribe":
            bell.is_subscribed.set()
        bell.ring()

    async def _resubscribe(self, *, anew: bool = False) -> None:
        """After an outage every waiter reads its record again, and where that is forbidden now."""
        try:
            async with self._sending:
                if anew:
                    await self._pubsub.connection.disconnect()
                if self._bells:
                    await self._pubsub.subscribe(*self._bells)
        except BROKEN as error:
            if not is_for_good(error):
                return
        for bell in self._bells.values():
            bell.ring()


class WatchPerLoop:
    """A `Watch` for each event loop that the asyncio client is used on.

    It is closed by `close`, when its loop ends (as `asyncio.run` ends it), and when this object is
    dropped while the loop runs.
    """

    def __init__(self, new_watch: Callable[[], Watch]) -> None:
        self._new_watch = new_watch
        self._opened: PerProcess[_OpenWatches] = PerProcess(dict, dict.clear)

    async def here(self) -> Watch:
        """The one of the running loop."""
        loop, opened = asyncio.get_running_loop(), self._opened.get()
        if loop in opened:
            return opened[loop][0]
        for ended in [other for other in list(opened) if other.is_closed()]:
            opened.pop(ended, None)
        # A loop closes the generators that began on it when it ends, and those that are dropped.
        keeper = _kept(self._new_watch())
        watch = await anext(keeper)
        opened[loop] = watch, keeper
        return watch

    async def close(self) -> None:
        """What waits on this loop and on others raises `ClientClosed`."""
        opened = self._opened.get()
        here = opened.pop(asyncio.get_running_loop(), None)
        self._opened.close()
        if here is not None:
            await here[1].aclose()


_OpenWatches: TypeAlias = dict[asyncio.AbstractEventLoop, tuple[Watch, AsyncGenerator[Watch]]]


async def _kept(watch: Watch) -> AsyncGenerator[Watch]:
    try:
        yield watch
    finally:
        await watch.close()


class ThreadedWatch:
    """A `Watch` for synchronous callers: it lives on a loop in a background thread.

    Thread-safe. The thread starts with the first wait, and anew in a forked child, because
    threads do not survive a fork. It ends with `close`, when this object is dropped, and when the
    interpreter exits.
    """

    def __init__(self, new_watch: Callable[[], Watch]) -> None:
        self._running = PerProcess(partial(_Background, new_watch), _Background.end)

    def wait(self, task_id: str, timeout_seconds: float | None = None) -> Status:
        """As `Watch.wait`."""
        return self._running.get().wait(task_id, timeout_seconds)

    def close(self) -> None:
        """What still waits raises `ClientClosed`."""
        self._running.close(_Background.close)


class _Background:
    """A loop with a `Watch` in a thread that ends when it is told to."""

    def __init__(self, new_watch: Callable[[], Watch]) -> None:
        self._loop = asyncio.new_event_loop()
        self._watch = new_watch()
        self._told_to_end = asyncio.Event()
        self._waiting: set[Future[Status]] = set()
        self._thread = threading.Thread(target=self._run, name="visionq-watch", daemon=True)
        self._thread.start()

    def wait(self, task_id: str, timeout_seconds: float | None) -> Status:
        """As `Watch.wait`, in any thread but the loop's."""
        # Beside the coroutine's own future, which is cancelled when the interpreter exits: a daemon
        # thread that waits would print a traceback then.
        future: Future[Status] = Future()
        self._waiting.add(future)
        waiting = self._deliver(task_id, timeout_seconds, future)
        try:
            running = asyncio.run_coroutine_threadsafe(waiting, self._loop)
        except RuntimeError:  # the loop was closed just now
            waiting.close()
            raise ClientClosed from None
        try:
            return future.result()
        except BaseException:
            running.cancel()
            raise
        finally:
            self._waiting.discard(future)
            del future  # its error holds this frame, and with it the client

    def close(self) -> None:
        """End, and tell those that wait."""
        with suppress(RuntimeError):  # the loop is closed already
            asyncio.run_coroutine_threadsafe(self._watch.close(), self._loop).result()
        self.end()
        for future in list(self._waiting):  # who began to wait in the meantime
            if not future.done():
                future.set_exception(ClientClosed())

    def end(self) -> None:
        """Close connections and loop. A daemon thread that still waits is left waiting."""
        with suppress(RuntimeError):  # the loop is closed already
            self._loop.call_soon_threadsafe(self._told_to_end.set)
        # The garbage collector runs in any thread, perhaps in this one.
        if threading.current_thread() is not self._thread:
            self._thread.join(END_SECONDS)

    async def _deliver(
        self, task_id: str, timeout_seconds: float | None, future: Future[Status]
    ) -> None:
        try:
            status = await self._watch.wait(task_id, timeout_seconds)
        except Exception as exc:
            future.set_exception(exc)
            del future  # the error holds this frame
        else:
            future.set_result(status)

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._main())
        finally:
            self._loop.close()

    async def _main(self) -> None:
        await self._told_to_end.wait()
        await self._watch.disconnect()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)


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
