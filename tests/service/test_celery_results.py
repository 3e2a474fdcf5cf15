"""Celery's own result of a task, in a Redis that refuses it."""

from __future__ import annotations

import json
import logging
import subprocess
import threading
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis
from celery.app.task import Context
from celery.result import AsyncResult

from tests.cli.commands import visionq_worker
from tests.support.addresses import store_address
from tests.support.foreign import foreign_app
from tests.support.redis_users import EVERYTHING, redis_user
from tests.support.waiting import wait_until
from tests.support.workers import BIN, environment, running_worker
from visionq import Client, State
from visionq.local import LocalServers, LocalUrls
from visionq.names import DEFAULT_NAMESPACE, Names
from visionq.settings import load_settings
from visionq_worker import celery_parts
from visionq_worker.app import EXIT_START, build_app
from visionq_worker.permissions import forbidden_keys

# Celery's call, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")

CLAIM = "tag#1"
REQUESTS = {"with its message": Context(properties={"delivery_tag": CLAIM}), "alone": None}
"""How Celery hands over a success; the message is settled with it."""


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """A Redis that may be full."""
    with LocalServers(tmp_path_factory.mktemp("full")) as servers:
        yield servers


@pytest.fixture
def full(own_servers: LocalServers) -> Iterator[redis.Redis]:
    """A connection to a Redis that takes no writes, until the test says otherwise."""
    with redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True) as raw:
        raw.config_set("maxmemory", 1)
        yield raw
        raw.config_set("maxmemory", 0)


@pytest.fixture
def app(own_servers: LocalServers, full: redis.Redis) -> Any:
    app = build_app(load_settings(broker={"url": own_servers.urls.broker_url}))
    app.visionq_service.leases.took(CLAIM)
    return app


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_result_that_redis_refuses_is_stored_when_it_does_so_no_longer(
    app: Any, full: redis.Redis, caplog: pytest.LogCaptureFixture, request_: Any
) -> None:
    task_id = str(uuid.uuid4())
    leases = app.visionq_service.leases
    storing = threading.Thread(
        target=app.backend.store_result,
        args=(task_id, {"text": "a shelf"}, "SUCCESS"),
        kwargs={"request": request_},
    )
    storing.start()
    wait_until(lambda: "storing Celery's results fails" in caplog.text)
    assert AsyncResult(task_id, app=app).state == "PENDING"
    assert leases.held == [CLAIM]
    full.config_set("maxmemory", 0)
    storing.join()
    assert AsyncResult(task_id, app=app).result == {"text": "a shelf"}
    assert leases.held == ([CLAIM] if request_ is None else [])
    assert 0 < full.ttl(Names().celery_result(task_id)) <= app.conf.result_expires


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_worker_goes_on_without_a_result_that_is_refused_for_good(
    app: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, request_: Any
) -> None:
    monkeypatch.setattr(celery_parts, "REFUSED_PAUSES", (0.01, 0.01))
    task_id = str(uuid.uuid4())
    app.backend.store_result(task_id, {"text": "a shelf"}, "SUCCESS", request=request_)
    assert [record.levelno for record in caplog.records] == [logging.WARNING, logging.ERROR]
    assert AsyncResult(task_id, app=app).state == "PENDING"
    assert app.visionq_service.leases.held == [CLAIM]


def test_message_of_a_chord_is_not_settled_with_its_result(app: Any, full: redis.Redis) -> None:
    """Celery still has to count it."""
    request = Context(properties={"delivery_tag": CLAIM}, chord={"any": "chord"})
    full.config_set("maxmemory", 0)
    app.backend.store_result(str(uuid.uuid4()), {"text": "a shelf"}, "SUCCESS", request=request)
    assert app.visionq_service.leases.held == [CLAIM]


@pytest.mark.parametrize("first", ["visionq", "staging"])
def test_two_deployments_keep_their_results_of_one_id_apart(
    urls: LocalUrls, raw: redis.Redis, namespace: str, first: str
) -> None:
    """The same idempotency key of the same tenant is the same id in each of them."""
    task_id = str(uuid.uuid4())
    for name in (first, namespace):
        app = build_app(load_settings(broker={"url": urls.broker_url, "namespace": name}))
        app.backend.store_result(task_id, {"text": f"of {name}"}, "SUCCESS")
    for name in (first, namespace):
        theirs = foreign_app(urls, name)
        assert AsyncResult(task_id, app=theirs).result == {"text": f"of {name}"}
        assert raw.exists(Names(name).celery_result(task_id))


def test_every_key_of_celery_s_backend_has_the_namespace(urls: LocalUrls, namespace: str) -> None:
    settings = load_settings(broker={"url": urls.broker_url, "namespace": namespace})
    backend = build_app(settings).backend
    keys = (
        backend.get_key_for_task("t"),
        backend.get_key_for_group("g"),
        backend.get_key_for_chord("c"),
    )
    assert [str(key, "ascii") for key in keys] == [
        f"{namespace}:celery-task-meta-t",
        f"{namespace}:celery-taskset-meta-g",
        f"{namespace}:chord-unlock-c",
    ]


# A user of Redis who may not store Celery's results, and never will: in the default namespace these
# have Celery's own names.


@pytest.fixture
def limited(own_servers: LocalServers) -> Iterator[LocalUrls]:
    """The servers as a user finds them who is limited to the namespace."""
    urls = own_servers.urls
    name, allowed = f"u{uuid.uuid4().hex[:12]}", [f"{DEFAULT_NAMESPACE}*"]
    address = urls.broker_url.rpartition("@")[2].removeprefix("redis://")
    with redis.Redis.from_url(urls.broker_url) as raw:
        raw.acl_setuser(
            name, enabled=True, nopass=True, keys=allowed, channels=allowed, commands=["+@all"]
        )
        yield replace(urls, broker_url=f"redis://{name}:any@{address}")
        raw.acl_deluser(name)


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_result_that_redis_forbids_is_tried_once_and_reported_once(
    limited: LocalUrls, caplog: pytest.LogCaptureFixture, request_: Any
) -> None:
    app = build_app(load_settings(broker={"url": limited.broker_url}))
    began = monotonic()
    for _ in range(3):
        app.backend.store_result(str(uuid.uuid4()), {"text": "x"}, "SUCCESS", request=request_)
    assert monotonic() - began < celery_parts.REFUSED_PAUSES[-1]
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "does not allow" in caplog.text


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_result_waits_while_the_user_may_do_nothing(
    own_servers: LocalServers, monkeypatch: pytest.MonkeyPatch, request_: Any
) -> None:
    """Its message could not be settled either. What was stored then is there when it ends."""
    monkeypatch.setattr(celery_parts, "FORBIDDEN_SECONDS", 0.05)
    task_id = str(uuid.uuid4())
    with redis_user(own_servers.urls, *EVERYTHING) as user:
        app = build_app(load_settings(broker={"url": user.urls.broker_url}))
        leases = app.visionq_service.leases
        leases.took(CLAIM)
        user.may()
        storing = threading.Thread(
            target=app.backend.store_result,
            args=(task_id, {"text": "a shelf"}, "SUCCESS"),
            kwargs={"request": request_},
        )
        storing.start()
        storing.join(0.5)
        assert storing.is_alive()
        user.may(*EVERYTHING)
        storing.join(20)
        assert AsyncResult(task_id, app=app).result == {"text": "a shelf"}
        assert leases.held == ([CLAIM] if request_ is None else [])


def test_worker_of_a_limited_user_answers_at_once_and_check_says_what_is_missing(
    limited: LocalUrls, pictures: Path, tmp_path: Path
) -> None:
    env = environment(limited, DEFAULT_NAMESPACE, VISIONQ_WORKER__CONCURRENCY="2")
    checked = visionq_worker(env, "check", "--quick")
    assert checked.exit_code == 1
    assert "celery-task-meta-*" in checked.stdout
    log = tmp_path / "log"
    with (
        running_worker(env, log),
        Client(limited.broker_url, store_address(limited)) as own,
    ):
        began = monotonic()
        handles = [
            own.ocr(pictures / "shelf_after.png", f"{number}?", max_new_tokens=1)
            for number in range(6)
        ]
        assert all(handle.wait(60).state is State.SUCCESS for handle in handles)
        assert monotonic() - began < sum(celery_parts.REFUSED_PAUSES)
        wait_until(lambda: "control commands are not taken" in log.read_text(), seconds=10)
    told = log.read_text()
    assert "this user may not use celery-task-meta-*" in told
    assert "control channel is away" not in told  # what is forbidden is not tried again


def test_user_limited_to_a_namespace_of_its_own_needs_little_beside_it(
    own_servers: LocalServers,
) -> None:
    names = Names("staging")
    with redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True) as raw:
        raw.acl_setuser(
            "stage",
            enabled=True,
            nopass=True,
            keys=["staging*"],
            channels=["staging*"],
            commands=["+@all"],
        )
        raw.auth("any", "stage")
        found = forbidden_keys(raw, names, ["staging.callbacks"])
    assert found.own == ()
    assert found.beside == (
        "_kombu.binding.*",
        "_kombu.binding_permanent.*",
        "*.reply.staging:celery.pidbox",
        "channel /0.staging:celeryev/*",
        "channel /0.staging:celery.pidbox",
    )


def test_every_key_that_only_housekeeping_writes_is_tried(own_servers: LocalServers) -> None:
    names = Names("staging")
    with redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True) as raw:
        for missing in (names.clock(), names.cancelled()):
            others = [f"staging:{letter}*" for letter in "abdefghijklmnopqrstuvwxyz"]
            others += ["staging.*", *({names.clock(), names.cancelled()} - {missing})]
            raw.acl_setuser(
                "narrow", reset=True, enabled=True, nopass=True, keys=others, commands=["+@all"]
            )
            raw.execute_command("ACL", "SETUSER", "narrow", "&*")
            with redis.Redis.from_url(own_servers.urls.broker_url, username="narrow") as narrow:
                assert forbidden_keys(narrow, names, []).own == (missing,)


def test_what_a_message_says_besides_its_task_is_kept_without_a_canvas() -> None:
    usual = {"id": "a", "root_id": "a", "ignore_result": False}
    assert celery_parts.celery_options(Context(usual)) is None
    for said in (
        {"ignore_result": True},
        {"group": "g", "group_index": 0},
        {"root_id": "r"},
        {"parent_id": "p"},
    ):
        kept = celery_parts.celery_options(Context(usual, **said))
        assert kept is not None
        assert json.loads(kept) == said


def test_events_that_redis_refuses_do_not_pile_up(urls: LocalUrls) -> None:
    app = build_app(load_settings(broker={"url": urls.broker_url}))
    with app.connection_for_write() as connection:
        dispatcher = app.events.Dispatcher(connection, enabled=True)
        dispatcher.producer.publish = _refuse
        for _ in range(3 * celery_parts.MAX_UNSENT_EVENTS):
            dispatcher.send("worker-heartbeat")
    assert len(dispatcher._outbound_buffer) == celery_parts.MAX_UNSENT_EVENTS


def _refuse(*_: object, **__: object) -> None:
    raise redis.exceptions.NoPermissionError


def test_worker_that_may_not_write_its_namespace_does_not_start(limited: LocalUrls) -> None:
    ended = subprocess.run(
        [BIN / "visionq-worker", "run"],
        env=environment(limited, "other"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
    )
    assert ended.returncode == EXIT_START
    assert b"broker.keys: this user may not read and write other" in ended.stdout
