"""Texts for people and logs, without what would let them in.

A URL may carry a password (`redis://:password@host`, an endpoint with user and password) or a
query that signs it (a presigned URL, a token). Libraries put URLs into their errors as they are.
"""

from __future__ import annotations

import logging
import re

HIDDEN = "***"
PLACEHOLDER = "user:password"
"""In messages that say what a URL has to look like."""

_URL = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]*://)([^\s'"<>`]*)""")
_PATH_WITH_QUERY = re.compile(r"""(/[^\s'"<>`?]*)\?[^\s'"<>`]+""")
"""As urllib3 names what it has asked for, beside the host."""
_BARE_PASSWORD = re.compile(
    r"""(?<![\w/*])(?!user:password@)[^\s'"<>`/@:]*:[^\s'"<>`/@]+@(?=[\w\[])"""
)
"""Where the scheme is missing, or not part of the message."""


def redacted(text: str) -> str:
    """The text with user, password and query of every URL in it hidden."""
    if "@" not in text and "?" not in text:
        return text
    text = _URL.sub(lambda match: match[1] + _without_user(match[2]), text)
    text = _PATH_WITH_QUERY.sub(rf"\1?{HIDDEN}", text)
    return _BARE_PASSWORD.sub(f"{HIDDEN}@", text)


class RedactingFormatter(logging.Formatter):
    """Formats as another one does; nothing of the line, tracebacks included, gives access."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._inner.format(record))


def _without_user(rest: str) -> str:
    """Of a URL after its scheme; without its query, too."""
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if authority.startswith(f"{PLACEHOLDER}@"):
        return rest
    if "@" in authority:
        end = authority.rindex("@")
    elif "@" in rest and _ends_in_no_port(authority):
        end = rest.rindex("@")  # of a password with a slash, a question mark or a hash
    else:
        return _without_query(rest)
    return f"{HIDDEN}@{_without_query(rest[end + 1 :])}"


def _ends_in_no_port(authority: str) -> bool:
    name, colon, port = authority.rpartition(":")
    return bool(colon) and not name.startswith("[") and not port.isdigit()


def _without_query(rest: str) -> str:
    address, mark, _ = rest.partition("?")
    return f"{address}?{HIDDEN}" if mark else rest
