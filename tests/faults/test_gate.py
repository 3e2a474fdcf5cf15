"""The HTTP gate, between a plain client and a store that keeps what it is given."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any

import pytest

from tests.faults.gate import HOST, Gate
from tests.faults.store_faults import Kind, StoreFault
from tests.support.waiting import wait_until

RESULT = "/visionq/results/11111111-1111-1111-1111-111111111111.json"
TASK_ID = "11111111-1111-1111-1111-111111111111"
ABC_DIGEST = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""Of b"abc", from FIPS 180's examples."""
EMPTY_DIGEST = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
DELAY_SECONDS = 0.3


class Store(ThreadingHTTPServer):
    """Keeps objects by path and query; takes nothing under /denied/."""

    daemon_threads = True

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.hosts: list[str] = []
        super().__init__((HOST, 0), _Handler)

    @property
    def port(self) -> int:
        return int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.hosts.append(self.headers["Host"])
        if self.path.startswith("/denied/"):
            self._reply(403, b"<Error/>")
        else:
            self.server.objects[self.path] = body
            self._reply(200, b"")

    def do_GET(self) -> None:
        self._reply(200, self.server.objects[self.path])

    do_HEAD = do_GET  # noqa: N815  # the base class's name

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("ETag", '"etag"')
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def gate(store: Store) -> Iterator[Gate]:
    with Gate(store.port, seed=1) as gate:
        yield gate


@pytest.fixture
def client(gate: Gate) -> Iterator[http.client.HTTPConnection]:
    with closing(http.client.HTTPConnection(HOST, gate.port, timeout=10)) as connection:
        yield connection


def ask(
    client: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    client.request(method, path, body)
    reply = client.getresponse()
    return reply.status, reply.read()


def test_requests_and_answers_pass(client: http.client.HTTPConnection, store: Store) -> None:
    assert ask(client, "PUT", "/visionq/inputs/a?x-id=Put", b"abc") == (200, b"")
    assert store.objects == {"/visionq/inputs/a?x-id=Put": b"abc"}
    assert ask(client, "GET", "/visionq/inputs/a?x-id=Put") == (200, b"abc")


def test_host_is_the_one_that_was_signed(
    client: http.client.HTTPConnection, gate: Gate, store: Store
) -> None:
    ask(client, "PUT", "/visionq/inputs/a", b"abc")
    assert store.hosts == [f"{HOST}:{gate.port}"]


def test_head_has_the_headers_and_no_body(client: http.client.HTTPConnection) -> None:
    ask(client, "PUT", "/visionq/inputs/a", b"abc")
    client.request("HEAD", "/visionq/inputs/a")
    reply = client.getresponse()
    assert (reply.status, reply.read()) == (200, b"")
    assert (reply.headers["Content-Length"], reply.headers["ETag"]) == ("3", '"etag"')
    assert ask(client, "GET", "/visionq/inputs/a") == (200, b"abc")


def test_stored_results_are_recorded_in_their_order(
    client: http.client.HTTPConnection, gate: Gate
) -> None:
    assert not gate.has(TASK_ID)
    before = monotonic()
    ask(client, "PUT", RESULT, b"abc")
    ask(client, "PUT", RESULT + "?x-id=PutObject", b"")
    puts = gate.puts()[TASK_ID]
    assert [put.digest for put in puts] == [ABC_DIGEST, EMPTY_DIGEST]
    assert before <= puts[0].at <= puts[1].at <= monotonic()
    assert gate.has(TASK_ID)
    assert gate.num_stored == 1


def test_only_results_that_the_store_has_taken_are_recorded(
    client: http.client.HTTPConnection, gate: Gate
) -> None:
    ask(client, "PUT", "/visionq/inputs/a.json", b"abc")
    ask(client, "PUT", "/visionq/results/no-json", b"abc")
    assert ask(client, "PUT", f"/denied/results/{TASK_ID}.json", b"abc") == (403, b"<Error/>")
    assert gate.num_stored == 0


def test_errors_do_not_reach_the_store(
    client: http.client.HTTPConnection, gate: Gate, store: Store
) -> None:
    gate.answer_errors(1.0)
    statuses = {ask(client, "PUT", RESULT, b"abc")[0] for _ in range(20)}
    assert statuses == {500, 503}
    assert gate.num_errors == 20
    assert not store.objects
    assert not gate.has(TASK_ID)
    gate.passing()
    assert ask(client, "PUT", RESULT, b"abc") == (200, b"")


def test_errors_are_about_their_share(client: http.client.HTTPConnection, gate: Gate) -> None:
    gate.answer_errors(0.3)
    num_errors = sum(ask(client, "PUT", RESULT, b"abc")[0] != 200 for _ in range(200))
    assert num_errors == gate.num_errors
    assert 40 <= num_errors <= 80  # three standard deviations around 60


def test_replies_are_delayed_and_requests_are_not(
    client: http.client.HTTPConnection, gate: Gate, store: Store
) -> None:
    gate.delay(DELAY_SECONDS)
    began = monotonic()
    client.request("PUT", RESULT, b"abc")
    wait_until(lambda: RESULT in store.objects, what="the request to arrive")
    assert monotonic() - began < DELAY_SECONDS
    assert client.getresponse().read() == b""
    assert monotonic() - began >= DELAY_SECONDS


def test_swallowed_puts_are_stored_and_not_answered(
    client: http.client.HTTPConnection, gate: Gate, store: Store
) -> None:
    gate.swallow_puts(2)
    for _ in range(2):
        with pytest.raises(http.client.RemoteDisconnected):
            ask(client, "PUT", RESULT, b"abc")
    assert store.objects[RESULT] == b"abc"
    assert ask(client, "PUT", RESULT, b"abc") == (200, b"")
    assert [put.digest for put in gate.puts()[TASK_ID]] == [ABC_DIGEST] * 3


def test_only_results_are_swallowed(client: http.client.HTTPConnection, gate: Gate) -> None:
    gate.swallow_puts(1)
    assert ask(client, "PUT", "/visionq/inputs/a", b"abc") == (200, b"")
    assert ask(client, "GET", "/visionq/inputs/a") == (200, b"abc")


def test_a_store_that_is_not_there_is_a_hang_up() -> None:
    with socket.create_server((HOST, 0)) as listener:
        free_port = listener.getsockname()[1]
    with (
        Gate(free_port, seed=1) as gate,
        closing(http.client.HTTPConnection(HOST, gate.port, timeout=2)) as client,
        pytest.raises(http.client.RemoteDisconnected),
    ):
        ask(client, "PUT", RESULT, b"abc")


def test_half_a_request_of_a_killed_sender_is_dropped(gate: Gate, store: Store) -> None:
    head = f"PUT {RESULT} HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\n"
    with socket.create_connection((HOST, gate.port), timeout=2) as sender:
        sender.sendall(head.encode() + b"ab")
        sender.shutdown(socket.SHUT_WR)
        assert sender.recv(1) == b""
    assert not store.objects
    assert not gate.has(TASK_ID)


KEY = "/visionq/inputs/a"
CONTENT = b"0123456789" * 3


@pytest.fixture
def stored(client: http.client.HTTPConnection) -> http.client.HTTPConnection:
    """A client, with an object in the store."""
    ask(client, "PUT", KEY, CONTENT)
    return client


def broken(client: http.client.HTTPConnection, method: str = "GET", path: str = KEY) -> bytes:
    """What came until the reply broke off."""
    client.request(method, path)
    try:
        client.getresponse().read()
    except http.client.IncompleteRead as error:
        return error.partial
    finally:
        client.close()
    raise AssertionError("it came whole")


def test_fault_is_of_its_operation_and_its_keys(
    stored: http.client.HTTPConnection, gate: Gate
) -> None:
    gate.misbehave(StoreFault(kind="status", methods=frozenset({"GET"}), prefix="inputs/"))
    assert ask(stored, "GET", KEY)[0] == 503
    assert ask(stored, "PUT", KEY, CONTENT) == (200, b"")
    ask(stored, "PUT", "/visionq/results/a", b"a")
    assert ask(stored, "GET", "/visionq/results/a") == (200, b"a")
    gate.passing()
    assert ask(stored, "GET", KEY) == (200, CONTENT)


def test_fault_comes_so_often(stored: http.client.HTTPConnection, gate: Gate) -> None:
    gate.misbehave(StoreFault(kind="status", status=429, code="", times=2))
    assert [ask(stored, "GET", KEY) for _ in range(3)] == [(429, b"")] * 2 + [(200, CONTENT)]
    assert gate.num_errors == 2


@pytest.mark.parametrize(("share", "came"), [(0, 0), (1 / 3, 10), (2 / 3, 20)])
@pytest.mark.parametrize("kind", ["cut", "chunked_cut"])
def test_body_is_cut(
    stored: http.client.HTTPConnection, gate: Gate, kind: Kind, share: float, came: int
) -> None:
    gate.misbehave(StoreFault(kind=kind, share=share))
    assert broken(stored) == CONTENT[:came]


def test_body_stalls_until_the_gate_passes(stored: http.client.HTTPConnection, gate: Gate) -> None:
    gate.misbehave(StoreFault(kind="stalled", share=1 / 3))
    stored.request("GET", KEY)
    reply = stored.getresponse()
    assert reply.read(10) == CONTENT[:10]
    gate.passing()
    with pytest.raises(http.client.IncompleteRead):
        reply.read()
    stored.close()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("chunked", CONTENT),
        ("unsized", CONTENT),
        ("slow", CONTENT),
        ("wrong", bytes(byte ^ 0x55 for byte in CONTENT)),
        ("page", b"<html>Please log in</html>"),
    ],
)
def test_body_is_framed_or_filled_in_another_way(
    stored: http.client.HTTPConnection, gate: Gate, kind: Kind, content: bytes
) -> None:
    gate.misbehave(StoreFault(kind=kind))
    assert ask(stored, "GET", KEY) == (200, content)


@pytest.mark.parametrize(("kind", "is_stored"), [("lost", True), ("hang_up", False)])
def test_reply_does_not_come_and_the_store_has_heard_or_not(
    stored: http.client.HTTPConnection, gate: Gate, store: Store, kind: Kind, is_stored: bool
) -> None:
    gate.misbehave(StoreFault(kind=kind))
    with pytest.raises(http.client.RemoteDisconnected):
        ask(stored, "PUT", RESULT, b"abc")
    assert (RESULT in store.objects) is is_stored
    assert gate.has(TASK_ID) is is_stored


def test_faults_are_chosen_one_request_at_a_time(
    stored: http.client.HTTPConnection, gate: Gate
) -> None:
    fault = StoreFault(kind="status", status=500)
    gate.misbehave_as(lambda method, key: fault if (method, key) == ("GET", "inputs/a") else None)
    assert ask(stored, "GET", KEY)[0] == 500
    assert ask(stored, "PUT", KEY, CONTENT) == (200, b"")
    assert gate.requests[-2:] == [("GET", "inputs/a"), ("PUT", "inputs/a")]
