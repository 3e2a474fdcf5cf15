"""Waiting goes on through cut connections, a Redis that is away for a while, and a fork."""

import gc
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.killing import kill_valkey
from tests.support.waiting import wait_until
from visionq import BrokerUnavailable, Client, State, Submission, TaskHandle, WaitTimeout
from visionq.local import LocalServers

BOUND_SECONDS = 20.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(10) as pool:
        yield pool


@pytest.fixture
def valkey(own_servers: LocalServers, own_raw: redis.Redis) -> Iterator[LocalServers]:
    """The second servers, for a test that kills Valkey; it runs again at the end."""
    yield own_servers
    try:
        own_raw.ping()
    except redis.ConnectionError:
        own_servers.restart("valkey")


def is_subscribed(worker: HandWorker, handle: TaskHandle) -> bool:
    [(_, number)] = worker.raw.pubsub_numsub(worker.names.events(handle.id))
    return bool(number)


def waiting_in(threads: ThreadPoolExecutor, handle: TaskHandle, worker: HandWorker) -> Future[Any]:
    future = threads.submit(handle.wait, BOUND_SECONDS)
    wait_until(lambda: is_subscribed(worker, handle) or future.done(), what="a subscription")
    assert not future.done(), future.exception()
    return future


def cut(raw: redis.Redis, kind: str) -> int:
    """Close the connections of that kind, but for the one this is said over."""
    return int(raw.client_kill_filter(_type=kind, skipme=True))


@pytest.mark.parametrize("kinds", [["pubsub"], ["normal"], ["pubsub", "normal"]])
def test_a_waiter_whose_connections_are_cut_still_hears_the_end(
    own_client: Client,
    own_raw: redis.Redis,
    own_worker: HandWorker,
    threads: ThreadPoolExecutor,
    kinds: list[str],
) -> None:
    handle = own_client.ocr("inputs/a")
    future = waiting_in(threads, handle, own_worker)
    for kind in kinds:
        assert cut(own_raw, kind) >= 1
    own_worker.end(handle.id, State.SUCCESS)
    assert future.result(BOUND_SECONDS).state is State.SUCCESS


def test_a_waiter_that_subscribed_again_is_told_by_the_bell(
    own_client: Client, own_raw: redis.Redis, own_worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = own_client.ocr("inputs/a")
    future = waiting_in(threads, handle, own_worker)
    for _ in range(3):
        cut(own_raw, "pubsub")
        wait_until(lambda: is_subscribed(own_worker, handle), what="the new subscription")
    assert len(own_raw.client_list(_type="pubsub")) == 1
    own_worker.end(handle.id, State.SUCCESS)
    assert future.result(BOUND_SECONDS).state is State.SUCCESS


def test_every_other_call_survives_cut_connections(
    own_client: Client, own_raw: redis.Redis, own_worker: HandWorker
) -> None:
    handle = own_client.ocr("inputs/a")
    cut(own_raw, "normal")
    assert handle.status().state is State.PENDING
    cut(own_raw, "normal")
    second = own_client.ocr("inputs/a")
    cut(own_raw, "normal")
    [third] = own_client.submit_many([Submission("ocr", "inputs/a")])
    cut(own_raw, "normal")
    assert handle.cancel() is State.REVOKED
    assert own_worker.message_ids() == [handle.id, second.id, third.id]


def test_a_waiter_sits_out_a_redis_that_is_away(
    valkey: LocalServers, own_client: Client, own_worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = own_client.ocr("inputs/a")
    future = waiting_in(threads, handle, own_worker)
    kill_valkey(valkey)
    with pytest.raises(BrokerUnavailable):
        handle.status()
    assert not future.done()
    valkey.restart("valkey")
    own_worker.end(handle.id, State.SUCCESS)
    assert future.result(BOUND_SECONDS).state is State.SUCCESS


def test_a_wait_may_begin_while_redis_is_away(
    valkey: LocalServers, own_client: Client, own_worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = own_client.ocr("inputs/a")
    kill_valkey(valkey)
    future = threads.submit(handle.wait, BOUND_SECONDS)
    with pytest.raises(BrokerUnavailable):
        handle.wait(0.3)
    assert not future.done()
    valkey.restart("valkey")
    wait_until(lambda: is_subscribed(own_worker, handle), what="a subscription")
    own_worker.end(handle.id, State.SUCCESS)
    assert future.result(BOUND_SECONDS).state is State.SUCCESS


def test_a_wait_that_ends_while_redis_is_away_says_so_in_time(
    valkey: LocalServers, own_client: Client
) -> None:
    handle = own_client.ocr("inputs/a")
    with pytest.raises(WaitTimeout):
        handle.wait(0.1)
    kill_valkey(valkey)
    for timeout in (0.0, 1.0):
        began = time.monotonic()
        with pytest.raises(BrokerUnavailable, match=f"still waiting for task {handle.id}"):
            handle.wait(timeout)
        assert time.monotonic() - began < timeout + 2


def test_what_waits_for_an_answer_gets_it_after_the_outage(
    valkey: LocalServers, own_client: Client, own_worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    handle = own_client.ocr("inputs/a")
    future = threads.submit(handle.result, BOUND_SECONDS)
    wait_until(lambda: is_subscribed(own_worker, handle), what="a subscription")
    kill_valkey(valkey)
    valkey.restart("valkey")
    own_worker.succeed(handle.id, "late, but here")
    assert future.result(BOUND_SECONDS).text == "late, but here"


def test_submitting_works_again_when_redis_is_back(
    valkey: LocalServers, own_client: Client, own_worker: HandWorker
) -> None:
    own_client.ocr("inputs/a")
    kill_valkey(valkey)
    with pytest.raises(BrokerUnavailable):
        own_client.ocr("inputs/a")
    valkey.restart("valkey")
    handle = own_client.ocr("inputs/a")
    assert own_worker.message_ids()[-1] == handle.id


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_submits_and_waits_with_its_parent_s_client(
    own_client: Client, own_worker: HandWorker, threads: ThreadPoolExecutor
) -> None:
    """As a pre-forking web server does that was given a client already used."""
    handle = own_client.ocr("inputs/a")
    parent = waiting_in(threads, handle, own_worker)
    here, there = multiprocessing.Pipe()
    child = multiprocessing.get_context("fork").Process(
        target=_submit_and_wait, args=(own_client, handle.id, there)
    )
    child.start()
    try:
        assert here.poll(BOUND_SECONDS), "the child said nothing"
        submitted = here.recv()
        own_worker.end(submitted, State.SUCCESS)
        own_worker.end(handle.id, State.SUCCESS)
        assert here.poll(BOUND_SECONDS), "the child did not hear the end"
        assert here.recv() == ["SUCCESS", "SUCCESS"]
        # Well before the parent would look again on its own: its subscription is untouched.
        assert parent.result(BOUND_SECONDS / 4).state is State.SUCCESS
        child.join(BOUND_SECONDS)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join()
    assert own_client.ocr("inputs/a").status().state is State.PENDING


def _submit_and_wait(client: Client, task_id: str, answers: Connection) -> None:
    submitted = client.ocr("inputs/a").id
    with suppress(WaitTimeout):
        client.wait(submitted, 0.1)
    gc.collect()
    answers.send(submitted)
    answers.send([client.wait(item, BOUND_SECONDS).state.value for item in (submitted, task_id)])
    client.close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_bare_fork_submits_and_waits_too(own_client: Client, own_worker: HandWorker) -> None:
    """`os.fork` runs none of the hooks that multiprocessing has."""
    handle = own_client.ocr("inputs/a")
    with pytest.raises(WaitTimeout):
        handle.wait(0.05)
    pid = os.fork()
    if pid == 0:
        os._exit(_submit_and_wait_alone(own_client, handle))
    try:
        wait_until(lambda: is_subscribed(own_worker, handle), what="the child's subscription")
        own_worker.end(handle.id, State.SUCCESS)
        ended = wait_until(lambda: ended_child(pid), seconds=BOUND_SECONDS, what="the child")
        assert ended == "exit code 0"
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    assert own_client.ocr("inputs/a").status().state is State.PENDING


def _submit_and_wait_alone(client: Client, handle: TaskHandle) -> int:
    """The exit code of the child: 0 if both waits end as they should."""
    with suppress(Exception):
        second = client.ocr("inputs/a")
        second.cancel()
        states = [item.wait(BOUND_SECONDS).state for item in (second, handle)]
        return 0 if states == [State.REVOKED, State.SUCCESS] else 2
    return 1


def ended_child(pid: int) -> str | None:
    ended, status = os.waitpid(pid, os.WNOHANG)
    return f"exit code {os.waitstatus_to_exitcode(status)}" if ended else None
