"""Questions to a server that is asked nothing else: to a sentinel, or to a node of a cluster.

Each time over a connection of its own, so that a fork may come at any time.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from visionq.primaries import Place
from visionq.tls import NoHandshake, Tls


class EncryptedConnection(redis.SSLConnection):
    """redis-py would trust the system's authorities beside the one that is named."""

    def __init__(self, *, tls: Tls, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _wrap_socket_with_ssl(self, sock: socket.socket) -> ssl.SSLSocket:
        try:
            return self._tls.new_context().wrap_socket(sock, server_hostname=self.host)
        except TimeoutError as error:
            raise NoHandshake from error


def ask(
    place: Place,
    questions: Sequence[Sequence[str]],
    *,
    tls: Tls | None,
    user: tuple[str | None, str | None],
    seconds: float,
) -> list[Any]:
    """The reply to each command. `user`: name and password. `seconds`: for each of the steps.

    Raises redis-py's errors, `OSError` among them.
    """
    host, port = place
    username, password = user
    options: dict[str, Any] = {
        "host": host,
        "port": port,
        "username": username,
        "password": password,
        "socket_timeout": seconds,
        "socket_connect_timeout": seconds,
        "retry": Retry(NoBackoff(), 0),
        # Less to say before the questions.
        "protocol": 2,
        "driver_info": None,
    }
    connection: Any = (
        EncryptedConnection(tls=tls, **options) if tls else redis.Connection(**options)  # type: ignore[no-untyped-call]
    )
    try:
        for question in questions:
            connection.send_command(*question)
        return [connection.read_response() for _ in questions]
    finally:
        connection.disconnect()
