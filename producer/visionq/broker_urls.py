"""What a broker's URL may be, for all three libraries that read it.

redis-py, its asyncio half and kombu each take other options from a URL, and raise what they like
for the rest, some of it after a record has been written. So a URL is checked here, before any of
them sees it. No message shows any of it: it may hold the password.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from os import PathLike, fspath
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from visionq.errors import SettingsError
from visionq.redaction import redacted
from visionq.tls import CERTIFICATE_RULES, Tls

SCHEMES = ("redis", "rediss", "unix")
TLS_OPTIONS = frozenset({"ssl_cert_reqs", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile"})
"""Of `rediss`, and there are no others: the time-outs are settings of ours."""
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
_DATABASE = re.compile(r"/?|/[0-9]{1,9}")
_NUMBER = re.compile(r"[0-9]{1,9}")
MAX_SOCKET_PATH = 107
"""Bytes that Linux takes; macOS three less."""


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where Redis is and how to get in.

    `tls_ca_file`, `tls_cert_file`, `tls_key_file`: paths of PEM files, for a `rediss://` URL: whose
    certificate is trusted (None: what the system trusts), and which one is shown to Redis.
    """

    url: str
    tls_ca_file: str | PathLike[str] | None = None
    tls_cert_file: str | PathLike[str] | None = None
    tls_key_file: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        """Raise `SettingsError` for what can be no address. Files are not looked at."""
        check_broker_url(self.url)
        given = [name for name in TLS_FILES if getattr(self, name) is not None]
        if given and not self.is_tls:
            raise SettingsError(f"broker.{given[0]} needs a broker.url that begins with rediss://")
        for name in given:
            option = TLS_FILES[name]
            if option in self._options:
                raise SettingsError(f"broker.{name} or {option} in broker.url: give one of them")
            try:
                object.__setattr__(self, name, fspath(getattr(self, name)))
            except TypeError as error:
                raise SettingsError(f"broker.{name} must be the path of a file") from error

    def __repr__(self) -> str:
        return f"BrokerAddress(url={redacted(self.url)!r})"

    @property
    def is_tls(self) -> bool:
        return self.url.startswith("rediss://")

    @property
    def celery_url(self) -> str:
        """What Celery names in its logs; connections are made by the address.

        Celery, kombu and redis-py write the path of a Unix socket in three ways.
        """
        if not self.url.startswith("unix://"):
            return self.url
        return f"redis://unix-socket/{self._options.get('db', 0)}"

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

    @property
    def _options(self) -> dict[str, str]:
        return dict(parse_qsl(urlsplit(self.url).query, keep_blank_values=True))


def as_address(broker: str | BrokerAddress) -> BrokerAddress:
    """The same for a URL alone. Raises `SettingsError`."""
    return broker if isinstance(broker, BrokerAddress) else BrokerAddress(broker)


def check_broker_url(url: object) -> None:
    """Raise `SettingsError` unless it is `redis[s]://user:password@host:port/database`.

    Or `unix://user:password@/path/of/socket?db=number`.
    """
    if not isinstance(url, str) or BREAKING.search(url):
        raise _wrong("it must be a string; write spaces and ' \" < > ` percent-encoded")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _wrong() from None  # the cause may show part of the password
    if parts.scheme not in SCHEMES:
        raise _wrong("it must start with redis://, rediss:// or unix://")
    if parts.scheme == "unix":
        _check_socket(parts)
    elif port == 0 or not _is_host(parts.hostname or "localhost"):
        raise _wrong("there can be no such host or port")
    if parts.fragment:
        raise _wrong("a # in the password is written %23")
    if parts.scheme != "unix" and _DATABASE.fullmatch(parts.path) is None:
        raise _wrong("behind the host comes the number of a database, or nothing")
    _check_options(parts)


def _check_socket(parts: SplitResult) -> None:
    if parts.hostname or len(parts.path) < 2 or parts.path.endswith("/"):
        raise _wrong("of a Unix socket it is unix:///path/of/socket?db=0, with an absolute path")
    if len(unquote(parts.path).encode()) > MAX_SOCKET_PATH:
        raise _wrong(f"the path of a Unix socket has {MAX_SOCKET_PATH} bytes at most")


def _check_options(parts: SplitResult) -> None:
    known = {"rediss": TLS_OPTIONS, "unix": SOCKET_OPTIONS}.get(parts.scheme, frozenset())
    for name, value in parse_qsl(parts.query, keep_blank_values=True, separator="&"):
        if name in ("password", "username"):
            raise _wrong("user and password stand before the host: user:password@host")
        if name not in known:
            raise _wrong(
                f"behind a ? it takes only {', '.join(sorted(TLS_OPTIONS))} (rediss) or db (unix)"
            )
        if name == "db" and _NUMBER.fullmatch(value) is None:
            raise _wrong("db is the number of a database")
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
