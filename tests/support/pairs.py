"""Two Valkeys, one a replica of the other, that change places and both live on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import redis

from tests.support.waiting import wait_until
from visionq.local import LocalServers, LocalUrls

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Pair:
    """`urls` are the first one's, which has the bucket. Both have its password."""

    servers: LocalServers
    urls: LocalUrls
    first: redis.Redis
    second: redis.Redis
    ports: tuple[int, int]

    def url(self, port: int) -> str:
        """Of one of the two, or of a proxy before it."""
        parts = urlsplit(self.urls.broker_url)
        user = parts.netloc.rpartition("@")[0]
        return urlunsplit(parts._replace(netloc=f"{user}@{HOST}:{port}"))

    def change_places(self) -> None:
        """The second takes writes from now on; the first follows it and keeps its connections."""
        self.second.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]
        _follow(self.first, self.ports[1])


@contextmanager
def running_pair(folder: Path) -> Iterator[Pair]:
    """The first one takes writes, the second follows it."""
    with ExitStack() as stack:
        servers = [stack.enter_context(LocalServers(folder / name)) for name in ("1", "2")]
        urls = servers[0].urls
        ends = [urlsplit(each.urls.broker_url) for each in servers]
        clients = []
        for each in servers:
            client = redis.Redis.from_url(each.urls.broker_url, decode_responses=True)
            stack.callback(client.close)
            clients.append(client)
        ports = ends[0].port, ends[1].port
        assert ports[0] is not None
        assert ports[1] is not None
        for client in clients:
            client.config_set("masterauth", str(ends[0].password))
            client.config_set("repl-diskless-sync-delay", 0)
        clients[1].config_set("requirepass", str(ends[0].password))
        pair = Pair(servers[0], urls, clients[0], clients[1], (ports[0], ports[1]))
        clients[1] = redis.Redis.from_url(pair.url(ports[1]), decode_responses=True)
        stack.callback(clients[1].close)
        _follow(clients[1], ports[0])
        yield Pair(servers[0], urls, clients[0], clients[1], (ports[0], ports[1]))


def _follow(client: redis.Redis, port: int) -> None:
    client.replicaof(HOST, port)
    wait_until(
        lambda: client.info("replication")["master_link_status"] == "up",
        seconds=30,
        what="the replica to be in sync",
    )
