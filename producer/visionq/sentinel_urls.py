"""The URL of a primary that sentinels know.

`sentinel://user:password@host:26379,host,[::1]:26380/name/db`, or `sentinels://` with TLS to the
sentinels and to the servers: user and password are the servers' own, the name is the primary's.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SCHEMES = ("sentinel", "sentinels")
SHAPE = "sentinel://user:password@host:port,host:port/name/db"
PORT = 26379

_HOST = re.compile(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]]*)(?::([0-9]+))?")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
"""As Sentinel's own configuration requires it."""
_DATABASE = re.compile("[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class SentinelUrl:
    """What such a URL says. `user` is what stands before the `@`, as it is written."""

    sentinels: tuple[tuple[str, int], ...]
    name: str
    db: int
    user: str
    query: str
    has_tls: bool

    @property
    def server_url(self) -> str:
        """The same for one server whose host is yet to be found. `.invalid` is nobody's."""
        at = f"{self.user}@" if self.user else ""
        query = f"?{self.query}" if self.query else ""
        scheme = "rediss" if self.has_tls else "redis"
        return f"{scheme}://{at}{self.name}.sentinel.invalid:6379/{self.db}{query}"


def is_sentinel_url(url: str) -> bool:
    return url.partition("://")[0] in SCHEMES


def read_sentinel_url(url: str) -> SentinelUrl:
    """Raise `ValueError` with the reason, which shows nothing of the URL."""
    scheme, _, rest = url.partition("://")
    if "#" in rest:
        raise ValueError("a # in the password is written %23")
    rest, _, query = rest.partition("?")
    authority, _, path = rest.partition("/")
    user, _, hosts = authority.rpartition("@")
    if "@" in path or "@" in query:
        raise ValueError("a / or ? in the password is written %2F or %3F")
    if "@" in user:
        raise ValueError("an @ in the password is written %40")
    name, _, db = path.partition("/")
    if _NAME.fullmatch(name) is None:
        raise ValueError("behind the hosts comes the name by which the sentinels know the primary")
    if db and _DATABASE.fullmatch(db) is None:
        raise ValueError("behind the name comes the number of a database, or nothing")
    sentinels = tuple(map(_read_host, hosts.split(",")))
    return SentinelUrl(sentinels, name, int(db or 0), user, query, scheme == "sentinels")


def _read_host(text: str) -> tuple[str, int]:
    match = _HOST.fullmatch(text)
    if match is None or not match[1]:
        raise ValueError("each sentinel is host or host:port, an IPv6 address in [ ]")
    port = int(match[2] or PORT)
    host = match[1].strip("[]")
    try:
        host.encode("idna")
    except UnicodeError:  # a part of it is empty, or too long
        port = 0
    if not 0 < port < 65536:
        raise ValueError("there can be no such host or port")
    return host, port
