"""What a broker's URL may be, for all three libraries that read it.

redis-py, its asyncio half and kombu each take other options from a URL, and raise what they like
for the rest, some of it after a record has been written. So a URL is checked here, before any of
them sees it. No message shows any of it: it may hold the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from os import PathLike, fspath
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from visionq import sentinel_urls
from visionq.errors import SettingsError
from visionq.names import DEFAULT_NAMESPACE
from visionq.redaction import redacted
from visionq.sentinel_urls import is_sentinel_url, read_sentinel_url
from visionq.tls import CERTIFICATE_RULES, Tls

SCHEMES = ("redis", "rediss", "unix", *sentinel_urls.SCHEMES)
TLS_OPTIONS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Of `rediss` and `sentinels`, and there are no others: the time-outs are settings of ours."""
TLS_FILES = {
    "tls_ca_file": "ssl_ca_certs",
    "tls_cert_file": "ssl_certfile",
    "tls_key_file": "ssl_keyfile",
}
"""The names of our settings, and of what a URL may say instead."""
SOCKET_OPTIONS = frozenset({"db"})
"""Of `unix`: behind the path there is no place for a database."""
BREAKING = re.compile("[\x00-\x20\x7f\ud800-\udfff'\"<>`]")
"""What ends a URL within a text: a password with one of these could not be hidden there."""
MAX_SOCKET_PATH = 107
"""Bytes that Linux takes; macOS three less."""

_DATABASE = re.compile(r"/?|/[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}")
_HOSTS = re.compile(r"(?P<head>[a-z]+://(?:[^/?#]*@)?)(?P<hosts>[^/?#@]*)")


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where Redis is and how to get in.

    `sentinel_user` and `sentinel_password`: for the sentinels themselves, where they want any.
    `tls_ca_file`, `tls_cert_file`, `tls_key_file`: paths of PEM files, for a URL with TLS: whose
    certificate is trusted (None: what the system trusts), and which one is shown to Redis.
    `hash_tag`: all keys have one slot of a Redis Cluster, and `url` names one of its nodes or some,
    `redis://user:password@host:port,host:port`, in case that one is down when a client starts;
    `slot_of` is the namespace whose slot that is; clients fill it in (`for_namespace`).
    """

    url: str
    sentinel_user: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)
    tls_ca_file: str | PathLike[str] | None = None
    tls_cert_file: str | PathLike[str] | None = None
    tls_key_file: str | PathLike[str] | None = None
    hash_tag: bool = False
    slot_of: str = DEFAULT_NAMESPACE

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what can be no address. Files are not looked at."""
        if not isinstance(self.hash_tag, bool):
            raise SettingsError("hash_tag must be true or false")
        is_split = self.hash_tag and isinstance(self.url, str)
        for url in self.server_urls if is_split else (self.url,):
            check_broker_url(url)
        self._check_hash_tag()
        if self.sentinel_user and not self.sentinel_password:
            raise SettingsError("sentinel_user has no sentinel_password")
        if self.sentinel_password and not is_sentinel_url(self.url):
            raise SettingsError("sentinel_password belongs to a url of sentinel:// or sentinels://")
        self._check_files()

    def __repr__(self) -> str:
        return f"BrokerAddress(url={redacted(self.url)!r}, hash_tag={self.hash_tag})"

    @property
    def server_urls(self) -> tuple[str, ...]:
        """`url` for each of its hosts; without a hash tag there is one.

        Of sentinels, that of the server that they name, whose host only they know.
        """
        if is_sentinel_url(self.url):
            return (read_sentinel_url(self.url).server_url,)
        match = _HOSTS.match(self.url) if self.hash_tag else None
        if match is None:
            return (self.url,)
        rest = self.url[match.end() :]
        return tuple(f"{match['head']}{host}{rest}" for host in match["hosts"].split(","))

    @property
    def server_url(self) -> str:
        """The first of them, for libraries that read one."""
        return self.server_urls[0]

    @property
    def celery_url(self) -> str:
        """What Celery names in its logs; connections are made by the address.

        Celery, kombu and redis-py write the path of a Unix socket in three ways.
        """
        if not self.url.startswith("unix://"):
            return self.server_url
        return f"redis://unix-socket/{self._options.get('db', 0)}"

    @property
    def is_tls(self) -> bool:
        return self.server_url.startswith("rediss://")

    @property
    def tls(self) -> Tls | None:
        """How connections are encrypted, by the URL's options and the files; None: they are not."""
        if not self.is_tls:
            return None
        said = self._options
        ca_file, cert_file, key_file = (
            getattr(self, name) or said.get(option) for name, option in TLS_FILES.items()
        )
        rule = said.get("ssl_cert_reqs", "required")
        return Tls(ca_file=ca_file, cert_file=cert_file, key_file=key_file, rule=rule)

    def for_namespace(self, namespace: str) -> BrokerAddress:
        """The same for the names of that namespace."""
        return replace(self, slot_of=namespace) if self.hash_tag else self

    @property
    def _options(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.server_url).query, keep_blank_values=True))

    def _check_hash_tag(self) -> None:
        if not self.hash_tag:
            return
        if is_sentinel_url(self.url) or self.url.startswith("unix://"):
            raise _wrong("with hash_tag it names nodes of a Redis Cluster, redis:// or rediss://")
        if urlsplit(self.server_url).path.strip("/0"):
            raise _wrong("with hash_tag there is only database 0, as a Redis Cluster has no other")

    def _check_files(self) -> None:
        given = [name for name in TLS_FILES if getattr(self, name) is not None]
        if given and not self.is_tls:
            raise SettingsError(
                f"broker.{given[0]} needs a broker.url that begins with rediss:// or sentinels://"
            )
        for name in given:
            option = TLS_FILES[name]
            if option in self._options:
                raise SettingsError(f"broker.{name} or {option} in broker.url: give one of them")
            try:
                object.__setattr__(self, name, fspath(getattr(self, name)))
            except TypeError as error:
                raise SettingsError(f"broker.{name} must be the path of a file") from error


def as_address(broker: str | BrokerAddress) -> BrokerAddress:
    """The same for a URL alone. Raises `SettingsError`."""
    return broker if isinstance(broker, BrokerAddress) else BrokerAddress(broker)


def check_broker_url(url: object) -> None:
    """Raise `SettingsError` unless it is `redis[s]://user:password@host:port/database`.

    Or `unix://user:password@/path/of/socket?db=number`, or what `sentinel_urls` reads.
    """
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
        raise _wrong("it must start with redis://, rediss://, sentinel://, sentinels:// or unix://")
    if parts.scheme == "unix":
        _check_socket(parts)
    elif port == 0 or not _is_host(parts.hostname or "localhost"):
        raise _wrong("there can be no such host or port")
    if parts.fragment:
        raise _wrong("a # in the password is written %23")
    if parts.scheme != "unix" and _DATABASE.fullmatch(parts.path) is None:
        raise _wrong("behind the host comes the number of a database, or nothing")
    if problem := _problem_of_options(parts.query, _options_of(parts.scheme)):
        raise _wrong(problem)


def _check_sentinel_url(url: str) -> None:
    try:
        told = read_sentinel_url(url)
        problem = _problem_of_options(told.query, TLS_OPTIONS if told.has_tls else frozenset())
    except ValueError as error:
        problem = str(error)
    if problem:
        raise SettingsError(f"url is not {sentinel_urls.SHAPE}: {problem}")


def _check_socket(parts: SplitResult) -> None:
    if parts.hostname or len(parts.path) < 2 or parts.path.endswith("/"):
        raise _wrong("of a Unix socket it is unix:///path/of/socket?db=0, with an absolute path")
    if len(unquote(parts.path).encode()) > MAX_SOCKET_PATH:
        raise _wrong(f"the path of a Unix socket has {MAX_SOCKET_PATH} bytes at most")


def _options_of(scheme: str) -> frozenset[str]:
    return {"rediss": TLS_OPTIONS, "unix": SOCKET_OPTIONS}.get(scheme, frozenset())


def _problem_of_options(query: str, known: frozenset[str]) -> str | None:
    for name, value in parse_qsl(query, keep_blank_values=True, separator="&"):
        if name in ("password", "username"):
            return "user and password stand before the host: user:password@host"
        if name not in known:
            listed = ", ".join(sorted(TLS_OPTIONS))
            return f"behind a ? it takes only {listed} (with TLS) or db (unix)"
        if name == "db" and _NUMBER.fullmatch(value) is None:
            return "db is the number of a database"
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
