"""The broker as a worker will need it: looked at by `visionq-worker check`, and at each start.

What can be asked without INFO and CONFIG, which common access rules forbid, is found out by trying.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import TYPE_CHECKING

from redis.exceptions import RedisError, ResponseError

from visionq.connections import WrongServer, connect, mapped_errors
from visionq.errors import BrokerUnavailable, NotReplicated, SettingsError
from visionq.records import Records
from visionq.refusals import is_for_good
from visionq.replication import Replicas
from visionq_worker.errors import StartError
from visionq_worker.findings import Finding, Level, fail, ok, warn
from visionq_worker.permissions import (
    Tried,
    broken_scripts,
    forbidden_keys,
    scripts,
    try_commands,
)
from visionq_worker.redis_server import MIN_VERSION, RedisServer, read_server

if TYPE_CHECKING:
    from redis import Redis

    from visionq.names import Names
    from visionq.settings import Settings

_RESULTS = "Celery's results of failures, and answers to control commands, are not stored"
OPTIONAL: Mapping[str, str] = {
    "BLMOVE": "a task that comes into an empty queue is seen up to a second later",
    "PUBLISH": "who waits for a task is told of its end up to 15 seconds later",
    "SETEX": _RESULTS,
    "SADD": _RESULTS,
    "SMEMBERS": _RESULTS,
    "MULTI": _RESULTS,
}
"""Commands that a worker can do without, and what happens then."""
_COMMAND = re.compile(r"redis\.p?call\('([A-Z]+)'")
_RULES = "SECURITY.md has the rules for a user (ACL SETUSER)"


def connected(settings: Settings, timeout_seconds: float, *, gives_text: bool = True) -> Redis:
    """Raises `StartError` for a URL that is none."""
    try:
        broker = settings.broker.address()
        return connect(broker, timeout_seconds=timeout_seconds, gives_text=gives_text)
    except SettingsError as exc:
        raise StartError(f"broker: {exc}") from exc


def check_broker(settings: Settings) -> Iterator[Finding]:
    """One finding after the other; the first FAIL of what the others need is the last one."""
    try:
        client = connected(settings, settings.broker.timeout_seconds)
    except StartError as error:
        yield fail("broker", str(error).removeprefix("broker: "))
        return
    with closing(client):
        try:
            yield from _check(client, settings)
        except SettingsError as error:  # a node of a cluster, and no hash tag
            yield fail("broker.cluster", str(error))
        except BrokerUnavailable as error:
            is_of_role = isinstance(error.__cause__, WrongServer)
            yield fail("broker.role" if is_of_role else "broker", str(error))


def _check(client: Redis, settings: Settings) -> Iterator[Finding]:
    names = settings.broker.names()
    # Before anything is looked at by its key: a cluster and a replica refuse that.
    server = read_server(client)
    known = server or RedisServer()
    if known.is_sentinel:
        text = "this is a Sentinel, and no Redis: begin broker.url with sentinel://"
        yield fail("broker", f"{text}, and end it with the primary's name (docs/failover.md)")
        return
    is_cluster = known.is_cluster
    if is_cluster is None:
        is_cluster = _is_split_by_slots(client, names)
    yield _answer(known, names)
    yield _info(server)
    has_tag = settings.broker.hash_tag
    cluster = _cluster(is_cluster=is_cluster, has_tag=has_tag)
    yield cluster
    if cluster.level is Level.FAIL:
        return
    role = _role(known, takes_writes=_takes_writes(client, names))
    yield role
    if role.level is Level.FAIL:
        return
    yield _eviction(known, is_insisted=settings.broker.insist)
    yield _persistence(known)
    yield from _permissions(client, names, settings.worker.canvas_queues)
    if settings.broker.replicas_to_confirm:
        yield _replicas(client, names, settings)


def _answer(server: RedisServer, names: Names) -> Finding:
    if server.is_too_old:
        least = ".".join(map(str, MIN_VERSION))
        return fail("broker", f"{server.title} is too old: use Redis {least} or newer, or Valkey")
    return ok("broker", f"{server.title} answers; namespace {names.namespace}")


def _info(server: RedisServer | None) -> Finding:
    if server is not None:
        return ok("broker.info", "INFO may be read")
    return warn(
        "broker.info",
        "INFO is refused: version, eviction policy, persistence and replicas are not"
        " known, and after its start a worker waits for one lease before it gives back the tasks of"
        " lost workers; allow it (+info), or look at these yourself",
    )


def _is_split_by_slots(client: Redis, names: Names) -> bool:
    """Whether keys of ours may not be used together, as in a cluster. Needs no INFO."""
    try:
        client.eval("return 1", 2, names.open(), names.clock())
    except (RedisError, OSError) as error:
        if is_for_good(error):
            return False
        if "slot" in str(error) or "MOVED" in str(error):
            return True
        with mapped_errors():
            raise
    return False


def _cluster(*, is_cluster: bool, has_tag: bool) -> Finding:
    if not is_cluster:
        return ok("broker.cluster", "no cluster")
    if has_tag:
        return ok("broker.cluster", "a cluster; broker.hash_tag keeps all keys in one slot of it")
    return fail(
        "broker.cluster",
        "this is a cluster, which cannot hold keys that are used together in different slots: use a"
        " Redis with cluster mode disabled, or set broker.hash_tag = true for workers and clients",
    )


def _takes_writes(client: Redis, names: Names) -> bool | None:
    """Whether it is no replica, needing no INFO; None where the user may not try."""
    try:
        client.eval("return redis.call('HDEL', KEYS[1], 'probe')", 1, names.leases())
    except (RedisError, OSError) as error:
        if is_for_good(error):
            return None
        if "READONLY" in str(error) or "read only replica" in str(error):
            return False
        if not isinstance(error, ResponseError):
            with mapped_errors():
                raise
    return True


def _role(server: RedisServer, *, takes_writes: bool | None) -> Finding:
    if server.is_replica is None and takes_writes is None:
        return warn("broker.role", "not known without INFO: make sure that it is the primary")
    if server.is_replica or takes_writes is False:
        return fail(
            "broker.role",
            "this is a replica, which takes no writes: name the primary in broker.url",
        )
    if server.num_replicas is None:
        return ok("broker.role", "it takes writes; whether it has replicas is not known")
    if server.num_replicas:
        return ok("broker.role", f"the primary, with {server.num_replicas} replicas connected")
    return ok("broker.role", "the primary, with no replica: what its disk loses is lost")


def _eviction(server: RedisServer, *, is_insisted: bool) -> Finding:
    policy = server.eviction
    if policy is None:
        return warn("broker.eviction", "not known without INFO: make sure that it is noeviction")
    if policy == "noeviction":
        limit = f"maxmemory {server.max_bytes} bytes" if server.max_bytes else "no maxmemory"
        return ok("broker.eviction", f"noeviction, {limit}")
    text = (
        f"maxmemory-policy is {policy}: a Redis that is full drops accepted tasks; set it to"
        " noeviction (redis.conf, CONFIG SET, or your provider's parameters)"
    )
    if is_insisted:
        return warn("broker.eviction", text)
    return fail("broker.eviction", f"{text}, or insist with broker.insist = true")


def _persistence(server: RedisServer) -> Finding:
    name = "broker.persistence"
    if server.has_aof is None:
        return warn(name, "not known without INFO: make sure that appendonly is yes")
    if server.has_aof and server.writes_aof is False:
        return warn(
            name,
            "the append-only file cannot be written, so writes are refused: see to Redis's disk",
        )
    if server.has_aof:
        return ok(name, "there is an append-only file")
    if server.writes_snapshots is False:
        return warn(
            name,
            "the last snapshot failed, and there is no append-only file: see to"
            " Redis's disk, and set appendonly yes",
        )
    return warn(
        name,
        "no append-only file: a Redis that restarts forgets what it accepted since"
        " its last snapshot; set appendonly yes",
    )


def _replicas(client: Redis, names: Names, settings: Settings) -> Finding:
    """Whether as many as have to confirm each task do so. They may come back: a start goes on."""
    broker, name = settings.broker, "broker.replicas"
    replicas = Replicas(num=broker.replicas_to_confirm, timeout_seconds=broker.timeout_seconds)
    records = Records(client, names, ttl_seconds=broker.record_ttl_seconds, replicas=replicas)
    try:
        records.confirm()
    except NotReplicated as error:
        text = f"{error}: no task can be accepted, and none ends; let replicas follow this Redis"
        return fail(name, f"{text}, or lower it", stops_start=False)
    return ok(name, f"{replicas.num} confirm{'s' if replicas.num == 1 else ''} writes")


def _permissions(client: Redis, names: Names, canvas_queues: tuple[str, ...]) -> Iterator[Finding]:
    forbidden = forbidden_keys(client, names, canvas_queues)
    yield _keys(forbidden.own)
    if not forbidden.own:  # of which commands are tried
        tried = try_commands(client, names)
        yield _commands(tried)
        if not {"EVAL", "EVALSHA"} & tried.refused.keys():
            yield _scripts(broken_scripts(client), tried.refused)
    yield _beside(
        "broker.results",
        forbidden.results,
        "where Celery's results and bindings lie: senders' AsyncResult stays PENDING",
        "Celery's results may be stored",
    )
    yield _beside(
        "broker.control",
        forbidden.control,
        "which Celery's revoke, inspect and heartbeats need: tasks go on without them",
        "Celery's control commands may be taken and answered",
    )


def _commands(tried: Tried) -> Finding:
    name = "broker.commands"
    if tried.refused:
        refused = "; ".join(f"{command} ({said})" for command, said in tried.refused.items())
        if tried.refused.keys() <= OPTIONAL.keys():
            harms = "; ".join(dict.fromkeys(OPTIONAL[command] for command in tried.refused))
            return warn(name, f"refused: {refused}: {harms}; {_RULES}")
        return fail(name, f"refused: {refused}; {_RULES}")
    if tried.passing is not None:
        return warn(name, f"Redis takes no writes now, so not all were tried: {tried.passing}")
    return ok(name, "each that a worker uses may be used")


def _scripts(broken: Mapping[str, str], refused: Mapping[str, str]) -> Finding:
    """`broken`: those that do not compile. `refused`: commands."""
    name, texts = "broker.scripts", scripts()
    if broken:
        listed = "; ".join(f"{script}: {said}" for script, said in broken.items())
        return fail(name, f"this server cannot run {listed}; use Redis or Valkey itself")
    needed = refused.keys() - OPTIONAL.keys()
    stopped = {
        script: sorted(needed & set(_COMMAND.findall(text))) for script, text in texts.items()
    }
    if any(stopped.values()):
        listed = "; ".join(f"{one} ({', '.join(its)})" for one, its in stopped.items() if its)
        return fail(name, f"commands of these are refused: {listed}; {_RULES}")
    return ok(name, f"{len(texts)} compile, and each of their commands may be used")


def _keys(forbidden: tuple[str, ...]) -> Finding:
    if forbidden:
        return fail(
            "broker.keys", f"this user may not read and write {', '.join(forbidden)}; {_RULES}"
        )
    return ok("broker.keys", "those of the namespace may be read and written")


def _beside(name: str, forbidden: tuple[str, ...], harm: str, well: str) -> Finding:
    """Of keys and channels that a worker can do without."""
    if not forbidden:
        return ok(name, well)
    text = f"this user may not use {', '.join(forbidden)}, {harm}; {_RULES}"
    return fail(name, text, stops_start=False)
