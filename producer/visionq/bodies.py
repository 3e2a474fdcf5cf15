"""Bodies of requests and replies: whole and in bounded time.

urllib3's time-out is for one read: a reply that trickles would never end. Of a request it is for
all that is sent at once, and too short for a large image on a slow line. So there is a bound for
the whole, which grows with its size.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from io import BytesIO
from sys import maxsize
from time import monotonic
from typing import Any

CHUNK_BYTES = 256 * 1024
AT_ONCE_BYTES = 64 * 1024
"""Sent in one piece: it fits into the buffers on the way."""
SLOWEST_BYTES_PER_SECOND = 128 * 1024
"""A store that takes longer than the time-out for a body, and as long as at this rate, is away."""

_MD5 = re.compile(r"[0-9a-f]{32}")
_OWN_KEY = (
    "x-amz-server-side-encryption-customer-algorithm",
    "x-amz-server-side-encryption-aws-kms-key-id",
)
"""Headers of objects whose ETag looks like an MD5 and is none."""


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The object was not read."""

    num_bytes: int


class BadBody(Exception):
    """What came is not the object. `ObjectStore` makes a `StorageUnavailable` of it."""


class BrokenOff(BadBody):
    """It did not come whole."""


class NotOfAStore(BadBody):
    """Something else has answered: a proxy's page to log in, say."""

    @classmethod
    def raise_without_etag(cls, headers: Mapping[str, Any]) -> None:
        """Of an object that was read, looked at or stored, each object store says its ETag."""
        if "etag" not in {name.lower() for name in headers}:
            raise cls("a reply of the object store has no ETag: something else has answered")


class BodyChanged(BadBody):
    """It has other bytes than were stored. `digest`: their SHA-256."""

    digest = ""

    @classmethod
    def raise_if_contradicted(cls, content: bytes, headers: Mapping[str, Any]) -> None:
        """By the ETag of the reply."""
        if md5_of(headers) in (None, md5_hex(content)):
            return
        error = cls("an object came out of the store with other bytes than its ETag says")
        error.digest = hashlib.sha256(content).hexdigest()
        raise error


class Upload(BytesIO):
    """What is sent piece by piece, each within the time-out. Raises `TimeoutError`."""

    def __init__(self, content: bytes, seconds: float) -> None:
        super().__init__(content)
        self._deadline = monotonic() + seconds + len(content) / SLOWEST_BYTES_PER_SECOND

    def read(self, size: int | None = -1, /) -> bytes:
        if monotonic() > self._deadline:
            raise TimeoutError("the object store takes an object too slowly")
        return super().read(size)


def body_of(content: bytes, seconds: float) -> bytes | Upload:
    """What to hand to the library for it."""
    return content if len(content) <= AT_ONCE_BYTES else Upload(content, seconds)


def md5_hex(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def md5_of(headers: Mapping[str, Any]) -> str | None:
    """The MD5 that the ETag is; None where it is another thing.

    It is the MD5 on most stores, the embedded one among them, and not of what was uploaded in
    parts, on AWS under KMS, or in a directory bucket.
    """
    names = {name.lower(): value for name, value in headers.items()}
    etag = str(names.get("etag", "")).strip('"')
    is_of_kms = str(names.get("x-amz-server-side-encryption", "")).startswith("aws:kms")
    is_encrypted = is_of_kms or any(name in names for name in _OWN_KEY)
    is_md5 = _MD5.fullmatch(etag) and not is_encrypted
    return etag if is_md5 else None


def read_body(raw: Any, length: int | None, *, seconds: float, at_most: int | None = None) -> bytes:
    """`raw`: urllib3's response, which is closed unless the body is whole.

    `length`: as announced; None of a body in chunks, whose end is marked. `seconds`: for the whole,
    beside what `length` bytes take at the slowest rate. Of more than `at_most` bytes, the rest is
    left. Raises `BrokenOff`.
    """
    try:
        content = _read(raw, length, seconds, at_most)
    except Exception:
        raw.close()
        raise
    if length != len(content) and not raw.isclosed():
        raw.close()  # the rest is still coming
    return content if at_most is None else content[:at_most]


def _read(raw: Any, length: int | None, seconds: float, at_most: int | None) -> bytes:
    from urllib3.exceptions import HTTPError

    if length is None and not raw.chunked:
        raise BrokenOff("a reply of the object store does not say how long it is")
    end = min(each for each in (length, at_most, maxsize) if each is not None)
    deadline = monotonic() + seconds + (length or 0) / SLOWEST_BYTES_PER_SECOND
    parts, size = [], 0
    try:
        # At least once, which gives the connection back where there is nothing to read.
        while part := raw.read1(CHUNK_BYTES):
            parts.append(part)
            size += len(part)
            if size >= end:
                break
            if monotonic() > deadline:
                raise BrokenOff(f"{size} bytes came in the time for the whole object")
    except (HTTPError, HTTPException, OSError, ValueError) as exc:
        raise BrokenOff(f"a reply of the object store broke off: {type(exc).__name__}") from exc
    if length is not None and size < end:
        raise BrokenOff(f"a reply of the object store broke off after {size} bytes of {length}")
    return parts[0] if len(parts) == 1 else b"".join(parts)
