"""Addresses that a worker must not connect to, whoever asks it to: hosts in every spelling.

And a listener that would notice: it has a port of every address of this machine.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from types import TracebackType
from typing import Self

HOSTS = (
    # This machine, as people write it, as old C libraries read it, and inside of IPv6.
    "127.0.0.1",
    "127.1",
    "127.0.0.2",
    "127.255.255.254",
    "0.0.0.0",
    "0",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "017700000001",
    "0177.0.0.1",
    "%31%32%37.0.0.1",
    "①②⑦.⓪.⓪.①",
    "localhost",
    "LOCALHOST.",
    "ip6-localhost",
    "[::1]",
    "[::]",
    "[::127.0.0.1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::7f00:1]",
    "[2002:7f00:1::]",
    "[2001:0:7f00:1::80ff:fffe]",
    # The networks around it, and what only they can see.
    "10.0.0.1",
    "172.16.0.1",
    "192.168.0.1",
    "100.64.0.1",
    "169.254.169.254",
    "169.254.170.2",
    "2852039166",
    "[::ffff:169.254.169.254]",
    "[64:ff9b::a9fe:a9fe]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fec0::1]",
    "metadata.google.internal",
    "100.100.100.200",
    "192.0.0.192",
    "198.18.0.1",
    "224.0.0.1",
    "255.255.255.255",
    # A host that looks like another one.
    "example.com@127.0.0.1",
    "example.com%00@127.0.0.1",
    "example.com\\@127.0.0.1",
    "127.0.0.1#@example.com",
)
OTHERS = (
    "file:///etc/passwd",
    "file://localhost/etc/passwd",
    "FILE:///etc/passwd",
    "ftp://127.0.0.1:{port}/x.png",
    "gopher://127.0.0.1:{port}/_GET",
    "redis://127.0.0.1:{port}/0",
    "dict://127.0.0.1:{port}/x",
    "//127.0.0.1:{port}/x.png",
    "http:/127.0.0.1:{port}/x.png",
    "https:/127.0.0.1:{port}/x.png",
    "HTTPS://127.0.0.1:{port}/x.png",
    "https:\\\\127.0.0.1:{port}/x.png",
    "127.0.0.1:{port}/x.png",
    "s3://another-bucket/x.png",
    "s3://127.0.0.1:{port}/x.png",
    "s3://../x.png",
    "s3://arn:aws:s3:::another-bucket/x.png",
    "inputs/../../etc/passwd",
)


def addresses(port: int) -> list[str]:
    """All of them, over HTTP and HTTPS where that makes a difference; some 110."""
    hosts = [f"{scheme}://{host}" for scheme in ("https", "http") for host in HOSTS]
    return [f"{host}:{port}/x.png" for host in hosts] + [each.format(port=port) for each in OTHERS]


class Listener:
    """Waits on `port` for connections that should never come, as long as the block runs."""

    def __init__(self) -> None:
        # They stand in the kernel's queue until they are counted; nobody is answered.
        self._socket = _any_address()
        self._socket.setblocking(False)
        self.port: int = self._socket.getsockname()[1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._socket.close()

    def count(self) -> int:
        """Connections since the last count."""
        number = 0
        with suppress(BlockingIOError):
            while True:
                self._socket.accept()[0].close()
                number += 1
        return number


def _any_address() -> socket.socket:
    if socket.has_dualstack_ipv6():
        return socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))
