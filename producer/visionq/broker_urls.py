"""What a broker's URL may be, for all three libraries that read it.

redis-py, its asyncio half and kombu each take other options from a URL, and raise what they like
for the rest, some of it after a record has been written. So a URL is checked here, before any of
them sees it. No message shows any of it: it may hold the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from visionq import sentinel_urls
from visionq.errors import SettingsError
from visionq.redaction import redacted
from visionq.sentinel_urls import is_sentinel_url, read_sentinel_url

SCHEMES = ("redis", "rediss", *sentinel_urls.SCHEMES)
TLS_OPTIONS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Of `rediss` and `sentinels`, and there are no others: the time-outs are settings of ours."""
CERTIFICATE_RULES = frozenset({"required", "optional", "none"})

BREAKING = re.compile("[\x00-\x20\x7f\ud800-\udfff'\"<>`]")
"""What ends a URL within a text: a password with one of these could not be hidden there."""
_DATABASE = re.compile(r"/?|/[0-9]{1,9}")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where Redis is and how to get in.

    `sentinel_user` and `sentinel_password`: for the sentinels themselves, where they want any.
    """

    url: str
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what can be no address."""
        check_broker_url(self.url)
        if self.sentinel_user and not self.sentinel_password:
            raise SettingsError("sentinel_user has no sentinel_password")
        if self.sentinel_password and not is_sentinel_url(self.url):
            raise SettingsError("sentinel_password belongs to a url of sentinel:// or sentinels://")

    @property
    def server_url(self) -> str:
        """`url`, or the same for the server that sentinels name, whose host only they know."""
        return read_sentinel_url(self.url).server_url if is_sentinel_url(self.url) else self.url

    def __repr__(self) -> str:
        return f"BrokerAddress(url={redacted(self.url)!r})"


def as_address(broker: str | BrokerAddress) -> BrokerAddress:
    """The same for a URL alone. Raises `SettingsError`."""
    return broker if isinstance(broker, BrokerAddress) else BrokerAddress(broker)


def check_broker_url(url: object) -> None:
    """Raise `SettingsError` unless it is `redis[s]://user:password@host:port/database`, or what
    `sentinel_urls` reads."""
    if not isinstance(url, str) or BREAKING.search(url):
        raise _wrong("it must be a string; write spaces and ' \" < > ` percent-encoded")
    if is_sentinel_url(url):
        _check_sentinel_url(url)
        return
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong() from None  # the cause may show part of the password
    if parts.scheme not in SCHEMES:
        raise _wrong("it must start with redis://, rediss://, sentinel:// or sentinels://")
    if port == 0 or not _is_host(parts.hostname or "localhost"):
        raise _wrong("there can be no such host or port")
    if parts.fragment:
        raise _wrong("a # in the password is written %23")
    if _DATABASE.fullmatch(parts.path) is None:
        raise _wrong("behind the host comes the number of a database, or nothing")
    if problem := _problem_of_options(parts.query, has_tls=parts.scheme == "rediss"):
        raise _wrong(problem)


def _check_sentinel_url(url: str) -> None:
    try:
        told = read_sentinel_url(url)
        problem = _problem_of_options(told.query, has_tls=told.has_tls)
    except ValueError as error:
        problem = str(error)
    if problem:
        raise SettingsError(f"url is not {sentinel_urls.SHAPE}: {problem}")


def _problem_of_options(query: str, *, has_tls: bool) -> str | None:
    known = TLS_OPTIONS if has_tls else frozenset()
    for name, value in parse_qsl(query, keep_blank_values=True, separator="&"):
        if name in ("password", "username"):
            return "user and password stand before the host: user:password@host"
        if name not in known:
            return f"behind a ? it takes only {', '.join(sorted(TLS_OPTIONS))} (with TLS)"
        if name == "ssl_cert_reqs" and value not in CERTIFICATE_RULES:
            return f"ssl_cert_reqs must be {', '.join(sorted(CERTIFICATE_RULES))}"
    return None


def _is_host(name: str) -> bool:
    try:
        name.encode("idna")
    except UnicodeError:  # a part of it is empty, or too long
        return False
    return True


def _wrong(why: str = "") -> SettingsError:
    return SettingsError("url is not redis://user:password@host:port/db" + (why and f": {why}"))
