"""A primary and a replica that sentinels watch: they name the primary, and promote the replica."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

import redis

from tests.faults.proxy import HOST
from tests.support.waiting import wait_until
from visionq.broker_urls import BrokerAddress
from visionq.local.binaries import find_valkey
from visionq.local.commands import Command, valkey_command
from visionq.local.folder import own, write_private
from visionq.local.ports import choose_port, propose_port
from visionq.local.process import ServerProcess

NAME = "orders.primary"
DOWN_AFTER_MS = 2000
QUORUM = 2
"""Sentinels that must miss a primary; one alone may be slow on a busy machine."""
FAILOVER_TIMEOUT_MS = 2000
"""Between two failovers a sentinel lets twice that time pass."""
READY_SECONDS = 20.0


class Guarded:
    """Two servers and their sentinels, which run. `address` is what clients are given."""

    def __init__(self, folder: Path, num_sentinels: int, stack: ExitStack) -> None:
        self.password = secrets.token_hex(8)
        self.sentinel_password = secrets.token_hex(8)
        self.ports = _free_ports(2)
        self.sentinels = _free_ports(num_sentinels)
        self._lock = lock = stack.enter_context(own(folder))
        self._spawner = spawner = stack.enter_context(ThreadPoolExecutor(1, "guarded"))
        data = [self._data_server(folder, port) for port in self.ports]
        guards = [self._sentinel(folder, port, self.ports[0], QUORUM) for port in self.sentinels]
        self.processes: dict[int, ServerProcess] = {}
        self._killed: set[int] = set()
        for command in (*data, *guards):
            process = ServerProcess(command, spawner=spawner, lock=lock)
            self.processes[command.port] = process
            stack.callback(process.kill)

    def start(self) -> None:
        """Return when every sentinel could promote the replica."""
        first, second = self.ports
        for port in self.ports:
            self.start_server(port)
        with self.raw(second) as client:
            client.replicaof(HOST, first)
        self.wait_until_in_sync()
        for port in self.sentinels:
            self.start_server(port)
        for port in self.sentinels:
            self.wait_until_watched(port)

    @property
    def url(self) -> str:
        hosts = ",".join(f"{HOST}:{port}" for port in self.sentinels)
        return f"sentinel://:{self.password}@{hosts}/{NAME}"

    @property
    def address(self) -> BrokerAddress:
        return BrokerAddress(self.url, sentinel_password=self.sentinel_password)

    @contextmanager
    def raw(self, port: int | None = None) -> Iterator[redis.Redis]:
        """A plain client of a server; of the primary, unless a port is given."""
        with redis.Redis(
            host=HOST,
            port=port or self.named(),
            password=self.password,
            decode_responses=True,
            socket_timeout=2,
        ) as client:
            yield client

    @contextmanager
    def guard(self, port: int) -> Iterator[redis.Redis]:
        """A client of one sentinel."""
        with redis.Redis(
            host=HOST, port=port, password=self.sentinel_password, decode_responses=True
        ) as client:
            yield client

    def named(self) -> int:
        """The primary's port, once all sentinels that run agree on it."""

        def agreed() -> int | None:
            names = {self._named_by(port) for port in self.sentinels if port not in self._killed}
            return names.pop() if len(names) == 1 else None

        return wait_until(agreed, seconds=READY_SECONDS, what="the sentinels to agree") or 0

    def first_named(self) -> int:
        """By the sentinel that promotes the replica, before the others have heard of it."""
        return self._named_by(self.sentinels[-1])

    def _named_by(self, port: int) -> int:
        with self.guard(port) as client:
            answer: Any = client.sentinel_get_master_addr_by_name(NAME, return_responses=True)
        return int(answer[1])

    def start_server(self, port: int) -> None:
        self.processes[port].start()
        self._killed.discard(port)
        wait_until(lambda: self._answers(port), seconds=READY_SECONDS, what=f"{port} to start")

    def kill_primary(self) -> int:
        """SIGKILL; returns its port when it is gone, and before another takes its place."""
        port = self.named()
        self.kill(port)
        return port

    def kill(self, port: int) -> None:
        """SIGKILL of a server or a sentinel; returns when it is gone."""
        self.processes[port].kill()
        self._killed.add(port)

    def revive(self, port: int) -> None:
        """Start a server that was killed; returns when it could take the primary's place."""
        self.start_server(port)
        with self.raw(port) as client:
            client.replicaof(HOST, self.named())
        self.wait_until_ready_to_fail_over()

    def promote(self, *words: str) -> None:
        """A planned failover: the old primary lives on, and is a replica some ten seconds later."""
        self.wait_until_ready_to_fail_over()
        old, sentinel = self.named(), self.sentinels[-1]

        def is_done() -> bool:
            # One that takes too long on a busy machine is given up, and has to be begun again.
            if self._named_by(sentinel) == old:
                with self.guard(sentinel) as client:
                    _begin(client, *words)
            return self._named_by(sentinel) != old

        wait_until(is_done, seconds=READY_SECONDS, what="the failover")
        wait_until(lambda: self.named() != old, seconds=READY_SECONDS, what="all to hear of it")

    def take_turns(self) -> None:
        """One that loses nothing: the old primary takes no writes meanwhile, and is a replica at
        once."""
        self.promote("COORDINATED")

    @contextmanager
    def lone_sentinel(self, folder: Path, *, names: int) -> Iterator[int]:
        """The port of one more, which names that server and may change nothing."""
        (port,) = _free_ports(1)
        command = self._sentinel(folder, port, names, 100)
        process = ServerProcess(command, spawner=self._spawner, lock=self._lock)
        process.start()
        try:
            with self.guard(port) as client:
                wait_until(lambda: _pings(client), seconds=READY_SECONDS, what="the lone sentinel")
            yield port
        finally:
            process.kill()

    def wait_until_replicated(self) -> None:
        """All that was written until now is the replica's, too."""
        with self.raw() as client:
            # WAIT is about the writes of its own connection; this one comes after all others'.
            client.set("replicated", "", ex=60)
            assert client.wait(1, 5000) == 1, "nobody follows the primary"

    def heal(self) -> None:
        """Start what was killed."""
        for port in sorted(self._killed & set(self.sentinels)):
            self.start_server(port)
        for port in sorted(self._killed & set(self.ports)):
            self.revive(port)

    def wait_until_named(self, old: int) -> float:
        """When the sentinels named another primary than `old`, by the monotonic clock."""
        wait_until(lambda: self.named() != old, seconds=READY_SECONDS, what="the failover")
        return monotonic()

    def wait_until_ready_to_fail_over(self) -> None:
        self.wait_until_in_sync()
        for port in self.sentinels:
            if port not in self._killed:
                self.wait_until_watched(port)

    def wait_until_in_sync(self) -> None:
        def is_in_sync() -> bool:
            return any(self._is_in_sync(port) for port in self.ports)

        wait_until(is_in_sync, seconds=READY_SECONDS, what="the replica to be in sync")

    def wait_until_watched(self, sentinel: int) -> None:
        def is_watched() -> bool:
            with self.guard(sentinel) as client:
                replicas: Any = client.sentinel_slaves(NAME)
                told: Any = client.sentinel_master(NAME)
            others = int(told["num-other-sentinels"])  # those that are gone are counted
            # Its other flags say that it is down, or not yet asked. A sentinel that believes that
            # a server was not demoted yet demotes it, even if it has just been promoted again.
            good = [one for one in replicas if one["flags"] == one["role-reported"] == "slave"]
            is_primary = told["role-reported"] == "master"
            return others == len(self.sentinels) - 1 and len(good) == 1 and is_primary

        wait_until(is_watched, seconds=READY_SECONDS, what="the sentinel to see the others")

    def _is_in_sync(self, port: int) -> bool:
        with suppress(redis.RedisError), self.raw(port) as client:
            return client.info("replication").get("master_link_status") == "up"
        return False

    def _answers(self, port: int) -> bool:
        password = self.sentinel_password if port in self.sentinels else self.password
        with suppress(redis.RedisError), redis.Redis(host=HOST, port=port, password=password) as it:
            return bool(it.ping())
        return False

    def _data_server(self, folder: Path, port: int) -> Command:
        own_folder = folder / f"server-{port}"
        own_folder.mkdir(parents=True)
        command = valkey_command(
            find_valkey(), port=port, password=self.password, state_folder=own_folder
        )
        # A primary waits for more replicas before it copies itself to one, unless told not to.
        more = f"masterauth {self.password}\nrepl-diskless-sync-delay 0\n"
        return replace(command, stdin=command.stdin + more)

    def _sentinel(self, folder: Path, port: int, named: int, quorum: int) -> Command:
        """It keeps what it finds out in its configuration, which so has to be a file."""
        own_folder = folder / f"sentinel-{port}"
        own_folder.mkdir(parents=True)
        lines = (
            f"bind {HOST}",
            f"port {port}",
            f"requirepass {self.sentinel_password}",
            f"sentinel sentinel-pass {self.sentinel_password}",
            f"sentinel monitor {NAME} {HOST} {named} {quorum}",
            f"sentinel auth-pass {NAME} {self.password}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}",
        )
        write_private(own_folder / "sentinel.conf", "\n".join(lines) + "\n")
        return Command(
            name="valkey",
            argv=(str(find_valkey()), "sentinel.conf", "--sentinel"),
            port=port,
            folder=own_folder,
            log_path=own_folder / "sentinel.log",
            environment=os.environ,
            stdin="",
        )


@contextmanager
def guarded(folder: Path, *, num_sentinels: int = 3) -> Iterator[Guarded]:
    """They run for as long as the block does."""
    with ExitStack() as stack:
        group = Guarded(folder, num_sentinels, stack)
        group.start()
        yield group


def _begin(sentinel: redis.Redis, *words: str) -> None:
    """It refuses while a failover is under way, and within twice the time-out of the last one."""
    with suppress(redis.ResponseError):
        sentinel.execute_command("SENTINEL", "FAILOVER", NAME, *words)  # type: ignore[no-untyped-call]


def _pings(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False


def _free_ports(count: int) -> tuple[int, ...]:
    ports: set[int] = set()
    while len(ports) < count:
        ports.add(choose_port(None, propose_port()))
    return tuple(ports)
