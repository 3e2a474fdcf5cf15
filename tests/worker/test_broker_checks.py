"""The look at the broker, of a check and of each start: what is found, without INFO as well."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.redis_users import EVERYTHING, redis_user
from tests.support.waiting import wait_until
from tests.worker.test_service_start import refusal, settings_with
from visionq.local import LocalServers, LocalUrls
from visionq.local.binaries import find_valkey
from visionq.local.ports import choose_port, propose_port
from visionq.names import Names
from visionq_worker.broker_checks import check_broker
from visionq_worker.findings import Finding, Level
from visionq_worker.permissions import COMMANDS, broken_scripts, scripts
from visionq_worker.redis_server import _parse


@pytest.fixture(scope="module")
def own_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServers]:
    """A Redis whose settings a test may change."""
    with LocalServers(tmp_path_factory.mktemp("checked")) as servers:
        yield servers


@pytest.fixture
def owner(own_servers: LocalServers) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(own_servers.urls.broker_url, decode_responses=True) as raw:
        held: dict[Any, Any] = {
            name: raw.config_get(name)[name]
            for name in ("maxmemory", "maxmemory-policy", "appendonly")
        }
        yield raw
        raw.replicaof("no", "one")
        for name, value in held.items():
            raw.config_set(name, value)


def found(urls: LocalUrls, **broker: Any) -> dict[str, Finding]:
    """By name, of those that are not ok."""
    findings = list(check_broker(settings_with(urls, broker={"url": urls.broker_url} | broker)))
    assert len({one.name for one in findings}) == len(findings)
    assert all("\n" not in one.text for one in findings)
    return {one.name: one for one in findings if one.level is not Level.OK}


def test_nothing_is_left_in_redis(urls: LocalUrls, raw: redis.Redis, namespace: str) -> None:
    assert found(urls, namespace=namespace) == {}
    left = [key for key in raw.scan_iter(f"{namespace}*") if raw.pttl(key) > 1000]
    assert left == []
    assert all(raw.ttl(key) != -1 for key in raw.scan_iter(f"{namespace}*"))


@pytest.mark.parametrize("policy", ["allkeys-lru", "volatile-lru", "volatile-ttl"])
def test_redis_that_drops_keys_is_refused_at_check_and_start(
    own_servers: LocalServers, owner: redis.Redis, policy: str
) -> None:
    owner.config_set("maxmemory-policy", policy)
    urls = own_servers.urls
    (finding,) = found(urls).values()
    assert (finding.name, finding.level) == ("broker.eviction", Level.FAIL)
    assert policy in finding.text
    assert "set it to noeviction" in finding.text
    assert refusal(settings_with(urls)) == f"broker.eviction: {finding.text}"
    (insisted,) = found(urls, insist=True).values()
    assert (insisted.name, insisted.level) == ("broker.eviction", Level.WARN)


def test_what_is_not_known_without_info_is_said(urls: LocalUrls) -> None:
    with redis_user(urls, *EVERYTHING, "-@dangerous") as user:
        lines = found(user.urls)
    assert {name: one.level for name, one in lines.items()} == dict.fromkeys(
        ("broker.info", "broker.eviction", "broker.persistence"), Level.WARN
    )
    assert "waits for one lease" in lines["broker.info"].text


def test_login_that_is_refused_is_said_once(urls: LocalUrls) -> None:
    with redis_user(urls, *EVERYTHING) as user:
        user.delete()
        (finding,) = found(user.urls).values()
    assert (finding.name, finding.level) == ("broker", Level.FAIL)
    assert "correct broker.url" in finding.text


def test_replica_is_refused_with_and_without_info(
    own_servers: LocalServers, owner: redis.Redis, urls: LocalUrls
) -> None:
    host, port = urls.broker_address.split(":")
    with redis_user(own_servers.urls, *EVERYTHING, "-info") as user:
        owner.replicaof(host, port)
        for seen in (own_servers.urls, user.urls):
            lines = found(seen)
            assert lines["broker.role"].level is Level.FAIL
            assert "leads to the primary" in lines["broker.role"].text
        assert refusal(settings_with(own_servers.urls)).startswith("broker.role: ")
        owner.replicaof("no", "one")


def test_redis_without_an_append_only_file_is_a_warning(
    own_servers: LocalServers, owner: redis.Redis
) -> None:
    owner.config_set("appendonly", "no")
    (finding,) = found(own_servers.urls).values()
    assert (finding.name, finding.level) == ("broker.persistence", Level.WARN)
    assert "set appendonly yes" in finding.text


def test_full_redis_keeps_no_worker_from_starting(
    own_servers: LocalServers, owner: redis.Redis
) -> None:
    owner.config_set("maxmemory", 1)
    (finding,) = found(own_servers.urls).values()
    assert (finding.name, finding.level) == ("broker.commands", Level.WARN)
    assert "takes no writes now" in finding.text


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalUrls]:
    """A cluster of one node, which has all slots; its store is nobody's."""
    port, bus = (choose_port(None, propose_port()) for _ in range(2))
    options = {
        "port": port,
        "bind": "127.0.0.1",
        "cluster-enabled": "yes",
        "cluster-port": bus,
        "dir": tmp_path_factory.mktemp("cluster"),
        "appendonly": "yes",
    }
    words = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
    with subprocess.Popen([find_valkey(), *words], stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(url, decode_responses=True) as raw:
            wait_until(lambda: answers(raw), what="the node to answer")
            raw.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")
            wait_until(
                lambda: "cluster_state:ok" in str(raw.execute_command("CLUSTER", "INFO")),
                what="the cluster to serve all slots",
            )
        yield LocalUrls(url, "http://127.0.0.1:1", "a", "b", "visionq", "us-east-1")
        process.terminate()


def answers(raw: redis.Redis) -> bool:
    try:
        return bool(raw.ping())
    except redis.ConnectionError:
        return False


@pytest.mark.parametrize("rules", [(), ("-info",)], ids=["with INFO", "without INFO"])
def test_cluster_is_refused_at_check_and_start(cluster: LocalUrls, rules: tuple[str, ...]) -> None:
    with redis_user(cluster, *EVERYTHING, *rules) as user:
        lines = found(user.urls)
        assert lines["broker.cluster"].level is Level.FAIL
        assert "broker.hash_tag = true" in lines["broker.cluster"].text
        assert refusal(settings_with(user.urls)).startswith("broker.cluster: this is a cluster")


@pytest.mark.parametrize(
    ("said", "is_too_old"),
    [
        ({"redis_version": "5.0.14"}, True),
        ({"redis_version": "6.0.20"}, True),
        ({"redis_version": "6.2.14"}, False),
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, False),
        ({"redis_version": "8.0.0"}, False),
        ({"redis_version": "255.255.255"}, False),
        ({"redis_version": "unstable"}, False),
        ({"redis_version": ""}, False),
        ({}, False),
    ],
)
def test_redis_before_6_2_is_too_old(said: dict[str, str], is_too_old: bool) -> None:
    """It lacks LMOVE, and ZADD LT."""
    assert _parse(said).is_too_old is is_too_old


REFUSED = {
    "a script's command": ("-zremrangebyrank", "broker.commands", "ZREMRANGEBYRANK"),
    "the scripts that use it": ("-zremrangebyrank", "broker.scripts", "record_scripts.CANCEL"),
    "an operator's script": ("-hsetnx", "broker.scripts", "dead.REPLAY (HSETNX)"),
    "SET": ("-set", "broker.commands", "SET"),
    "EVAL": ("-eval", "broker.commands", "EVAL"),
    "EVALSHA": ("-evalsha", "broker.commands", "EVALSHA"),
    "PING": ("-ping", "broker.commands", "PING"),
}


@pytest.mark.parametrize(("rule", "name", "what"), REFUSED.values(), ids=REFUSED)
def test_each_command_that_is_refused_is_named_and_stops_the_start(
    urls: LocalUrls, rule: str, name: str, what: str
) -> None:
    with redis_user(urls, *EVERYTHING, rule) as user:
        lines = found(user.urls)
        assert lines[name].level is Level.FAIL
        assert what in lines[name].text
        assert refusal(settings_with(user.urls)).startswith("broker.commands: refused: ")


@pytest.mark.parametrize("command", ["blmove", "publish", "multi", "setex", "sadd"])
def test_command_that_is_no_need_is_a_warning(urls: LocalUrls, command: str) -> None:
    with redis_user(urls, *EVERYTHING, f"-{command}") as user:
        (finding,) = found(user.urls).values()
    assert (finding.name, finding.level) == ("broker.commands", Level.WARN)
    assert command.upper() in finding.text


@pytest.mark.parametrize("rule", ["%W~*", "%R~*"], ids=["only written", "only read"])
def test_keys_that_may_only_be_read_or_written_are_named(urls: LocalUrls, rule: str) -> None:
    with redis_user(urls, rule, "&*", "+@all") as user:
        finding = found(user.urls)["broker.keys"]
    assert finding.level is Level.FAIL
    assert "visionq:task:*" in finding.text


def test_every_command_of_every_script_is_tried() -> None:
    used = {
        command
        for text in scripts().values()
        for command in re.findall(r"redis\.p?call\(\s*['\"](\w+)['\"]", text)
    }
    assert used == {command.upper() for command in used}
    assert used - {"SET"} <= COMMANDS.keys()
    assert len(scripts()) >= 26


def test_script_that_a_server_cannot_compile_is_named(
    raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert broken_scripts(raw) == {}
    monkeypatch.setattr("visionq.fleet.TELL", "redis.call('TIME') goto nowhere")
    (name, said), *others = broken_scripts(raw).items()
    assert (name, others) == ("fleet.TELL", [])
    assert "compiling" in said


def test_names_of_a_namespace_are_tried_whatever_it_is(urls: LocalUrls) -> None:
    with redis_user(urls, "~other*", "&other*", "+@all") as user:
        finding = found(user.urls, namespace="mine")["broker.keys"]
    assert Names("mine").unacked() in finding.text
