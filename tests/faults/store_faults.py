"""What an object store, or something before it, does to a request: each per operation and key."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedIOBase
from typing import Literal

HOP_BY_HOP = frozenset({"connection", "keep-alive", "expect", "transfer-encoding"})
TRICKLE_SECONDS = 0.02
"""Between two bytes of a slow body."""
PATIENCE_SECONDS = 60.0
PAGE = b"<html>Please log in</html>"

Kind = Literal[
    "status",  # another reply, and the store hears nothing
    "hang_up",  # no reply, and the store hears nothing
    "mute",  # the same, and the connection stays
    "lost",  # the store does it; no reply
    # Of the body of a GET's reply:
    "cut",  # it ends after a share
    "stalled",  # it stops after a share, and the connection stays
    "slow",  # it comes byte by byte
    "wrong",  # some bytes are others
    "longer",  # more comes than was announced
    "chunked",  # its length is not said, and its end is marked: no fault
    "chunked_cut",
    "unsized",  # its length is not said, and nothing marks its end
    "page",  # it is a web page
    "portal",  # any request is answered by a web page, and the store hears nothing
]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreFault:
    """`methods`: empty for all. `prefix`: of the keys. `times`: None for as long as it is set.

    `share`: how much of the body comes, 0 to 1. `code` empty: a reply without a body.
    """

    kind: Kind
    methods: frozenset[str] = frozenset()
    prefix: str = ""
    times: int | None = None
    status: int = 503
    code: str = "SlowDown"
    share: float = 0.5

    def is_for(self, method: str, key: str) -> bool:
        return (not self.methods or method in self.methods) and key.startswith(self.prefix)

    def error_body(self) -> bytes:
        text = f"<Error><Code>{self.code}</Code><Message>a fault of the test's</Message></Error>"
        return text.encode() if self.code else b""

    def send(
        self,
        to: BufferedIOBase,
        status: int,
        headers: Iterable[tuple[str, str]],
        body: bytes,
        released: threading.Event,
    ) -> None:
        """The reply with its body spoilt. `released`: when a stalled one is hung up."""
        length = {"Content-Length": str(len(body))}
        if self.kind in ("chunked", "chunked_cut"):
            to.write(head_of(status, headers, {"Transfer-Encoding": "chunked"}))
            end = b"0\r\n\r\n" if self.kind == "chunked" else b""
            sent = body if self.kind == "chunked" else self._start(body)
            to.write(b"%x\r\n%s\r\n%s" % (len(sent), sent, end) if sent else end)
        elif self.kind == "unsized":
            to.write(head_of(status, headers, {}) + body)
        elif self.kind == "page":
            to.write(head_of(200, [], {"Content-Length": str(len(PAGE))}) + PAGE)
        elif self.kind == "slow":
            to.write(head_of(status, headers, length))
            _trickle(to, body, released)
        else:
            to.write(head_of(status, headers, length) + self._changed(body))
            to.flush()
            if self.kind == "stalled":
                released.wait(PATIENCE_SECONDS)

    def _changed(self, body: bytes) -> bytes:
        if self.kind == "wrong":
            return bytes(byte ^ 0x55 for byte in body)
        return body + b"and more" if self.kind == "longer" else self._start(body)

    def _start(self, body: bytes) -> bytes:
        return body[: int(len(body) * self.share)]


def _trickle(to: BufferedIOBase, body: bytes, released: threading.Event) -> None:
    with suppress(OSError):  # whoever reads has had enough
        for number in range(len(body)):
            if released.wait(TRICKLE_SECONDS):
                return
            to.write(body[number : number + 1])
            to.flush()


def head_of(status: int, headers: Iterable[tuple[str, str]], framing: Mapping[str, str]) -> bytes:
    """A reply's head. `framing`: what says where its body ends."""
    lines = [f"HTTP/1.1 {status} -"]
    lines += [
        f"{name}: {value}"
        for name, value in headers
        if name.lower() not in HOP_BY_HOP and name.lower() != "content-length"
    ]
    lines += [f"{name}: {value}" for name, value in framing.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
