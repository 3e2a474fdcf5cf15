"""How a connection to Redis is encrypted: whom it trusts, and which certificate it shows.

Files are read at each connect, so that certificates may be renewed while a process runs.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from visionq.errors import SettingsError

CERTIFICATE_RULES = {
    "required": ssl.CERT_REQUIRED,
    "optional": ssl.CERT_OPTIONAL,
    "none": ssl.CERT_NONE,
}
"""By the words of `ssl_cert_reqs` in a URL."""

_CERTIFICATE, _KEY, _ENCRYPTED = "CERTIFICATE-----", "PRIVATE KEY-----", "ENCRYPTED"

SHOW_A_CERTIFICATE = (
    "set broker.tls_cert_file and broker.tls_key_file to a certificate that Redis accepts"
)
_ADVICE = {
    "hostname mismatch": "let broker.url name a host that stands in the certificate",
    "ip address mismatch": "let broker.url name a host that stands in the certificate",
    "certificate has expired": "renew the certificate of Redis",
    "certificate is not yet valid": "see that the clocks here and at Redis are right",
    "certificate verify failed": "set broker.tls_ca_file to the certificate of Redis's authority",
    "alert certificate expired": f"that of this client: {SHOW_A_CERTIFICATE}",
    "alert": SHOW_A_CERTIFICATE,
    "eof occurred": f"if it wants a certificate of its clients, {SHOW_A_CERTIFICATE}",
    "wrong version number": "no TLS is spoken there: begin broker.url with redis://",
    "record layer failure": "no TLS is spoken there: begin broker.url with redis://",
}
"""By a part of OpenSSL's sentence; the first that fits. Some Redis libraries keep nothing else."""
_NO_HANDSHAKE = "if no TLS is spoken there, begin broker.url with redis://"


class NoHandshake(TimeoutError):
    """The other side has taken the connection, and says nothing about encryption."""


class UnusableFile(OSError):
    """A file that could be used when the process began cannot be used any more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Paths of PEM files. Without `ca_file` the system's authorities are trusted, else only its."""

    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    rule: str = "required"

    def new_context(self) -> ssl.SSLContext:
        """Raises `UnusableFile`, which says which one."""
        try:
            return self._new_context()
        except OSError as error:
            try:
                self.check()
            except SettingsError as found:
                raise UnusableFile(error.errno or 0, str(found)) from error
            raise  # it is being renewed just now

    def _new_context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        context.check_hostname = self.rule != "none"
        context.verify_mode = CERTIFICATE_RULES[self.rule]
        if self.cert_file is not None:
            # Without a password OpenSSL would ask the terminal for that of an encrypted key.
            context.load_cert_chain(self.cert_file, self.key_file, password="")
        return context

    def check(self) -> None:
        """Raise `SettingsError`, naming the setting, for files that cannot be used."""
        if self.key_file is not None and self.cert_file is None:
            raise SettingsError("broker.tls_key_file belongs to a broker.tls_cert_file: set both")
        if self.ca_file is not None:
            _require("broker.tls_ca_file", self.ca_file, _CERTIFICATE)
        if self.cert_file is not None:
            _require("broker.tls_cert_file", self.cert_file, _CERTIFICATE)
            if self.key_file is None:
                _require("without broker.tls_key_file, broker.tls_cert_file", self.cert_file, _KEY)
            else:
                _require("broker.tls_key_file", self.key_file, _KEY)
        try:
            self._new_context()
        except OSError as error:
            raise SettingsError(self._explain(error)) from error

    def _explain(self, error: OSError) -> str:
        reason = (getattr(error, "reason", None) or str(error)).upper()
        if "MISMATCH" in reason:
            return "broker.tls_key_file does not belong to broker.tls_cert_file"
        if self.cert_file is None:
            return f"broker.tls_ca_file holds no certificate that can be read: {reason}"
        try:
            ssl.create_default_context(cafile=self.ca_file)
        except OSError:
            return f"broker.tls_ca_file holds no certificate that can be read: {reason}"
        return f"broker.tls_cert_file and broker.tls_key_file cannot be used: {reason}"


def _require(setting: str, path: str, what: str) -> None:
    """Raise `SettingsError` unless the file holds that, unencrypted."""
    try:
        text = Path(path).read_text(encoding="ascii", errors="replace")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise SettingsError(f"{setting} cannot be read: {path}: {why}") from error
    if what not in text:
        noun = "certificate" if what is _CERTIFICATE else "private key"
        raise SettingsError(f"{setting} holds no {noun} in PEM form: {path}")
    if what is _KEY and _ENCRYPTED in text:
        raise SettingsError(f"{setting} is encrypted; it has to be without a passphrase: {path}")


def tls_advice(error: BaseException) -> str | None:
    """What to do about an error of TLS; None where something else has failed."""
    for cause in _causes(error):
        if isinstance(cause, NoHandshake):
            return _NO_HANDSHAKE
        if isinstance(cause, UnusableFile):
            return "see that the file is whole and may be read"
        said = str(cause).lower()
        if isinstance(cause, ssl.SSLError) or "[ssl" in said or "(_ssl.c:" in said:
            found = (advice for part, advice in _ADVICE.items() if part in said)
            if (advice := next(found, None)) is not None:
                return advice
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
