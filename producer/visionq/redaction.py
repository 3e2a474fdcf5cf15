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

_URL = re.compile(r"""([A-Za-z][A-Za-z0-9+.-]{0,40}://|[Hh][Tt]{2}[Pp][Ss]?:/)([^\s'"<>`]*)""")
"""Also as `Path` writes it, with one slash. No longer scheme, or a text of 100 kB takes minutes."""
_WORD = re.compile(r"""[^\s'"<>`]+""")
_BEFORE_AT = re.compile(r"""([^\s'"<>`/@]+)(@(?=[\w\[]))?""")
_END_OF_NAME = re.compile(r"[^\w*]")


def redacted_urls(text: str) -> str:
    """The text with user, password and query of every whole URL in it hidden.

    For messages of our own: what else looks like a query may be part of a key or a file's name.
    """
    if "@" not in text and "?" not in text:
        return text
    return _URL.sub(_without_secrets, text)


def redacted(text: str) -> str:
    """The same, and of pieces of URLs: for what libraries say, and for logs."""
    if "@" not in text and "?" not in text:
        return text
    text = redacted_urls(text)
    text = _WORD.sub(lambda match: _without_path_query(match[0]), text)
    return _BEFORE_AT.sub(_without_password, text)


class RedactingFormatter(logging.Formatter):
    """Formats as another one does; nothing of the line, tracebacks included, gives access."""

    def __init__(self, inner: logging.Formatter) -> None:
        super().__init__()
        self._inner = inner

    def format(self, record: logging.LogRecord) -> str:
        return redacted(self._inner.format(record))


def _without_secrets(match: re.Match[str]) -> str:
    if match[1].lower() == "s3://":  # it has neither user nor query, and a key of any characters
        return match[0]
    return match[1] + _without_user(match[2])


def _without_path_query(word: str) -> str:
    """As urllib3 names what it has asked for, beside the host."""
    slash = word.find("/")
    mark = word.find("?", slash)
    has_query = slash >= 0 and 0 <= mark < len(word) - 1
    return f"{word[:mark]}?{HIDDEN}" if has_query else word


def _without_password(match: re.Match[str]) -> str:
    """Where the scheme is missing, or not part of the message."""
    name, is_before_at = match[1], match[2]
    if not is_before_at:
        return match[0]
    start = 0
    if match.string.startswith("/", max(0, match.start() - 1)):
        end = _END_OF_NAME.search(name)
        start = end.end() if end else len(name)
    user, _, password = name[start:].partition(":")
    if not password or (user, password) == tuple(PLACEHOLDER.split(":")):
        return match[0]
    return f"{name[:start]}{HIDDEN}@"


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
