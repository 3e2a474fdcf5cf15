"""Asking Redis Sentinels where the primary is.

They are asked in turn, over a connection for each question: a sentinel that has died, or was
restarted, costs one short time-out. The one that named the primary is the first to be asked next.
What one of them says is not believed by itself: who connects looks at the server's role, and the
next sentinel is asked where that one is no primary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import redis
from redis.connection import parse_url

from visionq.broker_urls import BrokerAddress
from visionq.primaries import NoPrimary, Place
from visionq.sentinel_urls import read_sentinel_url

SENTINEL_SECONDS = 0.5
"""To connect to a sentinel, and to wait for its answer: it has nothing to do but to answer."""


class Sentinels:
    """The locator of a `sentinel://` URL. Keeps no connection, so that a fork may come."""

    is_instant = False

    def __init__(self, address: BrokerAddress) -> None:
        told = read_sentinel_url(address.url)
        self._name = told.name
        self._order: tuple[Place, ...] = told.sentinels
        options: dict[str, Any] = parse_url(address.server_url)  # type: ignore[no-untyped-call]
        self._class = options.get("connection_class", redis.Connection)
        self._options = {name: value for name, value in options.items() if name[:4] == "ssl_"}
        self._options |= {
            "username": address.sentinel_user,
            "password": address.sentinel_password,
        }

    def candidates(self) -> Iterator[Place]:
        """As `Locator.candidates`. Raises `NoPrimary` where no sentinel names one."""
        problems: list[str] = []
        named: set[Place] = set()
        for sentinel in self._order:
            try:
                place = self._ask(sentinel)
            except (redis.RedisError, OSError) as error:
                problems.append(f"{_shown(sentinel)}: {error}")
                continue
            if place is None:
                problems.append(f"{_shown(sentinel)} knows no primary named {self._name}")
                continue
            self._order = (sentinel, *(other for other in self._order if other != sentinel))
            if place not in named:
                named.add(place)
                yield place
        if not named:
            raise NoPrimary(
                f"no sentinel names the primary {self._name} ({'; '.join(problems)}): start the "
                "sentinels, or correct the hosts and the name in broker.url"
            )

    def _ask(self, sentinel: Place) -> Place | None:
        host, port = sentinel
        connection = self._class(
            host=host,
            port=port,
            socket_timeout=SENTINEL_SECONDS,
            socket_connect_timeout=SENTINEL_SECONDS,
            protocol=2,  # one step less before the question
            driver_info=None,
            **self._options,
        )
        try:
            connection.connect()
            connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name)
            answer = connection.read_response()
        finally:
            connection.disconnect()
        return None if answer is None else (answer[0].decode(), int(answer[1]))


def _shown(place: Place) -> str:
    host, port = place
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
