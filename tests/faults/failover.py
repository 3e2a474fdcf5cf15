"""A Redis that is two: a primary, its replica, and a sentinel that puts one in the other's place.

Clients know one address, a proxy's, as they would know a load balancer's; it leads to whomever the
sentinel names. Left out: clients that ask a sentinel themselves.
"""

from __future__ import annotations

import os
import secrets
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.faults.proxy import HOST, Proxy
from tests.support.waiting import wait_until
from visionq.local.binaries import find_valkey
from visionq.local.commands import Command, valkey_command
from visionq.local.folder import own, write_private
from visionq.local.ports import choose_port, propose_port
from visionq.local.process import ServerProcess

NAME = "visionq"
"""By which the sentinel knows the pair."""
DOWN_AFTER_MS = 1000
FAILOVER_TIMEOUT_MS = 2000
"""Between two failovers a sentinel lets twice that time pass."""
LOOK_SECONDS = 0.05
READY_SECONDS = 15.0


class Failover:
    """Three servers, for as long as the block runs. `url` leads to the primary of the moment."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._password = secrets.token_hex(16)
        self._first, self._second, self._watcher = (
            choose_port(None, propose_port()) for _ in range(3)
        )
        self._primary = self._first
        self._proxy = Proxy(self._primary)
        self._sentinel = redis.Redis(host=HOST, port=self._watcher)
        self._servers: dict[int, ServerProcess] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="failover")
        self._closing = ExitStack()

    @property
    def url(self) -> str:
        return self._url(self._proxy.port)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            lock = stack.enter_context(own(self._folder))
            # A server ends with the thread that has started it.
            spawner = stack.enter_context(ThreadPoolExecutor(1, "failover"))
            data = [self._data_server(port) for port in (self._first, self._second)]
            for command in (*data, self._sentinel_server()):
                process = ServerProcess(command, spawner=spawner, lock=lock)
                self._servers[command.port] = process
                stack.callback(process.kill)
            stack.callback(self._sentinel.close)
            self._start(self._first)
            self._follow_primary(self._second)
            # At last: it asks for the replicas when it starts, and ten seconds later again.
            self._start(self._watcher)
            self._wait_until_watched(self._second)
            stack.enter_context(self._proxy)
            self._thread.start()
            stack.callback(self._thread.join)
            stack.callback(self._stop.set)
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def kill_primary(self) -> None:
        """SIGKILL; returns when the process is gone, and before anybody takes its place."""
        self._servers[self._primary].kill()

    def revive_other(self) -> None:
        """Start the one that was killed; returns when it could take the primary's place."""
        other = self._second if self._primary == self._first else self._first
        self._follow_primary(other)
        self._wait_until_watched(other)

    def _follow(self) -> None:
        """Lead the proxy to whom the sentinel names. Connections to the dead have ended with it."""
        while not self._stop.wait(LOOK_SECONDS):
            with suppress(redis.RedisError):
                self._primary = self._named()
                self._proxy.point_to(self._primary)

    def _named(self) -> int:
        answer: Any = self._sentinel.sentinel_get_master_addr_by_name(NAME, return_responses=True)
        return int(answer[1])

    def _start(self, port: int) -> None:
        self._servers[port].start()
        wait_until(lambda: self._answers(port), seconds=READY_SECONDS, what="Redis to start")

    def _answers(self, port: int) -> bool:
        with redis.Redis.from_url(self._url(port)) as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def _follow_primary(self, port: int) -> None:
        self._start(port)
        with redis.Redis.from_url(self._url(port)) as client:
            client.replicaof(HOST, self._primary)
            wait_until(
                lambda: client.info("replication")["master_link_status"] == "up",
                seconds=READY_SECONDS,
                what="the replica to be in sync",
            )

    def _wait_until_watched(self, port: int) -> None:
        def is_watched() -> bool:
            found: Any = self._sentinel.sentinel_slaves(NAME)
            # Its other flags say that it is down, or not yet asked.
            return any(each["port"] == port and each["flags"] == "slave" for each in found)

        wait_until(is_watched, seconds=READY_SECONDS, what="the sentinel to see the replica")

    def _url(self, port: int) -> str:
        user = "" if port == self._watcher else f":{self._password}@"
        return f"redis://{user}{HOST}:{port}/0"

    def _data_server(self, port: int) -> Command:
        folder = self._folder / f"redis-{port}"
        folder.mkdir()
        command = valkey_command(
            find_valkey(), port=port, password=self._password, state_folder=folder
        )
        # A primary waits for more replicas before it copies itself to one, unless told not to.
        more = f"masterauth {self._password}\nrepl-diskless-sync-delay 0\n"
        return replace(command, stdin=command.stdin + more)

    def _sentinel_server(self) -> Command:
        """It keeps what it finds out in its configuration, which so has to be a file."""
        folder = self._folder / "sentinel"
        folder.mkdir()
        lines = (
            f"bind {HOST}",
            f"port {self._watcher}",
            f"sentinel monitor {NAME} {HOST} {self._first} 1",
            f"sentinel auth-pass {NAME} {self._password}",
            f"sentinel down-after-milliseconds {NAME} {DOWN_AFTER_MS}",
            f"sentinel failover-timeout {NAME} {FAILOVER_TIMEOUT_MS}",
        )
        write_private(folder / "sentinel.conf", "\n".join(lines) + "\n")
        return Command(
            name="valkey",
            argv=(str(find_valkey()), "sentinel.conf", "--sentinel"),
            port=self._watcher,
            folder=folder,
            log_path=folder / "sentinel.log",
            environment=os.environ,
            stdin="",
        )
