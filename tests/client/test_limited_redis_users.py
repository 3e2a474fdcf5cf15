"""Users of Redis that may not do everything: what the client does without, and how it says no."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from time import monotonic

import pytest
import redis

from tests.client.hand_worker import HandWorker
from tests.support.redis_users import EVERYTHING, RedisUser, redis_user
from tests.support.waiting import wait_until
from visionq import BrokerDenied, BrokerUnavailable, Client, State, StoreAddress, Submission
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.refusals import is_for_good

Open = Callable[..., Client]

WITHOUT = {
    "no dangerous ones": ("-@dangerous",),
    "no SCRIPT": ("-script",),
    "no CLIENT": ("-client",),
    "no PUBLISH": ("-publish",),
    "no channel": ("resetchannels",),
}


@pytest.fixture
def open_client(urls: LocalUrls, address: StoreAddress, namespace: str) -> Iterator[Open]:
    with ExitStack() as stack:

        def make(user: RedisUser) -> Client:
            return stack.enter_context(
                Client(user.urls.broker_url, address, namespace=namespace, timeout_seconds=2)
            )

        yield make


@pytest.mark.parametrize("rules", WITHOUT.values(), ids=WITHOUT)
def test_client_does_without_what_is_no_need(
    urls: LocalUrls,
    raw: redis.Redis,
    open_client: Open,
    worker: HandWorker,
    key: str,
    rules: tuple[str, ...],
) -> None:
    with redis_user(urls, *EVERYTHING, *rules) as user, ThreadPoolExecutor() as threads:
        raw.script_flush()
        client = open_client(user)
        first, second, third = client.submit_many([Submission("ocr", key) for _ in range(3)])
        fourth = client.ocr(key)
        assert first.cancel() is State.REVOKED
        assert client.status(fourth.id).state is State.PENDING
        waiting = threads.submit(second.wait, 20)
        worker.succeed(second.id)
        assert waiting.result().state is State.SUCCESS
        assert worker.message_ids() == [one.id for one in (first, second, third, fourth)]


DENIED = {
    "no command": ("-@all", "+ping"),
    "no key": ("resetkeys",),
    "no scripts": ("-@scripting",),
    "a command within a script": ("-hmget",),
}


@pytest.mark.parametrize("rules", DENIED.values(), ids=DENIED)
def test_what_access_rules_forbid_is_named_and_raised_at_once(
    urls: LocalUrls, open_client: Open, worker: HandWorker, key: str, rules: tuple[str, ...]
) -> None:
    with redis_user(urls, *EVERYTHING, *rules) as user:
        client = open_client(user)
        calls = (lambda: client.ocr(key), lambda: client.submit_many([Submission("ocr", key)]))
        for call in calls:
            with pytest.raises(BrokerDenied, match=r"does not pass by itself: correct broker\.url"):
                call()
        assert worker.message_ids() == []


def test_wrong_password_is_named_and_not_shown(
    urls: LocalUrls, open_client: Open, key: str
) -> None:
    with redis_user(urls, *EVERYTHING) as user:
        client = open_client(user)
        user.delete()
        with pytest.raises(BrokerDenied, match=r"correct broker\.url") as caught:
            client.ocr(key)
        assert user.urls.broker_url.split(":")[2].split("@")[0] not in str(caught.value)
        user.may(*EVERYTHING)
        assert client.ocr(key).status().state is State.PENDING


def test_who_waits_without_a_limit_is_told_when_access_is_taken_away(
    urls: LocalUrls, raw: redis.Redis, open_client: Open, worker: HandWorker, key: str
) -> None:
    with redis_user(urls, *EVERYTHING) as user, ThreadPoolExecutor() as threads:
        handle = open_client(user).ocr(key)
        channel = worker.names.events(handle.id)
        waiting = threads.submit(handle.wait)
        wait_until(lambda: raw.pubsub_numsub(channel)[0][1] == 1, what="a subscription")
        user.delete()
        began = monotonic()
        with pytest.raises(BrokerDenied):
            waiting.result(20)
        assert monotonic() - began < 10
        user.may(*EVERYTHING)
        assert handle.status().state is State.PENDING, "the task goes on"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (redis.exceptions.NoPermissionError("User x has no permissions to run 'get'"), True),
        (redis.exceptions.AuthenticationError("invalid username-password pair"), True),
        (redis.ResponseError("ACL failure in script: No permissions to access a key"), True),
        (redis.ResponseError("unknown command 'LMOVE', with args beginning with: "), True),
        (
            redis.ResponseError(
                "Error running script (call to f_1): @user_script:1: @user_script: 1: The user "
                "executing the script can't run this command or subcommand"
            ),
            True,
        ),
        (redis.exceptions.OutOfMemoryError("command not allowed when used memory"), False),
        (redis.exceptions.BusyLoadingError("Redis is loading the dataset in memory"), False),
        (redis.exceptions.ReadOnlyError("You can't write against a read only replica"), False),
        (redis.ResponseError("MISCONF Errors writing to the AOF file: No space left"), False),
        (redis.ConnectionError("Connection refused"), False),
        (redis.TimeoutError("Timeout reading from socket"), False),
        (OSError("unknown command"), False),
        # What stands in a command is its sender's, and no reason.
        (redis.ResponseError("Command # 1 (SET a NOPERM) of pipeline caused error: BUSY"), False),
    ],
)
def test_refusals_that_last_are_told_from_those_that_pass(error: Exception, expected: bool) -> None:
    assert is_for_good(error) is expected
    assert issubclass(BrokerDenied, BrokerUnavailable)


@pytest.mark.parametrize("rule", ["-wait", "-set"])
def test_task_whose_replicas_may_not_be_asked_is_withdrawn(
    urls: LocalUrls, address: StoreAddress, names: Names, raw: redis.Redis, key: str, rule: str
) -> None:
    """Else it would be run, although whoever submitted it was told that it is not accepted."""
    with (
        redis_user(urls, *EVERYTHING, rule) as user,
        Client(
            user.urls.broker_url, address, namespace=names.namespace, replicas_to_confirm=1
        ) as client,
    ):
        with pytest.raises(BrokerDenied):
            client.ocr(key)
        with pytest.raises(BrokerDenied):
            client.submit_many([Submission("ocr", key)] * 2)
    assert raw.keys(names.record("*")) == []
    assert raw.zcard(names.open()) == 0
