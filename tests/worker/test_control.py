"""The control channel by itself: its names, its connection, and what of a message it believes."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis

from tests.service.test_control_channel import command, envelope
from tests.support.foreign import foreign_app
from tests.support.redis_users import redis_user
from tests.support.waiting import wait_until
from visionq.connections import connect
from visionq.errors import BrokerUnavailable
from visionq.local import LocalUrls
from visionq.names import Names
from visionq_worker import control
from visionq_worker.control import ControlChannel, revoking
from visionq_worker.control_messages import BadCommand, read_command

NODE = "visionq-1@host"
Make = Callable[..., ControlChannel]
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu")


@pytest.fixture
def cancelled() -> list[str]:
    return []


@pytest.fixture
def listening(urls: LocalUrls, cancelled: list[str]) -> Iterator[Make]:
    channels: list[ControlChannel] = []

    def make(names: Names, cancel: Callable[[str], object] = cancelled.append) -> ControlChannel:
        client = connect(urls.broker_url, timeout_seconds=2, gives_text=False)
        answers = {"ping": lambda _arguments: {"ok": "pong"}, "revoke": revoking(cancel)}
        channels.append(ControlChannel(client, names, node=NODE, answers=answers))
        channels[-1].start()
        return channels[-1]

    yield make
    for channel in channels:
        channel.stop()
        channel._thread.join(10)
        assert not channel._thread.is_alive()


def answered(urls: LocalUrls, namespace: str) -> Any:
    app = foreign_app(urls, namespace)
    try:
        return wait_until(lambda: app.control.ping(timeout=0.3), seconds=20)
    finally:
        app.close()


def test_the_default_namespace_has_celery_s_names(
    urls: LocalUrls, listening: Make, cancelled: list[str]
) -> None:
    """So that Flower, and an application without settings, find its workers."""
    listening(Names())
    assert answered(urls, "visionq") == [{NODE: {"ok": "pong"}}]
    app, task_id = foreign_app(urls), str(uuid.uuid4())
    app.AsyncResult(task_id).revoke()
    wait_until(lambda: cancelled == [task_id])
    app.close()


def test_a_connection_that_was_cut_is_replaced(
    urls: LocalUrls, listening: Make, namespace: str, raw: redis.Redis
) -> None:
    listening(Names(namespace))
    answered(urls, namespace)
    raw.client_kill_filter(_type="pubsub")
    assert answered(urls, namespace) == [{NODE: {"ok": "pong"}}]


def test_a_user_who_may_not_subscribe_is_no_harm_and_may_later(
    urls: LocalUrls,
    namespace: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is said once; whether access rules still forbid it is looked at now and then."""
    monkeypatch.setattr(control, "LONGEST_PAUSE_SECONDS", 0.05)
    with redis_user(urls, "~*", "+@all") as user:
        client = connect(user.urls.broker_url, timeout_seconds=2, gives_text=False)
        answers = {"ping": lambda _arguments: {"ok": "pong"}}
        channel = ControlChannel(client, Names(namespace), node=NODE, answers=answers)
        channel.start()
        wait_until(lambda: "control commands are not taken" in caplog.text)
        wait_until(lambda: num_refused(urls, user.name) > 3, what="some more tries")
        assert caplog.text.count("control commands are not taken") == 1
        user.add("&*")
        assert wait_until(lambda: answered(urls, namespace)) == [{NODE: {"ok": "pong"}}]
        channel.stop()
        channel._thread.join(10)


def num_refused(urls: LocalUrls, name: str) -> int:
    with redis.Redis.from_url(urls.broker_url, decode_responses=True) as owner:
        entries: Any = owner.execute_command("ACL", "LOG")
    return sum(int(one["count"]) for one in entries if one["username"] == name)


@pytest.mark.parametrize(
    ("cause", "advice"),
    [
        (redis.ResponseError("OOM"), "; send the command again"),
        (redis.exceptions.NoPermissionError("no key"), ""),
    ],
)
def test_a_redis_that_refuses_the_cancel_is_said_and_no_harm(
    urls: LocalUrls, listening: Make, namespace: str, cause: Exception, advice: str
) -> None:
    def refuse(_task_id: str) -> None:
        raise BrokerUnavailable("Redis: full") from cause

    listening(Names(namespace), refuse)
    answered(urls, namespace)
    app = foreign_app(urls, namespace)
    [reply] = app.control.revoke(str(uuid.uuid4()), reply=True, timeout=5, limit=1)
    assert reply == {NODE: {"error": f"Redis cannot be reached, or refuses{advice}"}}
    assert answered(urls, namespace)
    app.close()


@pytest.mark.parametrize(
    ("more", "is_meant"),
    [
        ({}, True),
        ({"destination": [NODE, "other@host"]}, True),
        ({"destination": NODE}, True),
        ({"destination": ["other@host"]}, False),
        ({"destination": f"{NODE}x"}, False),
        ({"destination": {NODE: 1}}, False),
        ({"pattern": "visionq-*", "matcher": "glob"}, True),
        ({"pattern": "celery*", "matcher": "glob"}, False),
    ],
)
def test_whom_a_command_is_meant_for(more: dict[str, Any], is_meant: bool) -> None:
    data = envelope(command(**more)).encode()
    assert (read_command(data, NODE, Names("service")) is not None) is is_meant


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\xff", "the message is no JSON"),
        (b"[]", "the message is no object"),
        (b"[" * 200_000, "the message is no JSON"),
        (b" " * 300_000, "it has 300000 bytes, 262144 are allowed"),
        (envelope(command(), headers=[1]).encode(), "the headers or properties are no object"),
        (envelope(command(), body=5).encode(), "the body is no text"),
        (envelope(command(), body="=").encode(), "the body cannot be decoded"),
        (envelope([1]).encode(), "the body is no object"),
        (envelope(command(method=None)).encode(), "the method is no name"),
        (envelope(command(arguments=[1])).encode(), "the arguments are no object"),
        (envelope(command(), headers={"compression": "x"}).encode(), "only JSON is accepted"),
        (
            envelope(command(), **{"content-type": "application/x-python-serialize"}).encode(),
            "only JSON is accepted",
        ),
        (
            envelope(command(pattern="(a+)+$", matcher="pcre")).encode(),
            "by destination or by a short glob only",
        ),
        (envelope(command(reply_to={"exchange": "x"})).encode(), "an answer goes to the exchange"),
    ],
)
def test_what_is_no_command_is_told_by_its_reason(data: bytes, reason: str) -> None:
    with pytest.raises(BadCommand, match=reason.replace("(", r"\(")):
        read_command(data, NODE, Names("service"))


def test_a_body_without_base64_is_read_too() -> None:
    data = json.loads(envelope(command(), properties={}))
    data["body"] = json.dumps(command())
    found = read_command(json.dumps(data).encode(), NODE, Names("service"))
    assert found is not None
    assert found.method == "ping"
