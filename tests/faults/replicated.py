"""A primary of Redis and its replica, which has everything a little later; failovers by hand.

The link between the two is a proxy's that delays each piece of it. A primary that is lost takes
with it what is still on that link, as a machine does whose power goes. Left out: who notices, and
decides who is to be the primary then (`failover`).
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import redis

from tests.faults.proxy import HOST, Proxy
from tests.support.waiting import wait_until
from visionq.local.binaries import find_valkey
from visionq.local.commands import valkey_command
from visionq.local.folder import own
from visionq.local.ports import choose_port, propose_port
from visionq.local.process import ServerProcess

READY_SECONDS = 15.0


class Replicated:
    """Two servers, for as long as the block runs. `url` leads to the primary of the moment."""

    def __init__(self, folder: Path, *, lag_seconds: float = 0.0) -> None:
        self._folder = folder
        self.password = secrets.token_hex(16)
        self._primary, self._replica = (choose_port(None, propose_port()) for _ in range(2))
        self._front, self._link = Proxy(self._primary), Proxy(self._primary)
        self._link.delay(lag_seconds)
        self._servers: dict[int, ServerProcess] = {}
        self._closing = ExitStack()

    @property
    def url(self) -> str:
        return self._url(self._front.port)

    @property
    def replica_port(self) -> int:
        return self._replica

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = stack.enter_context(own(self._folder))
            # A server ends with the thread that has started it.
            spawner = stack.enter_context(ThreadPoolExecutor(1, "replicated"))
            stack.enter_context(self._front)
            stack.enter_context(self._link)
            for port in (self._primary, self._replica):
                server = ServerProcess(self._command(port), spawner=spawner, lock=lock)
                self._servers[port] = server
                stack.callback(server.kill)
            self._start(self._primary)
            self.start_replica()
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def stop_replica(self) -> None:
        """SIGKILL; nobody follows the primary then."""
        self._servers[self._replica].kill()

    def start_replica(self) -> None:
        """Returns when it has all that the primary has."""
        self._start(self._replica)
        with redis.Redis.from_url(self._url(self._replica)) as client:
            client.replicaof(HOST, self._link.port)
        self._wait_for_replica()

    def silence_link(self) -> None:
        """The replica gets nothing more, and the primary still counts it."""
        self._link.freeze()

    @contextmanager
    def silent_link(self) -> Iterator[None]:
        """As long as the block runs."""
        self.silence_link()
        try:
            yield
        finally:
            self._link.reset()
            self._wait_for_replica()

    def lose_primary(self) -> None:
        """Cut the link with what is on it, SIGKILL, and let the replica take its place."""
        self._link.freeze()
        self._servers[self._primary].kill()
        self._primary, self._replica = self._replica, self._primary
        with redis.Redis.from_url(self._url(self._primary)) as client:
            client.replicaof("NO", "ONE")
        self._link.reset()
        self._link.point_to(self._primary)
        self._front.point_to(self._primary)

    def _start(self, port: int) -> None:
        assert not self._answers(port), "it runs already"
        self._servers[port].start()
        wait_until(lambda: self._answers(port), seconds=READY_SECONDS, what="Redis to start")

    def _wait_for_replica(self) -> None:
        with redis.Redis.from_url(
            self._url(self._primary), single_connection_client=True
        ) as client:
            client.set("in-sync", "", ex=60)
            num_replicas: Any = client.wait(1, int(READY_SECONDS * 1000))
        assert num_replicas == 1, "nobody follows the primary"

    def _answers(self, port: int) -> bool:
        with redis.Redis.from_url(self._url(port)) as client, suppress(redis.RedisError):
            return bool(client.ping())
        return False

    def _url(self, port: int) -> str:
        return f"redis://:{self.password}@{HOST}:{port}/0"

    def _command(self, port: int) -> Any:
        folder = self._folder / f"redis-{port}"
        folder.mkdir()
        command = valkey_command(
            find_valkey(), port=port, password=self.password, state_folder=folder
        )
        # A primary waits for more replicas before it copies itself to one, unless told not to.
        more = f"masterauth {self.password}\nrepl-diskless-sync-delay 0\n"
        return replace(command, stdin=command.stdin + more)
