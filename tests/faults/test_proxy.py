"""The TCP proxy, between plain sockets and a server that sends back what it gets."""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

import pytest

from tests.faults.proxy import HOST, TICK_SECONDS, Proxy
from tests.support.waiting import wait_until

SILENCE_SECONDS = 5 * TICK_SECONDS
DELAY_SECONDS = 0.3


class Echo(socketserver.ThreadingTCPServer):
    """Sends back what it gets. `heard` is all of it, `num_ended` how many have hung up."""

    daemon_threads = True

    def __init__(self) -> None:
        self.heard = b""
        self.num_ended = 0
        super().__init__((HOST, 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(socketserver.BaseRequestHandler):
    server: Echo

    def handle(self) -> None:
        try:
            while data := self.request.recv(65_536):
                self.server.heard += data
                self.request.sendall(data)
        except ConnectionError:
            pass
        self.server.num_ended += 1


@pytest.fixture
def echo() -> Iterator[Echo]:
    with Echo() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def proxy(echo: Echo) -> Iterator[Proxy]:
    with Proxy(echo.port) as proxy:
        yield proxy


@contextmanager
def connected(proxy: Proxy) -> Iterator[socket.socket]:
    """A client that waits for two seconds at most."""
    with socket.create_connection((HOST, proxy.port), timeout=2) as client:
        yield client


def answer(client: socket.socket, request: bytes) -> bytes:
    """All of the reply, which is as long as the request."""
    client.sendall(request)
    reply = b""
    while len(reply) < len(request):
        received = client.recv(65_536)
        assert received, "the connection has ended"
        reply += received
    return reply


def is_silent(client: socket.socket) -> bool:
    """Whether nothing comes, not even an end."""
    client.settimeout(SILENCE_SECONDS)
    try:
        client.recv(1)
    except TimeoutError:
        return True
    return False


def test_both_directions_pass(proxy: Proxy) -> None:
    with connected(proxy) as client:
        assert answer(client, b"ping") == b"ping"
        assert answer(client, b"0123456789" * 20_000) == b"0123456789" * 20_000


def test_an_end_is_passed_on(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        answer(client, b"ping")
    wait_until(lambda: echo.num_ended == 1, what="the server to see the end")


def test_replies_are_delayed_and_requests_are_not(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as client:
        proxy.delay(DELAY_SECONDS)
        began = monotonic()
        client.sendall(b"ping")
        wait_until(lambda: echo.heard == b"ping", what="the request to arrive")
        assert monotonic() - began < DELAY_SECONDS
        assert client.recv(4) == b"ping"
        assert monotonic() - began >= DELAY_SECONDS


def test_frozen_connections_are_silent_and_new_ones_pass(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as old, connected(proxy) as new:
        answer(old, b"before")
        proxy.freeze()
        old.sendall(b"after")
        assert is_silent(old)
        assert echo.heard == b"before"
        with connected(proxy) as newer:
            assert answer(newer, b"ping") == b"ping"
        assert is_silent(new)


def test_frozen_connections_stay_frozen(proxy: Proxy) -> None:
    with connected(proxy) as client:
        answer(client, b"before")
        proxy.freeze()
        proxy.passing()
        client.sendall(b"after")
        assert is_silent(client)


def test_new_connections_are_frozen_on_demand_and_until_told_otherwise(proxy: Proxy) -> None:
    proxy.freeze(new_too=True)
    with connected(proxy) as client:
        client.sendall(b"ping")
        assert is_silent(client)
    proxy.passing()
    with connected(proxy) as client:
        assert answer(client, b"ping") == b"ping"


def test_a_refusing_proxy_ends_connections_and_resets_new_ones(proxy: Proxy) -> None:
    with connected(proxy) as old:
        answer(old, b"ping")
        proxy.refuse()
        assert old.recv(1) == b""
        with pytest.raises(ConnectionResetError), connected(proxy) as new:
            new.recv(1)
        proxy.passing()
        with connected(proxy) as new:
            assert answer(new, b"ping") == b"ping"


def test_a_reset_is_one_and_new_connections_pass(proxy: Proxy, echo: Echo) -> None:
    with connected(proxy) as old:
        answer(old, b"ping")
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            old.recv(1)
        wait_until(lambda: echo.num_ended == 1, what="the server to see the reset")
        with connected(proxy) as new:
            assert answer(new, b"ping") == b"ping"


def test_replies_are_swallowed_from_a_certain_request_on(proxy: Proxy, echo: Echo) -> None:
    proxy.swallow_replies_to(b"LPUSH")
    with connected(proxy) as client, connected(proxy) as other:
        assert answer(client, b"PING") == b"PING"
        client.sendall(b"LPUSH")
        wait_until(lambda: echo.heard == b"PINGLPUSH", what="the request to arrive")
        assert is_silent(client)
        client.sendall(b"QUIT")
        assert is_silent(client)
        assert answer(other, b"PING") == b"PING"
        proxy.passing()
        client.settimeout(2)
        assert answer(client, b"PING") == b"PING"


def test_a_server_that_is_not_there_is_a_reset() -> None:
    with socket.create_server((HOST, 0)) as listener:
        free_port = listener.getsockname()[1]
    with (
        Proxy(free_port) as proxy,
        pytest.raises(ConnectionResetError),  # perhaps as soon as it connects
        connected(proxy) as client,
    ):
        client.recv(1)


def test_connections_end_with_the_block(echo: Echo) -> None:
    with Proxy(echo.port) as proxy:
        client = socket.create_connection((HOST, proxy.port), timeout=2)
        answer(client, b"ping")
    with client:
        assert client.recv(1) == b""
    wait_until(lambda: echo.num_ended == 1, what="the server to see the end")
