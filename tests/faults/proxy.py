"""A TCP proxy on loopback that can be told to misbehave while connections are open.

Two threads pump each connection, one per direction. Modes concern replies, which are what a client
waits for; what a client sends passes on in every mode but `frozen` and `refusing`. HTTP is looked
at by `gate.py`, which knows what an object is.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
from contextlib import suppress
from time import sleep
from types import TracebackType
from typing import Self

HOST = "127.0.0.1"
CHUNK_BYTES = 65_536
TICK_SECONDS = 0.02
"""How long a thread may not notice that its mode has changed, or that all is over."""

RST_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER on, for no time: closing sends a reset instead of an end."""


class Pair:
    """One client's connection and ours to the server for it."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.is_frozen = False
        self.is_swallowing = False
        self.is_closed = False
        self._closing = threading.Lock()
        # What has come from an end is not found out by a time-out of its socket's: the other thread
        # sends on that, and must not have one.
        self._readable = {end: _poll_of(end) for end in (client, server)}

    def has_come(self, end: socket.socket) -> bool:
        """Whether there is something to read, be it the end; waits a tick for it."""
        return bool(self._readable[end].poll(TICK_SECONDS * 1000))

    def close(self, *, with_reset: bool = False) -> None:
        """How they end is up to the first one who closes them."""
        with self._closing:
            if not self.is_closed:
                self.is_closed = True
                self._close(with_reset=with_reset)

    def _close(self, *, with_reset: bool) -> None:
        for end in (self.client, self.server):
            with suppress(OSError):
                if with_reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
                else:
                    end.shutdown(socket.SHUT_RDWR)
            with suppress(OSError):
                end.close()


def _poll_of(end: socket.socket) -> select.poll:
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return poll


class Proxy:
    """Listens on a port of its own, `port`, as long as the block runs."""

    def __init__(self, target_port: int) -> None:
        self._target = (HOST, target_port)
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(TICK_SECONDS)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: list[Pair] = []
        self._threads: list[threading.Thread] = []
        self._is_closed = False
        self._delay_seconds = 0.0
        self._is_refusing = False
        self._freezes_new = False
        self._needle: bytes | None = None

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
        for pair in self._taken():
            pair.close()
        for thread in self._threads:
            thread.join(5)

    def passing(self) -> None:
        """As if it were not there, for what comes from now on; frozen connections stay frozen."""
        self._delay_seconds, self._needle = 0.0, None
        self._is_refusing = self._freezes_new = False
        with self._lock:
            for pair in self._pairs:
                pair.is_swallowing = False

    def point_to(self, port: int) -> None:
        """New connections lead there; those there are stay where they are."""
        self._target = (HOST, port)

    def delay(self, seconds: float) -> None:
        """Each piece of a reply waits so long."""
        self._delay_seconds = seconds

    def freeze(self, *, new_too: bool = False) -> None:
        """The connections there are carry nothing any more, and nobody is told: half-open."""
        self._freezes_new = new_too
        with self._lock:
            for pair in self._pairs:
                pair.is_frozen = True

    def refuse(self) -> None:
        """Nobody listens: the connections there are end, new ones are refused."""
        self._is_refusing = True
        for pair in self._taken():
            pair.close()

    def reset(self) -> None:
        """RST on every connection there is; new ones pass."""
        for pair in self._taken():
            pair.close(with_reset=True)

    def swallow_replies_to(self, needle: bytes) -> None:
        """From a request that holds `needle` on, its connection gets no reply; the server does."""
        self._needle = needle

    def _taken(self) -> list[Pair]:
        with self._lock:
            pairs, self._pairs = self._pairs, []
        return pairs

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                client, _ = self._listener.accept()
            except TimeoutError:
                continue
            except OSError:
                return
            self._join(client)

    def _join(self, client: socket.socket) -> None:
        try:
            # A listener that stops listening would lose its port: it takes, and resets.
            if self._is_refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, timeout=2)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST_ON_CLOSE)
            client.close()
            return
        pair = Pair(client, server)
        pair.is_frozen = self._freezes_new
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(None)
        with self._lock:
            self._pairs.append(pair)
        self._start(self._pump, pair, client, server)
        self._start(self._pump, pair, server, client)

    def _start(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, name="proxy", daemon=True)  # type: ignore[arg-type]
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)
        thread.start()

    def _pump(self, pair: Pair, source: socket.socket, sink: socket.socket) -> None:
        is_request = source is pair.client
        while not (self._is_closed or pair.is_closed):
            if pair.is_frozen:
                sleep(TICK_SECONDS)
                continue
            if not pair.has_come(source):
                continue
            try:
                data = source.recv(CHUNK_BYTES)
            except OSError:
                break
            if not data:
                break
            if is_request:
                if self._needle is not None and self._needle in data:
                    pair.is_swallowing = True
            elif self._delay_seconds:
                sleep(self._delay_seconds)
            if pair.is_frozen or (pair.is_swallowing and not is_request):
                continue
            try:
                sink.sendall(data)
            except OSError:
                break
        pair.close()
        with self._lock:
            if pair in self._pairs:
                self._pairs.remove(pair)
