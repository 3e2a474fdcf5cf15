"""Clients of Redis, and its errors as ours.

With the connections themselves (`server_connections.py`), Celery's (`channels.py`) and the
subscriptions (`watch.py`) the only door to redis-py.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from visionq.broker_urls import BrokerAddress, as_address
from visionq.errors import HashTagMissing, SettingsError
from visionq.per_process import PerProcess
from visionq.primaries import NoHashTag, NoPrimary, WrongServer
from visionq.redaction import redacted
from visionq.refusals import broker_error
from visionq.server_connections import pool_options
from visionq.tls import tls_advice

__all__ = ["NoHashTag", "WrongServer", "connect", "explain", "mapped_errors"]

URL_VARIABLE = "VISIONQ_BROKER__URL"
"""Named to whom nothing answers."""


class _RetryOnce(Retry):
    """Where one connection has gone silent, the idle ones beside it have too: they are dropped.

    Else each of them would cost its next user a time-out.
    """

    pool: Callable[[], redis.ConnectionPool | None] = staticmethod(lambda: None)
    """A weak reference: a pool with nobody else to hold it closes its connections."""

    def __deepcopy__(self, _memo: object) -> Self:
        return self  # each connection would have a copy, without state to keep apart

    def call_with_retry(self, *args: Any, **more: Any) -> Any:
        try:
            return super().call_with_retry(*args, **more)
        except redis.TimeoutError:
            if (pool := self.pool()) is not None:
                pool.disconnect(inuse_connections=False)
            raise


class _Client(redis.Redis):
    """redis-py's, with a pool for each process: its own look for a fork takes the inherited lock,
    which another thread may have held."""

    def __init__(self, pools: PerProcess[redis.ConnectionPool]) -> None:
        self._pools = pools
        super().__init__(connection_pool=pools.get())

    @property
    def connection_pool(self) -> redis.ConnectionPool:
        return self._pools.get()

    @connection_pool.setter
    def connection_pool(self, _: redis.ConnectionPool) -> None:
        pass  # redis-py's constructor sets what it was given

    def close(self) -> None:
        """Other threads may finish what they are doing. A call after this connects again."""
        self._pools.close()


def connect(
    broker: str | BrokerAddress, *, timeout_seconds: float, gives_text: bool = True
) -> redis.Redis:
    """A client that answers or fails within `timeout_seconds` per try, in text or in bytes.

    Usable in a forked child.

    A connection that died while pooled, or leads to a server that is the primary no longer, is
    replaced once; every script here may safely run twice. Raises `SettingsError` for a URL that is
    none, and for certificates that cannot be used.
    """
    address = as_address(broker)
    if (tls := address.tls) is not None:
        tls.check()
    try:
        build = partial(_new_pool, address, timeout_seconds, gives_text=gives_text)
        return _Client(PerProcess(build, _close_idle))
    except ValueError:
        # Without its cause: in a traceback, that could show part of the password.
        raise SettingsError("url is not redis://user:password@host:port/db") from None


def _new_pool(
    address: BrokerAddress, timeout_seconds: float, *, gives_text: bool
) -> redis.ConnectionPool:
    # Sockets and redis-py import something at the first connection. With a fork in the middle of
    # that, the child would wait for the import for ever: so it is done here, where nobody forks.
    "localhost".encode("idna")
    redis.Connection()  # type: ignore[no-untyped-call]
    retry = _RetryOnce(NoBackoff(), 1, supported_errors=(redis.ConnectionError,))
    options = pool_options(address)
    if "path" not in options:  # a Unix socket knows nothing of it
        options["socket_keepalive"] = True
    pool = redis.ConnectionPool(
        **options,
        decode_responses=gives_text,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=timeout_seconds,
        # One record that somebody has spoilt must not spoil the reading of the others.
        encoding_errors="replace",
        retry=retry,
    )
    retry.pool = weakref.ref(pool)
    return pool


def _close_idle(pool: redis.ConnectionPool) -> None:
    pool.disconnect(inuse_connections=False)


@contextmanager
def mapped_errors() -> Iterator[None]:
    """Redis's errors as ours; nothing of redis-py leaves this door."""
    try:
        yield
    except NoHashTag as exc:
        raise HashTagMissing(str(exc)) from exc
    except (redis.RedisError, OSError) as exc:
        raise broker_error(exc, explain(exc)) from exc


def explain(error: Exception) -> str:
    """One sentence: what Redis or the way to it said, and what to do where nothing answers."""
    if isinstance(error, WrongServer):
        return f"{error}; try again, and see that broker.url ({URL_VARIABLE}) leads to the primary"
    if isinstance(error, NoPrimary):
        return str(error)
    said = redacted(f"Redis: {type(error).__name__}: {error}")
    if advice := tls_advice(error):
        return f"{said.rstrip('.')}; {advice}"
    if " connecting to " not in said:  # redis-py has no class of its own for that
        return said
    return f"{said.rstrip('.')}; set broker.url ({URL_VARIABLE}), or run `visionq up` here"
