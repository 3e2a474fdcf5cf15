"""Kombu's Redis transport over connections that lead to the primary.

For producers as it is, for workers as the base of `visionq_worker.transport`. Celery is given a URL
to name in its logs; where the server is and how to get in says the address in the transport
options, read by one library alone.
"""

from __future__ import annotations

from typing import Any

from kombu.transport import redis as kombu_redis

from visionq.broker_urls import BrokerAddress
from visionq.server_connections import pool_options

_OF_ADDRESS = ("host", "port", "username", "password", "db", "ssl_")
_OF_TCP = ("socket_keepalive",)
"""How the names of options begin that are the address's to say, and that Unix sockets lack."""


class Channel(kombu_redis.Channel):  # type: ignore[misc]
    """`broker` is given by transport options."""

    broker: BrokerAddress
    from_transport_options = (*kombu_redis.Channel.from_transport_options, "broker")

    def _connparams(self, asynchronous: bool = False) -> dict[str, Any]:
        own = pool_options(self.broker)
        # Kombu derives its class from one of these, for TLS from the second.
        self.connection_class = self.connection_class_ssl = own.pop("connection_class")
        params: dict[str, Any] = super()._connparams(asynchronous=asynchronous)
        left_out = (*_OF_ADDRESS, *(_OF_TCP if "path" in own else ()))
        kept = {name: params[name] for name in params if not name.startswith(left_out)}
        return {**kept, "db": 0, **own}


class Transport(kombu_redis.Transport):  # type: ignore[misc]
    """Named in Celery's configuration as `broker_transport`; URLs stay `redis://`."""

    Channel = Channel
