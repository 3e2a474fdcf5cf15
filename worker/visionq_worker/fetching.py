"""Images behind https URLs. The only door to the open internet, shut unless the settings open it.

A URL is anybody's, and the worker stands in a network where others are not meant to ask. So a name
is resolved once, every address it has must be public, and the connection goes to one of those
addresses and nowhere else: a name that answers differently the second time is not asked again. The
certificate has to be the name's. Redirects are new URLs; proxies of the environment are not used.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from time import monotonic, sleep
from urllib.parse import urljoin

from urllib3 import HTTPSConnectionPool, Timeout
from urllib3.exceptions import HTTPError, LocationParseError, SSLError
from urllib3.response import BaseHTTPResponse
from urllib3.util import Url, parse_url

from visionq.contract import FailureCode
from visionq_worker.addresses import is_public
from visionq_worker.errors import TaskError

HTTPS_PORT = 443
OK = 200
REDIRECTS = frozenset({301, 302, 303, 307, 308})
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that another try may not meet."""
TRIES = 3
PAUSE_SECONDS = 0.5
READ_SECONDS = 5.0
"""Without a byte."""
CHUNK_BYTES = 65_536
USER_AGENT = "visionq"

Resolve = Callable[[str, int], Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class UrlRules:
    """What may be fetched. `hosts`: exact names, or those that end in ".name"; empty: any."""

    hosts: Collection[str] = ()
    ports: Collection[int] = (HTTPS_PORT,)
    max_bytes: int
    max_redirects: int = 3
    connect_seconds: float = 3.0
    total_seconds: float = 20.0

    def allow_host(self, name: str) -> bool:
        return not self.hosts or any(
            name == host or (host.startswith(".") and name.endswith(host)) for host in self.hosts
        )


class _Passing(Exception):
    """What went wrong may not go wrong again."""


def resolve(host: str, port: int) -> list[str]:
    """All addresses of a name, as the system's resolver has them."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


class Fetcher:
    """Gets what lies behind URLs. Thread-safe; no connection is kept."""

    def __init__(
        self,
        rules: UrlRules,
        *,
        resolve: Resolve = resolve,
        is_allowed: Callable[[str], bool] = is_public,
        context: ssl.SSLContext | None = None,
    ) -> None:
        """`is_allowed`: of an address. `context`: with the authorities that are trusted."""
        self._rules = rules
        self._resolve = resolve
        self._is_allowed = is_allowed
        self._context = context or ssl.create_default_context()

    def fetch(self, url: str) -> bytes:
        """The bytes. Raises `TaskError`, retryable where the other side is away."""
        deadline = monotonic() + self._rules.total_seconds
        for number in range(TRIES):
            try:
                return self._follow(url, deadline)
            except _Passing as error:
                if number == TRIES - 1 or monotonic() + PAUSE_SECONDS > deadline:
                    message = "an image URL gives no answer now"
                    raise TaskError(
                        FailureCode.INPUT_UNAVAILABLE, message, retryable=True
                    ) from error
                sleep(PAUSE_SECONDS)
        raise AssertionError("the last try returns or raises")

    def _follow(self, url: str, deadline: float) -> bytes:
        for _ in range(self._rules.max_redirects + 1):
            with self._get(_checked(url, self._rules), deadline) as reply:
                if reply.status == OK:
                    return self._content(reply, deadline)
                if reply.status in PASSING:
                    raise _Passing(f"status {reply.status}")
                location = reply.headers.get("Location")
                if reply.status not in REDIRECTS or not location:
                    message = f"an image URL answers with status {reply.status}"
                    raise TaskError(FailureCode.INPUT_MISSING, message)
                url = _joined(url, location)
        raise _refused("an image URL redirects too often")

    @contextmanager
    def _get(self, url: Url, deadline: float) -> Iterator[BaseHTTPResponse]:
        assert url.host is not None
        name = url.host.strip("[]")
        port = url.port or HTTPS_PORT
        error: Exception | None = None
        for address in self._addresses(name, port):
            pool = HTTPSConnectionPool(
                address,
                port,
                timeout=self._timeout(deadline),
                retries=False,
                ssl_context=self._context,
                server_hostname=name,
                assert_hostname=name,
            )
            with closing(pool):
                try:
                    reply = self._ask(pool, url)
                except SSLError as exc:
                    raise _refused("the certificate of an image URL is not valid") from exc
                except (HTTPError, OSError) as exc:
                    error = exc
                    continue
                with closing(reply):
                    yield reply
                return
        raise _Passing(str(error)) from error

    def _ask(self, pool: HTTPSConnectionPool, url: Url) -> BaseHTTPResponse:
        return pool.urlopen(
            "GET",
            url.request_uri,
            headers={"Host": url.netloc or "", "User-Agent": USER_AGENT, "Accept": "image/*"},
            redirect=False,
            assert_same_host=False,
            preload_content=False,
            decode_content=False,
        )

    def _addresses(self, name: str, port: int) -> Sequence[str]:
        """Where to connect. One that is not public spoils the name: it would be a lure."""
        try:
            found = self._resolve(name, port)
        except (OSError, UnicodeError) as exc:
            raise _Passing(f"{name} cannot be resolved") from exc
        if not all(self._is_allowed(address) for address in found):
            raise _refused("an image URL leads to an address that is not public")
        return found

    def _content(self, reply: BaseHTTPResponse, deadline: float) -> bytes:
        if reply.headers.get("Content-Encoding", "identity").lower() != "identity":
            raise _refused("an image URL answers with an encoding that was not asked for")
        parts, size = [], 0
        try:
            while part := reply.read1(CHUNK_BYTES):
                parts.append(part)
                size += len(part)
                if size > self._rules.max_bytes:
                    message = f"an input image has more than {self._rules.max_bytes} bytes"
                    raise TaskError(FailureCode.INPUT_TOO_LARGE, message)
                if monotonic() > deadline:
                    raise _Passing("it takes too long")
        except (HTTPError, OSError) as exc:
            raise _Passing(str(exc)) from exc
        return b"".join(parts)

    def _timeout(self, deadline: float) -> Timeout:
        left = max(0.001, deadline - monotonic())
        connect = min(self._rules.connect_seconds, left)
        return Timeout(connect=connect, read=min(READ_SECONDS, left))


def _joined(url: str, location: str) -> str:
    """Where a redirect leads."""
    try:
        return urljoin(url, location)
    except ValueError as exc:  # a bracket that is not closed, or a character that is none of a host
        raise _refused("an image URL redirects to what is no URL") from exc


def _checked(text: str, rules: UrlRules) -> Url:
    """The URL as the library reads it that connects: two readers could differ."""
    try:
        url = parse_url(text)
    except LocationParseError as exc:
        raise _refused("an image URL cannot be read") from exc
    if url.scheme != "https":
        raise _refused("image URLs must be https")
    if url.auth is not None:
        raise _refused("an image URL may not hold a user or password")
    if not url.host or not rules.allow_host(url.host.rstrip(".")):
        raise _refused("the host of an image URL is not allowed")
    if (url.port or HTTPS_PORT) not in rules.ports:
        raise _refused("the port of an image URL is not allowed")
    return url


def _refused(message: str) -> TaskError:
    return TaskError(FailureCode.INPUT_NOT_ALLOWED, message)
