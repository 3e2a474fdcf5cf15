"""What a broker's URL may be, for all three libraries that read it.

redis-py, its asyncio half and kombu each take other options from a URL, and raise what they like
for the rest, some of it after a record has been written. So a URL is checked here, before any of
them sees it. No message shows any of it: it may hold the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from urllib.parse import SplitResult, parse_qsl, urlsplit

from visionq.errors import SettingsError
from visionq.names import DEFAULT_NAMESPACE
from visionq.redaction import redacted

SCHEMES = ("redis", "rediss")
TLS_OPTIONS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Of `rediss`, and there are no others: the time-outs are settings of ours."""
CERTIFICATE_RULES = frozenset({"required", "optional", "none"})

BREAKING = re.compile("[\x00-\x20\x7f\ud800-\udfff'\"<>`]")
"""What ends a URL within a text: a password with one of these could not be hidden there."""
_DATABASE = re.compile(r"/?|/[0-9]{1,9}")


_HOSTS = re.compile(r"(?P<head>[a-z]+://(?:[^/?#]*@)?)(?P<hosts>[^/?#@]*)")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where Redis is and how to get in.

    `hash_tag`: all keys have one slot of a Redis Cluster, and `url` names one of its nodes or some,
    `redis://user:password@host:port,host:port`, in case that one is down when a client starts;
    `slot_of` is the namespace whose slot that is; clients fill it in (`for_namespace`).
    """

    url: str
    hash_tag: bool = False
    slot_of: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what can be no address."""
        if not isinstance(self.hash_tag, bool):
            raise SettingsError("hash_tag must be true or false")
        for url in self.server_urls:
            check_broker_url(url)
        if self.hash_tag and urlsplit(self.server_url).path.strip("/0"):
            raise _wrong("with hash_tag there is only database 0, as a Redis Cluster has no other")

    @property
    def server_urls(self) -> tuple[str, ...]:
        """`url` for each of its hosts; without a hash tag there is one."""
        match = _HOSTS.match(self.url) if self.hash_tag and isinstance(self.url, str) else None
        if match is None:
            return (self.url,)
        rest = self.url[match.end() :]
        return tuple(f"{match['head']}{host}{rest}" for host in match["hosts"].split(","))

    @property
    def server_url(self) -> str:
        """`url`, or that of its first host, for libraries that read one."""
        return self.server_urls[0]

    def for_namespace(self, namespace: str) -> BrokerAddress:
        """The same for the names of that namespace."""
        return replace(self, slot_of=namespace) if self.hash_tag else self

    def __repr__(self) -> str:
        return f"BrokerAddress(url={redacted(self.url)!r}, hash_tag={self.hash_tag})"


def as_address(broker: str | BrokerAddress) -> BrokerAddress:
    """The same for a URL alone. Raises `SettingsError`."""
    return broker if isinstance(broker, BrokerAddress) else BrokerAddress(broker)


def check_broker_url(url: object) -> None:
    """Raise `SettingsError` unless it is `redis[s]://user:password@host:port/database`."""
    if not isinstance(url, str) or BREAKING.search(url):
        raise _wrong("it must be a string; write spaces and ' \" < > ` percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong() from None  # the cause may show part of the password
    if parts.scheme not in SCHEMES:
        raise _wrong("it must start with redis:// or rediss://")
    if port == 0 or not _is_host(parts.hostname or "localhost"):
        raise _wrong("there can be no such host or port")
    if parts.fragment:
        raise _wrong("a # in the password is written %23")
    if _DATABASE.fullmatch(parts.path) is None:
        raise _wrong("behind the host comes the number of a database, or nothing")
    _check_options(parts)


def _check_options(parts: SplitResult) -> None:
    known = TLS_OPTIONS if parts.scheme == "rediss" else frozenset()
    for name, value in parse_qsl(parts.query, keep_blank_values=True, separator="&"):
        if name in ("password", "username"):
            raise _wrong("user and password stand before the host: user:password@host")
        if name not in known:
            raise _wrong("behind a ? it takes only " + ", ".join(sorted(TLS_OPTIONS)) + " (rediss)")
        if name == "ssl_cert_reqs" and value not in CERTIFICATE_RULES:
            raise _wrong("ssl_cert_reqs must be " + ", ".join(sorted(CERTIFICATE_RULES)))


def _is_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:  # a part of it is empty, or too long
        return False
    return True


def _wrong(why: str = "") -> SettingsError:
    return SettingsError("url is not redis://user:password@host:port/db" + (why and f": {why}"))
