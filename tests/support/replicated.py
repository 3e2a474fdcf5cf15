"""A primary and its replica behind one address, which new connections follow and old ones do not.

As ElastiCache, a Kubernetes service or HAProxy do it: the old primary lives on as a replica, and
keeps the connections that it has.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import redis

from tests.faults.proxy import HOST, Proxy
from tests.support.waiting import wait_until
from visionq.local.binaries import find_valkey
from visionq.local.commands import Command, valkey_command
from visionq.local.folder import own
from visionq.local.ports import choose_port, propose_port
from visionq.local.process import ServerProcess

READY_SECONDS = 15.0


class Pair:
    """Two servers that run. `url` is the address that clients know."""

    def __init__(self, proxy: Proxy, servers: dict[int, ServerProcess], password: str) -> None:
        self.proxy = proxy
        self._servers = servers
        self._password = password
        self.primary, self.other = servers

    @property
    def url(self) -> str:
        return self.url_of(self.proxy.port)

    def url_of(self, port: int) -> str:
        return f"redis://:{self._password}@{HOST}:{port}/0"

    @contextmanager
    def raw(self, port: int | None = None) -> Iterator[redis.Redis]:
        """A plain client of one of them; of the primary, unless its port is given."""
        url = self.url_of(port or self.primary)
        with redis.Redis.from_url(url, decode_responses=True) as client:
            yield client

    def promote(self) -> None:
        """The replica takes over; the old primary has not been told yet, and keeps its role."""
        self._wait_until_in_sync()
        with self.raw(self.other) as client:
            client.replicaof("NO", "ONE")
        self.primary, self.other = self.other, self.primary
        self.proxy.point_to(self.primary)

    def demote_other(self) -> None:
        """It follows the primary, and refuses what only a primary does."""
        with self.raw(self.other) as client:
            client.replicaof(HOST, self.primary)

    def swap(self) -> None:
        """A planned failover: the address leads to the other one before the old one is demoted."""
        self.promote()
        self.demote_other()

    def restart_primary(self) -> None:
        """SIGKILL and a start with the same data, which it has yet to load."""
        self._servers[self.primary].kill()
        self._servers[self.primary].start()

    def _wait_until_in_sync(self) -> None:
        with self.raw(self.primary) as first, self.raw(self.other) as second:

            def is_in_sync() -> bool:
                told = second.info("replication")
                offset = first.info("replication")["master_repl_offset"]
                is_up = told.get("master_link_status") == "up"
                return is_up and told["slave_repl_offset"] >= offset

            wait_until(is_in_sync, seconds=READY_SECONDS, what="the replica to be in sync")


@contextmanager
def replicated(folder: Path, more: str = "") -> Iterator[Pair]:
    """A pair for as long as the block runs. `more`: lines of both servers' configuration."""
    password = secrets.token_hex(16)
    with ExitStack() as stack:
        lock = stack.enter_context(own(folder))
        spawner = stack.enter_context(ThreadPoolExecutor(1, "replicated"))
        servers: dict[int, ServerProcess] = {}
        while len(servers) < 2:
            port = choose_port(None, propose_port())
            command = _command(folder, port, password, more)
            servers[port] = ServerProcess(command, spawner=spawner, lock=lock)
            stack.callback(servers[port].kill)
            servers[port].start()
        proxy = stack.enter_context(Proxy(next(iter(servers))))
        pair = Pair(proxy, servers, password)
        for port in servers:
            wait_until(lambda port=port: _answers(pair, port), seconds=READY_SECONDS)  # type: ignore[misc]
        pair.demote_other()
        yield pair


def _answers(pair: Pair, port: int) -> bool:
    try:
        with pair.raw(port) as client:
            return bool(client.ping())
    except redis.RedisError:
        return False


def _command(folder: Path, port: int, password: str, more: str) -> Command:
    own_folder = folder / str(port)
    own_folder.mkdir(parents=True)
    command = valkey_command(find_valkey(), port=port, password=password, state_folder=own_folder)
    lines = f"masterauth {password}\nrepl-diskless-sync-delay 0\n{more}"
    return replace(command, stdin=command.stdin + lines)
