"""TLS in front of a Redis that has none: certificates, and a proxy that ends the encryption."""

from __future__ import annotations

import select
import socket
import ssl
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Self

import trustme

HOST = "127.0.0.1"
HANDSHAKE = b"\x16"
"""The first byte of TLS, with which no command of Redis begins."""
CHUNK_BYTES = 65_536
TICK_SECONDS = 0.05
HANDSHAKE_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Papers:
    """Paths: an authority's certificate, and a client's certificate and key made by it."""

    ca: Path
    cert: Path
    key: Path


def papers(authority: trustme.CA, folder: Path, name: str = "client") -> Papers:
    """Write them into the folder."""
    made = Papers(folder / f"{name}-ca.pem", folder / f"{name}.pem", folder / f"{name}.key")
    authority.cert_pem.write_to_path(str(made.ca))
    issued = authority.issue_cert(f"{name}@example.org")
    made.key.write_bytes(issued.private_key_pem.bytes())
    made.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    return made


class TlsProxy:
    """Listens on a port of its own and passes on what it has decrypted.

    Clients have to show a certificate of `authority`, unless `wants_certificate` is False. With
    `takes_plain` who begins otherwise than by a handshake is passed on as well: sentinels and
    replicas know a server by the port that clients know.
    """

    def __init__(
        self,
        target_port: int,
        authority: trustme.CA,
        *,
        name: str = "localhost",
        is_expired: bool = False,
        wants_certificate: bool = True,
        newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
        takes_plain: bool = False,
    ) -> None:
        now = datetime.now(UTC)
        end = now - timedelta(days=1) if is_expired else now + timedelta(days=1)
        issued = authority.issue_cert(name, not_before=now - timedelta(days=9), not_after=end)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.maximum_version = newest
        issued.configure_cert(self._context)
        if wants_certificate:
            authority.configure_trust(self._context)
            self._context.verify_mode = ssl.CERT_REQUIRED
        self._takes_plain = takes_plain
        self._target_port = target_port
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(TICK_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self.num_connections = 0
        self._is_closed = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_closed = True
        self._listener.close()
        for thread in self._threads:
            thread.join(5)

    def point_to(self, port: int) -> None:
        """New connections go there."""
        self._target_port = port

    def _start(self, target: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="tls-proxy", daemon=True)
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._start(self._join, client)

    def _join(self, client: socket.socket) -> None:
        """One thread for both directions: a TLS connection bears no two at once."""
        client.settimeout(HANDSHAKE_SECONDS)
        with suppress(OSError), client:
            # A handshake that fails tells the client why, as servers do and asyncio does not.
            if self._takes_plain and client.recv(1, socket.MSG_PEEK) != HANDSHAKE:
                encrypted = client
            else:
                encrypted = self._context.wrap_socket(client, server_side=True)
            server = socket.create_connection((HOST, self._target_port))
            with encrypted, server:
                for end in (encrypted, server):
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    end.settimeout(None)
                self.num_connections += 1
                self._pump(encrypted, server)

    def _pump(self, client: socket.socket, server: socket.socket) -> None:
        while not self._is_closed:
            is_read = isinstance(client, ssl.SSLSocket) and client.pending()
            ready = [client] if is_read else self._readable(client, server)
            for source in ready:
                data = source.recv(CHUNK_BYTES)
                if not data:
                    return
                (server if source is client else client).sendall(data)

    def _readable(self, *ends: socket.socket) -> list[socket.socket]:
        return select.select(ends, (), (), TICK_SECONDS)[0]
