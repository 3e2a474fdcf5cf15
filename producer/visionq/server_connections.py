"""redis-py's connections, made to lead to the primary or to break.

A reply that means "this is the wrong server" (`primaries`) closes the connection and is raised as a
broken connection, `WrongServer`: so whoever bears that Redis is restarted bears a failover, the
retries of redis-py, kombu and Celery included. The address is resolved anew at each connect, and
the server's role is looked at then and every `ROLE_SECONDS` of use. Each class is there for plain
TCP, TLS and Unix sockets, synchronous and for asyncio, with the same steps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from itertools import islice
from time import monotonic
from typing import Any

import redis
import redis.asyncio.connection as aio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, UnixDomainSocketConnection, parse_url
from redis.exceptions import BusyLoadingError

from visionq.broker_urls import BrokerAddress
from visionq.cluster_slot import cluster_slot
from visionq.primaries import (
    ROLE_SECONDS,
    FixedAddress,
    Locator,
    NoPrimary,
    Place,
    Primary,
    WrongServer,
    read_info,
)
from visionq.questions import EncryptedConnection
from visionq.sentinel_urls import is_sentinel_url
from visionq.sentinels import Sentinels
from visionq.tls import SHOW_A_CERTIFICATE, Tls, tls_advice

_ERROR_REPLIES = (redis.ResponseError, BusyLoadingError)
_UNREACHED = (redis.ConnectionError, redis.TimeoutError)
OUTDATED = -1
"""Before every epoch."""


class ToPrimary(AbstractConnection):
    """The synchronous one's part that is ours."""

    host: str
    port: int

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        super().__init__(**options)
        self._primary = primary
        self._epoch = primary.epoch
        self._role_due = 0.0
        self._is_subscription = False

    @property
    def is_outdated(self) -> bool:
        """Whether it was made before a server of this address turned out to be the wrong one."""
        return self.is_connected and self._epoch != self._primary.epoch

    def connect(self) -> None:
        """Called for every connection that leaves a pool; also for subscriptions that are read."""
        if self.is_outdated and not self._is_subscription:
            self.disconnect()  # type: ignore[no-untyped-call]
        super().connect()  # type: ignore[no-untyped-call]

    def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        if self.is_connected:
            return
        unreached: redis.RedisError | None = None
        for place in self._primary.locator.candidates():
            # What is found out from now on may be about the server that this one is led to.
            self._epoch = self._primary.epoch
            if place is not None:
                self.host, self.port = place
            try:
                super().connect_check_health(check_health, retry_socket_connect)
            except _UNREACHED as error:
                unreached = error
            else:
                self._settle(place)
                return
        assert unreached is not None, "a locator names a place or raises"
        raise unreached

    def on_connect_check_health(self, check_health: bool = True) -> None:
        self._role_due = monotonic() + ROLE_SECONDS  # not in the middle of the handshake
        super().on_connect_check_health(check_health)
        self._check_role()

    def check_health(self) -> None:
        super().check_health()  # type: ignore[no-untyped-call]
        if monotonic() >= self._role_due and not self._is_subscription:
            self._check_name()
            self._check_role()

    def register_connect_callback(self, callback: Any) -> None:
        """What a subscription does first. Whoever sends on it need not be who reads its replies."""
        self._is_subscription = True
        super().register_connect_callback(callback)  # type: ignore[no-untyped-call]

    def deregister_connect_callback(self, callback: Any) -> None:
        self._is_subscription = False
        super().deregister_connect_callback(callback)  # type: ignore[no-untyped-call]

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            reply = super().read_response(*args, **options)
        except _ERROR_REPLIES as error:
            self._refuse_wrong(error)
            raise
        for nested in _errors_in(reply):
            self._refuse_wrong(nested)
        return reply

    def _check_name(self) -> None:
        if self._primary.locator.is_instant:
            return
        if self._primary.is_question_due():
            with suppress(NoPrimary):  # nobody names another one
                for place in islice(self._primary.locator.candidates(), 1):
                    self._primary.is_named(place, self._epoch)
        try:
            self._primary.require_named((self.host, self.port))
        except WrongServer:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise

    def _check_role(self) -> None:
        self._role_due = monotonic() + ROLE_SECONDS
        try:
            told = self._told()
            self._epoch = self._primary.check(told, self._epoch, self._place())
        except redis.RedisError:
            self.disconnect()  # type: ignore[no-untyped-call]
            raise

    def _settle(self, place: Place | None) -> None:
        self._primary.is_named(place, self._epoch)
        if place is not None:
            self._epoch = self._primary.epoch

    def _told(self) -> Mapping[str, str]:
        """What the server says of itself: INFO where access rules allow it, else HELLO."""
        if self._primary.tells_history:
            try:
                return read_info(_text(self._ask("INFO", "replication")))
            except redis.ResponseError:
                self._primary.tells_history = False
        try:
            return _as_texts(self._ask("HELLO"))
        except redis.ResponseError:
            return {}

    def _ask(self, *words: str) -> Any:
        self.send_command(*words, check_health=False)  # type: ignore[no-untyped-call]
        return self.read_response()

    def _place(self) -> str:
        return str(self._host_error())  # type: ignore[no-untyped-call]

    def _refuse_wrong(self, error: redis.RedisError) -> None:
        refusal = self._primary.refusal(error, self._epoch, self._place())
        if isinstance(refusal, WrongServer):
            self.disconnect()  # type: ignore[no-untyped-call]
        elif refusal is not None:
            self._epoch = OUTDATED  # more replies of the same pipeline may be on their way
        if refusal is not None:
            raise refusal from error


class Plain(ToPrimary, redis.Connection):
    """Over TCP."""


class Encrypted(ToPrimary, EncryptedConnection):
    """Over TLS."""

    def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            super().on_connect_check_health(check_health)
        except redis.ConnectionError as error:
            if (refusal := _refusal(error)) is None:
                raise
            raise refusal from error


class Unix(ToPrimary, UnixDomainSocketConnection):
    """Over a Unix socket. redis-py counts a time-out by host and port, which there are none of."""

    host, port = "", 0


class AsyncToPrimary(aio.AbstractConnection):
    """The same for asyncio."""

    host: str
    port: int

    def __init__(self, *, primary: Primary, **options: Any) -> None:
        super().__init__(**options)
        self._primary = primary
        self._epoch = primary.epoch
        self._role_due = 0.0
        self._is_subscription = False

    @property
    def is_outdated(self) -> bool:
        """As `ToPrimary.is_outdated`."""
        return self.is_connected and self._epoch != self._primary.epoch

    async def connect(self) -> None:
        if self.is_outdated and not self._is_subscription:
            await self.disconnect(nowait=True)
        await super().connect()  # type: ignore[no-untyped-call]

    async def connect_check_health(
        self, check_health: bool = True, retry_socket_connect: bool = True
    ) -> None:
        if self.is_connected:
            return
        unreached: redis.RedisError | None = None
        locator = self._primary.locator
        found = locator.candidates()
        while places := await _next_of(found, is_instant=locator.is_instant):
            self._epoch = self._primary.epoch
            if places[0] is not None:
                self.host, self.port = places[0]
            try:
                await super().connect_check_health(check_health, retry_socket_connect)
            except _UNREACHED as error:
                unreached = error
            else:
                self._settle(places[0])
                return
        assert unreached is not None, "a locator names a place or raises"
        raise unreached

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self._role_due = monotonic() + ROLE_SECONDS
        await super().on_connect_check_health(check_health)
        await self._check_role()

    async def check_health(self) -> None:
        await super().check_health()  # type: ignore[no-untyped-call]
        if monotonic() >= self._role_due and not self._is_subscription:
            await self._check_name()
            await self._check_role()

    def register_connect_callback(self, callback: Any) -> None:
        """What a subscription does first. Its reader is not to connect again by itself, beside a
        coroutine that sends on it: both would read the replies of the handshake."""
        self._is_subscription = True
        self.retry = Retry(NoBackoff(), 0)
        super().register_connect_callback(callback)  # type: ignore[no-untyped-call]

    def deregister_connect_callback(self, callback: Any) -> None:
        self._is_subscription = False
        super().deregister_connect_callback(callback)  # type: ignore[no-untyped-call]

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            reply = await super().read_response(*args, **options)
        except _ERROR_REPLIES as error:
            await self._refuse_wrong(error)
            raise
        for nested in _errors_in(reply):
            await self._refuse_wrong(nested)
        return reply

    async def _send_packed_command(self, command: Iterable[bytes]) -> None:
        # Since it was found open, whoever reads from it may have closed it.
        if not self.is_connected:
            raise redis.ConnectionError("the connection was closed before the command was sent")
        await super()._send_packed_command(command)

    async def _check_name(self) -> None:
        locator = self._primary.locator
        if locator.is_instant:
            return
        if self._primary.is_question_due():
            with suppress(NoPrimary):
                for place in await _next_of(locator.candidates(), is_instant=False):
                    self._primary.is_named(place, self._epoch)
        try:
            self._primary.require_named((self.host, self.port))
        except WrongServer:
            await self.disconnect(nowait=True)
            raise

    async def _check_role(self) -> None:
        self._role_due = monotonic() + ROLE_SECONDS
        try:
            told = await self._told()
            self._epoch = self._primary.check(told, self._epoch, self._place())
        except redis.RedisError:
            await self.disconnect(nowait=True)
            raise

    def _settle(self, place: Place | None) -> None:
        self._primary.is_named(place, self._epoch)
        if place is not None:
            self._epoch = self._primary.epoch

    async def _told(self) -> Mapping[str, str]:
        if self._primary.tells_history:
            try:
                return read_info(_text(await self._ask("INFO", "replication")))
            except redis.ResponseError:
                self._primary.tells_history = False
        try:
            return _as_texts(await self._ask("HELLO"))
        except redis.ResponseError:
            return {}

    def _place(self) -> str:
        return str(self._host_error())

    async def _ask(self, *words: str) -> Any:
        await self.send_command(*words, check_health=False)
        return await self.read_response()

    async def _refuse_wrong(self, error: redis.RedisError) -> None:
        refusal = self._primary.refusal(error, self._epoch, self._place())
        if isinstance(refusal, WrongServer):
            await self.disconnect(nowait=True)
        elif refusal is not None:
            self._epoch = OUTDATED  # more replies of the same pipeline may be on their way
        if refusal is not None:
            raise refusal from error


class AsyncPlain(AsyncToPrimary, aio.Connection):
    """Over TCP."""


class AsyncEncrypted(AsyncToPrimary, aio.SSLConnection):
    """Over TLS."""

    def __init__(self, *, tls: Tls, **options: Any) -> None:
        super().__init__(**options)
        self._tls = tls

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {"host": self.host, "port": self.port, "ssl": self._tls.new_context()}

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        try:
            await super().on_connect_check_health(check_health)
        except redis.ConnectionError as error:
            if (refusal := _refusal(error)) is None:
                raise
            raise refusal from error


class AsyncUnix(AsyncToPrimary, aio.UnixDomainSocketConnection):
    """Over a Unix socket."""


_CLASSES: Mapping[type, tuple[type[ToPrimary], type[AsyncToPrimary]]] = {
    redis.Connection: (Plain, AsyncPlain),
    redis.SSLConnection: (Encrypted, AsyncEncrypted),
    UnixDomainSocketConnection: (Unix, AsyncUnix),
}


def pool_options(address: BrokerAddress, *, is_async: bool = False) -> dict[str, Any]:
    """What a pool of redis-py takes to reach the primary: class, place, user, database, TLS."""
    options: dict[str, Any] = parse_url(address.server_url)  # type: ignore[no-untyped-call]
    classes = _CLASSES[options.get("connection_class", redis.Connection)]
    options["connection_class"] = classes[is_async]
    options["primary"] = primary_of(address)
    if (tls := address.tls) is not None:
        options = {name: options[name] for name in options if not name.startswith("ssl_")}
        options["tls"] = tls
    return options


@lru_cache(maxsize=64)
def primary_of(address: BrokerAddress) -> Primary:
    """The one that all connections of this process to the address share."""
    return Primary(_locator_of(address), has_hash_tag=address.hash_tag)


def _locator_of(address: BrokerAddress) -> Locator:
    if is_sentinel_url(address.url):
        return Sentinels(address)
    return cluster_slot(address) if address.hash_tag else FixedAddress()


async def _next_of(found: Iterator[Place | None], *, is_instant: bool) -> list[Place | None]:
    """A locator's next candidate or nothing, asked for in a thread where that takes I/O."""
    if is_instant:
        return list(islice(found, 1))
    return await asyncio.to_thread(lambda: list(islice(found, 1)))


def _refusal(error: redis.ConnectionError) -> redis.ConnectionError | None:
    """What to say of an encrypted connection that has ended with its first words.

    With TLS 1.3 a server looks at the certificate of a client when that has begun to talk; where it
    refuses, the client may find the connection closed before it has read why.
    """
    if type(error) is not redis.ConnectionError or tls_advice(error):
        return None
    return redis.ConnectionError(f"{error}; if the client is refused, {SHOW_A_CERTIFICATE}")


def _errors_in(reply: object) -> Iterator[redis.ResponseError]:
    """Of a transaction's reply, which holds those of its commands."""
    if isinstance(reply, list):
        for item in reply:
            if isinstance(item, redis.ResponseError):
                yield item


def _text(reply: object) -> str:
    return reply.decode(errors="replace") if isinstance(reply, bytes) else str(reply)


def _as_texts(reply: object) -> dict[str, str]:
    """Of HELLO, which a server of RESP3 answers with a mapping and one of RESP2 with a list."""
    if isinstance(reply, list):
        reply = dict(zip(reply[::2], reply[1::2], strict=False))
    return {_text(k): _text(v) for k, v in reply.items()} if isinstance(reply, dict) else {}
