"""Celery's control channel of a running worker, as its applications and tools use it."""

from __future__ import annotations

import base64
import json
import random
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from tests.conftest import SERVICE_NAMESPACE
from tests.support.foreign import foreign_app
from tests.support.waiting import wait_until
from visionq import Client, State
from visionq.errors import ObjectMissing
from visionq.local import LocalUrls
from visionq.names import Names, result_key
from visionq.objects import ObjectStore

SECONDS = 30.0
NAMES = Names(SERVICE_NAMESPACE)
SECRET_QUESTION = "What does the letter from the clinic say?"
# kombu's mailbox, which asks the event loop for its reply queue.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu")

REFUSED = {
    "shutdown": {},
    "pool_restart": {},
    "pool_grow": {"n": 3},
    "pool_shrink": {"n": 1},
    "autoscale": {"max": 9, "min": 9},
    "add_consumer": {"queue": "anything"},
    "cancel_consumer": {"queue": "service.interactive"},
    "rate_limit": {"task_name": "visionq.run", "rate_limit": "1/h"},
    "time_limit": {"task_name": "visionq.run", "hard": 1},
    "enable_events": {},
    "disable_events": {},
    "election": {"id": "1", "topic": "any"},
    "heartbeat": {},
    "revoke_by_stamped_headers": {"headers": {"any": "thing"}},
    "memdump": {},
    "objgraph": {},
    "hello": {"from_node": "celery@else"},
    "report": {},
    "no_such_command": {},
}


@pytest.fixture
def other(urls: LocalUrls) -> Iterator[Celery]:
    app = foreign_app(urls, SERVICE_NAMESPACE)
    yield app
    app.close()


def replies(app: Celery, command: str, **arguments: Any) -> list[Any]:
    """What the one worker says, by way of Celery's own client; empty when it is silent."""
    found: list[Any] = []

    def asked() -> bool:
        found.extend(
            app.control.broadcast(command, arguments=arguments, reply=True, timeout=1, limit=1)
        )
        return bool(found)

    wait_until(asked, seconds=SECONDS, what=f"an answer to {command}")
    return [answer for reply in found for answer in reply.values()]


@pytest.fixture
def running(service: Client, pictures: Path) -> Iterator[str]:
    """The id of a task that is being answered, for as long as the test lasts."""
    handle = service.ask(pictures / "shelf_after.png", SECRET_QUESTION, max_new_tokens=12_000)
    wait_until(lambda: handle.status().generated_tokens, seconds=SECONDS)
    yield handle.id
    handle.cancel()
    handle.wait(SECONDS)


def test_ping_is_answered_under_the_worker_s_name(service: Client, other: Celery) -> None:
    wait_until(lambda: other.control.ping(timeout=1), seconds=SECONDS)
    [reply] = other.control.ping(timeout=1)
    [(node, answer)] = reply.items()
    assert re.fullmatch(r"visionq-\d+@.+", node)
    assert answer == {"ok": "pong"}
    assert other.control.ping(destination=[node], timeout=1) == [reply]
    assert other.control.ping(destination=["another@host"], timeout=0.3) == []
    assert other.control.ping(pattern="visionq-*", matcher="glob", timeout=1) == [reply]
    assert other.control.ping(pattern="celery@*", matcher="glob", timeout=0.3) == []


def test_inspection_shows_what_runs_and_not_what_was_asked(
    service: Client, other: Celery, running: str, urls: LocalUrls
) -> None:
    inspect = other.control.inspect(timeout=SECONDS, limit=1)
    [active] = inspect.active().values()
    assert [task["id"] for task in active] == [running]
    assert (active[0]["name"], active[0]["args"], active[0]["kwargs"]) == ("visionq.run", [], {})
    [queues] = inspect.active_queues().values()
    assert [queue["name"] for queue in queues] == ["service.interactive", "service.bulk"]
    assert list(inspect.registered().values()) == [["visionq.run"]]
    assert list(inspect.scheduled().values()) == [[]]
    assert list(inspect.reserved().values()) == [[]]
    assert list(inspect.revoked().values()) == [[]]
    [stats] = inspect.stats().values()
    assert stats["pool"]["max-concurrency"] >= 1
    assert stats["total"]["visionq.run"] >= 1
    [conf] = inspect.conf().values()
    assert conf["task_default_queue"] == "service.interactive"
    said = json.dumps([active, queues, stats, conf])
    assert SECRET_QUESTION not in said
    password = urls.broker_url.split("@")[0].rpartition(":")[2]
    assert password
    assert password not in said


@pytest.mark.parametrize("command", REFUSED)
def test_whatever_else_celery_can_command_is_refused_by_its_name(
    service: Client, other: Celery, command: str
) -> None:
    [answer] = replies(other, command, **REFUSED[command])  # type: ignore[arg-type]
    assert answer == {"error": f"visionq refuses the control command '{command}'"}


@pytest.mark.parametrize("options", [{}, {"terminate": True, "signal": "SIGKILL"}])
def test_revoke_ends_a_running_task_between_two_tokens(
    service: Client, other: Celery, running: str, options: dict[str, Any]
) -> None:
    AsyncResult(running, app=other).revoke(**options)
    assert service.wait(running, SECONDS).state is State.REVOKED
    with pytest.raises(TaskRevokedError):
        AsyncResult(running, app=other).get(timeout=SECONDS)
    assert replies(other, "ping"), "the worker lives"


def test_revoke_of_many_ids_is_a_cancel_of_each(service: Client, other: Celery) -> None:
    ids = [str(uuid.uuid4()) for _ in range(3)]
    assert replies(other, "revoke", task_id=ids) == [{"ok": "cancel of 3 tasks noted"}]
    assert replies(other, "revoke", task_id=[ids[0], "no-uuid", 5]) == [
        {"error": "2 of 3 ids are no lower-case UUIDs"}
    ]
    [answer] = replies(other, "revoke", task_id=[str(uuid.uuid4())] * 1001)
    assert answer == {"error": "1001 ids at once, 1000 are allowed"}


def test_another_deployment_s_application_reaches_no_worker_of_ours(
    service: Client, urls: LocalUrls, running: str
) -> None:
    """Celery's default names are those of the namespace `visionq`."""
    for namespace in ("visionq", "staging"):
        stranger = foreign_app(urls, namespace)
        assert stranger.control.ping(timeout=0.5) == []
        AsyncResult(running, app=stranger).revoke()
        stranger.close()
    own = foreign_app(urls, SERVICE_NAMESPACE)
    wait_until(lambda: own.control.ping(timeout=1), seconds=SECONDS)
    assert not service.status(running).is_cancel_requested


def test_an_answer_nobody_waits_for_is_gone_after_a_while(
    service: Client, raw: redis.Redis
) -> None:
    key = str(uuid.uuid4())
    raw.publish(NAMES.control_topic(0), envelope(command(reply_to=reply_to(key))))
    queue = NAMES.control_reply_queue(key)
    wait_until(lambda: raw.exists(queue), seconds=SECONDS)
    assert 0 < raw.ttl(queue) <= 60


def command(**more: Any) -> dict[str, Any]:
    return {"method": "ping", "arguments": {}, "destination": None, "ticket": "t", **more}


def reply_to(key: str) -> dict[str, str]:
    return {"exchange": NAMES.control_reply_exchange(), "routing_key": key}


def envelope(content: Any, **more: Any) -> str:
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(content).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {"clock": 1, "expires": 0},
            "properties": {"body_encoding": "base64", "delivery_tag": str(uuid.uuid4())},
            **more,
        }
    )


FORGED = [
    {"exchange": "", "routing_key": "service.interactive"},
    {"exchange": NAMES.control_reply_exchange(), "routing_key": "service.interactive"},
    {"exchange": "service", "routing_key": str(uuid.uuid4())},
    "service.interactive",
    ["exchange", "routing_key"],
    {"exchange": NAMES.control_reply_exchange(), "routing_key": 5},
]


@pytest.mark.parametrize("forged", FORGED)
def test_an_answer_goes_to_no_key_that_the_sender_has_made_up(
    service: Client, raw: redis.Redis, other: Celery, forged: Any
) -> None:
    before = set(raw.scan_iter(count=1000))
    raw.publish(NAMES.control_topic(0), envelope(command(reply_to=forged)))
    assert replies(other, "ping"), "later messages are answered, so it has been looked at"
    new = set(raw.scan_iter(count=1000)) - before
    assert [key for key in new if "pidbox" not in key and not key.startswith("service:")] == []
    assert raw.llen("service.interactive") == 0


NOISE: list[Any] = [
    None, True, -1, 10**40, 1e308, "", "x" * 300, "\ud800", "\x00", [], {}, [[]], {"a": {"b": []}},
    ["service"], {"exchange": "x"}, "application/x-python-serialize", "zlib", "gzip",
]  # fmt: skip


def node_of(app: Celery) -> list[str]:
    """The name of the one worker, which has its process's id in it."""
    found = wait_until(
        lambda: app.control.broadcast("ping", reply=True, timeout=5, limit=1), seconds=SECONDS
    )
    return [name for reply in found for name in reply]


def mutated(rng: random.Random, value: Any) -> Any:
    """The value with one thing in it replaced, dropped or added, however deep."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        changed = dict(value)
        how = rng.random()
        if how < 0.15:
            del changed[name]
        elif how < 0.25:
            changed[rng.choice(["compression", "ticket", "task_id", "pattern"])] = rng.choice(NOISE)
        else:
            changed[name] = mutated(rng, changed[name])
        return changed
    return rng.choice(NOISE)


def fuzzed(rng: random.Random) -> bytes:
    """A control message that somebody has got wrong: in its bytes, its envelope or its command."""
    body = command(
        method=rng.choice(["ping", "revoke", "active", "shutdown", "stats"]),
        arguments={"task_id": [str(uuid.UUID(int=rng.getrandbits(128)))], "terminate": True},
        reply_to=reply_to(str(uuid.UUID(int=rng.getrandbits(128)))),
        pattern=rng.choice([None, "*", "(a+)+$"]),
        matcher=rng.choice([None, "glob", "pcre"]),
    )
    for _ in range(rng.randrange(3)):
        body = mutated(rng, body)
    whole: Any = json.loads(envelope(body))
    for _ in range(rng.randrange(3)):
        whole = mutated(rng, whole)
    data = json.dumps(whole).encode()
    how = rng.random()
    if how < 0.1:
        at = rng.randrange(len(data) + 1)
        return data[:at] + rng.randbytes(rng.randrange(9)) + data[at:]
    if how < 0.15:
        return data[: rng.randrange(len(data) + 1)]
    return data


SPECIAL = [
    b"",
    b"\xff\xfe\x00",
    b"[" * 200_000,
    b'{"body":' * 50_000,
    b"null",
    b'"' + b"a" * 1_000_000 + b'"',
    envelope("[" * 100_000).encode(),
    envelope(command(), **{"content-type": "application/x-python-serialize"}).encode(),
    envelope(command(), body=base64.b64encode(b"[" * 60_000).decode()).encode(),
    envelope(command(pattern="(a+)+$", matcher="pcre")).encode(),
    envelope(command(), body="=====").encode(),
    envelope(command(), body="\ud800").encode(),
]


def test_no_control_message_ends_the_worker(
    service: Client, raw: redis.Redis, other: Celery, pictures: Path
) -> None:
    """The one worker of these tests would be missed by all of them."""
    [node] = node_of(other)
    rng = random.Random(20)
    topic = NAMES.control_topic(0)
    for data in SPECIAL:
        assert raw.publish(topic, data) >= 1
    for _ in range(3000):
        raw.publish(topic, fuzzed(rng))
    assert node_of(other) == [node], "it is still the same process"
    handle = service.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2)
    assert handle.wait(SECONDS).state is State.SUCCESS


@pytest.mark.parametrize("is_by_client", [True, False])
def test_a_foreign_task_that_was_cancelled_before_any_worker_took_it_ends_revoked(
    service: Client, other: Celery, store: ObjectStore, is_by_client: bool
) -> None:
    """With its result object, and so that its sender sees it; a cancel outruns its message here."""
    task_id = str(uuid.uuid4())
    if is_by_client:
        assert service.cancel(task_id) is State.UNKNOWN
    else:
        assert replies(other, "revoke", task_id=task_id) == [{"ok": "cancel of 1 tasks noted"}]
    task = {"kind": "ask", "question": "What?", "images": [{"ref": "inputs/x"}]}
    sent = other.send_task(
        "visionq.run", task_id=task_id, kwargs={"task": task}, queue="service.interactive"
    )
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=SECONDS)
    assert service.status(task_id).state is State.REVOKED
    result = wait_until(lambda: stored_result(store, task_id), seconds=SECONDS)
    assert (result["state"], result["failure"]["code"]) == ("REVOKED", "revoked")


def stored_result(store: ObjectStore, task_id: str) -> Any:
    """The result object, as soon as there is one."""
    try:
        return json.loads(store.get(result_key(task_id)))
    except ObjectMissing:
        return None
