"""The whole service under the access rules of SECURITY.md, in two namespaces."""

from __future__ import annotations

import os
import signal
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.cli.commands import visionq, visionq_worker
from tests.support.addresses import store_address
from tests.support.foreign import opened_foreign_app
from tests.support.redis_roles import ROLES, redis_roles, rules_of
from tests.support.redis_users import RedisUser
from tests.support.waiting import wait_until
from tests.support.workers import environment, running_worker
from visionq import Client, NotReplicated, State, Submission, TaskFailed
from visionq.connections import connect
from visionq.dead import DeadLetters
from visionq.local import LocalServers
from visionq.names import DEFAULT_NAMESPACE, TASK_NAME, Names, input_key
from visionq.records import Records
from visionq.replication import Replicas
from visionq.settings import load_settings
from visionq.up import settings_flags

# Celery's call, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:Call to deprecated setex")

MISSING = input_key(b"nobody has uploaded this")


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """A Redis with nobody else's refusals in its log."""
    with LocalServers(tmp_path_factory.mktemp("roles")) as servers:
        yield servers


@pytest.fixture
def owner(own_servers: LocalServers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True) as raw:
        raw.execute_command("ACL", "LOG", "RESET")
        yield raw


@pytest.fixture(params=[DEFAULT_NAMESPACE, "staging"])
def names(request: pytest.FixtureRequest) -> Names:
    return Names(request.param)


@pytest.fixture
def users(own_servers: LocalServers, names: Names) -> Iterator[Mapping[str, RedisUser]]:
    with redis_roles(own_servers.urls, names.namespace) as made:
        yield made


@pytest.fixture
def env(users: Mapping[str, RedisUser], names: Names) -> dict[str, str]:
    """Of workers, whose leases are short."""
    more = {"VISIONQ_BROKER__LEASE_SECONDS": "2", "VISIONQ_WORKER__CONCURRENCY": "4"}
    return environment(users["worker"].urls, names.namespace, **more)


@pytest.fixture
def own(users: Mapping[str, RedisUser], names: Names) -> Iterator[Client]:
    urls = users["client"].urls
    with Client(urls.broker_url, store_address(urls), namespace=names.namespace) as client:
        yield client


def refusals(owner: redis.Redis) -> list[Any]:
    """What Redis has refused to anybody."""
    entries: Any = owner.execute_command("ACL", "LOG")  # type: ignore[no-untyped-call]
    found = [(one["username"], one["reason"], one["object"]) for one in entries]
    # redis-py tells its name, and makes nothing of a refusal.
    return [one for one in found if one[2] != "client|setinfo"]


@pytest.mark.parametrize("role", ["client", "worker"])
def test_replicas_may_be_asked_to_confirm(
    users: Mapping[str, RedisUser], names: Names, owner: redis.Redis, role: str
) -> None:
    """This Redis has none: that is what is said, and not that the user may not ask."""
    with connect(users[role].urls.broker_url, timeout_seconds=2) as client:
        replicas = Replicas(num=1, timeout_seconds=0.1)
        records = Records(client, names, ttl_seconds=60, replicas=replicas)
        with pytest.raises(NotReplicated):
            records.confirm()
    assert refusals(owner) == []


def test_page_has_rules_for_each_role() -> None:
    for role in ROLES:
        assert "-@dangerous" in rules_of(role)
        assert not {"~*", "&*", "allkeys", "allchannels", "+@all"} & set(rules_of(role))
    assert "~staging:celery-task-meta-*" in rules_of("worker", "staging")


def test_check_of_the_worker_s_user_is_ok(env: dict[str, str], owner: redis.Redis) -> None:
    checked = visionq_worker(env, "check", "--quick")
    assert checked.exit_code == 0
    lines = [line for line in checked.stdout.splitlines() if not line.startswith("ok   ")]
    assert [line.split()[1] for line in lines] == ["bucket.conditional:"]  # the embedded store
    assert refusals(owner) == []


def test_whole_service_works_and_nothing_is_refused(
    env: dict[str, str],
    users: Mapping[str, RedisUser],
    own: Client,
    owner: redis.Redis,
    names: Names,
    pictures: Path,
    tmp_path: Path,
) -> None:
    picture = pictures / "shelf_after.png"
    with running_worker(env, tmp_path / "first") as first:
        _client_works(own, picture)
        _sender_works(users["sender"], names)
        _operator_works(users["operator"], owner, names)
        handles = [own.ask(picture, f"{n}?", max_new_tokens=400) for n in range(3)]
        wait_until(lambda: own.status(handles[0].id).generated_tokens > 0, seconds=30)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
    assert not all(own.status(handle.id).is_done for handle in handles)
    with running_worker(env, tmp_path / "second"):
        assert [handle.wait(60).state for handle in handles] == [State.SUCCESS] * 3
        wait_until(lambda: owner.hlen(names.leases()) == 0, what="their messages to be settled")
        assert max(own.status(handle.id).attempt for handle in handles) == 2
    assert refusals(owner) == []


def _client_works(own: Client, picture: Path) -> None:
    """An answer, many, a failure, a cancel, an estimate."""
    first = own.ocr(picture, max_new_tokens=2)
    assert first.wait(30).state is State.SUCCESS
    assert first.result().text is not None
    many = own.submit_many([Submission("ocr", picture, options={"max_new_tokens": 2})] * 2)
    assert [one.wait(30).state for one in many] == [State.SUCCESS] * 2
    failed = own.ocr(MISSING)
    assert failed.wait(30).state is State.FAILURE
    delayed = own.ocr(picture, start_in_seconds=600)
    assert delayed.cancel() is State.REVOKED
    assert delayed.wait(30).state is State.REVOKED
    assert own.estimate("ocr", picture).has_workers
    assert own.status_many([first.id, failed.id])[1].failure is not None


def _sender_works(user: RedisUser, names: Names) -> None:
    """A stock Celery application: an answer that fails, a revoke, a question."""
    image = {"ref": MISSING}
    with opened_foreign_app(user.urls, names.namespace) as app:
        sent = app.send_task(
            TASK_NAME,
            kwargs={"task": {"kind": "ocr", "images": [image]}},
            queue=names.queue("interactive"),
        )
        with pytest.raises(TaskFailed, match="is not there"):
            sent.get(timeout=30)
        assert app.control.ping(timeout=5, limit=1)
        told = app.control.revoke(str(uuid.uuid4()), reply=True, timeout=5, limit=1)
        assert "cancel of 1 tasks noted" in str(told)


def _operator_works(user: RedisUser, owner: redis.Redis, names: Names) -> None:
    owner.lpush(names.queue("interactive"), "this is no message")
    flags = settings_flags(user.urls)
    flags["broker"]["namespace"] = names.namespace
    with DeadLetters.from_settings(load_settings(None, **flags)) as letters:
        (letter,) = wait_until(letters.list, what="the message to be put aside")
        assert letters.show(letter.id).text == "this is no message"
        assert [one.outcome for one in letters.replay([letter.id])] == ["replayed"]
        (letter,) = wait_until(letters.list, what="the message to be put aside again")
        env = environment(user.urls, names.namespace)
        assert letter.id in visionq(env, "dead", "ls").stdout
        assert letters.purge([letter.id]) == (letter.id,)
