"""An HTTP proxy in front of the S3 server: sees every result that is stored, and can misbehave.

All workers store through it, so what it has seen the server accept is the truth about which result
was written when, how often, and with which bytes. Nothing that polls the bucket could tell that.
"""

from __future__ import annotations

import hashlib
import http.client
import random
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic, sleep
from types import TracebackType
from typing import Any, Self
from urllib.parse import unquote

from tests.faults.store_faults import HOP_BY_HOP, PAGE, StoreFault, head_of
from visionq.names import RESULT_FOLDER

HOST = "127.0.0.1"
PATIENCE_SECONDS = 60.0
ERROR_BODY = b"<Error><Code>SlowDown</Code><Message>a fault of the test's</Message></Error>"
OK = 200
PARTIAL = 206


@dataclass(frozen=True, slots=True)
class Put:
    """A result that the store has accepted."""

    at: float
    digest: str


class Gate:
    """Listens on a port of its own, `port`, as long as the block runs."""

    def __init__(self, target_port: int, *, seed: int) -> None:
        self._target_port = target_port
        self._random = random.Random(seed)
        self._lock = threading.Lock()
        self._puts: dict[str, list[Put]] = {}
        self._error_share = 0.0
        self._delay_seconds = 0.0
        self._num_to_swallow = 0
        self._faults: list[StoreFault] = []
        self._choose: Callable[[str, str], StoreFault | None] = lambda method, key: None
        self.released = threading.Event()
        self.num_errors = 0
        self.requests: list[tuple[str, str]] = []
        self._server = _Server(self)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        self._server.close_connections()

    @property
    def num_stored(self) -> int:
        """Of how many tasks a result was stored."""
        return len(self._puts)

    def puts(self) -> Mapping[str, list[Put]]:
        """What was stored, by task, in its order."""
        with self._lock:
            return {task_id: list(puts) for task_id, puts in self._puts.items()}

    def has(self, task_id: str) -> bool:
        return task_id in self._puts

    def passing(self) -> None:
        self._error_share = self._delay_seconds = 0.0
        self._num_to_swallow = 0
        with self._lock:
            self._faults = []
            self._choose = lambda method, key: None
        self.released.set()

    def misbehave(self, *faults: StoreFault) -> None:
        """Of each request, the first fault that is meant for it, until `passing`."""
        self.released.clear()
        with self._lock:
            self._faults = list(faults)

    def misbehave_as(self, choose: Callable[[str, str], StoreFault | None]) -> None:
        """By method and key, one request at a time."""
        self.released.clear()
        self._choose = choose

    def answer_errors(self, share: float) -> None:
        """That share of requests is answered 500 or 503, and does not reach the store."""
        self._error_share = share

    def delay(self, seconds: float) -> None:
        """Each reply waits so long."""
        self._delay_seconds = seconds

    def swallow_puts(self, count: int) -> None:
        """The store takes the next so many results, and the connection ends without a reply."""
        self._num_to_swallow = count

    # From here on: the server's threads.

    def error(self) -> int | None:
        """The status with which this request is to be turned away."""
        with self._lock:
            if self._random.random() >= self._error_share:
                return None
            self.num_errors += 1
            return self._random.choice((500, 503))

    def fault(self, method: str, path: str) -> StoreFault | None:
        """What is to be done to this request, if anything."""
        key = key_of(path)
        with self._lock:
            self.requests.append((method, key))
            for fault in self._faults:
                if fault.is_for(method, key):
                    if fault.times is not None:
                        self._faults.remove(fault)
                        if fault.times > 1:
                            self._faults.insert(0, replace(fault, times=fault.times - 1))
                    self.num_errors += 1
                    return fault
            chosen = self._choose(method, key)
            self.num_errors += chosen is not None
            return chosen

    def forward(self, method: str, path: str, headers: Any, body: bytes) -> _Answer | None:
        """The store's answer. None: hang up instead."""
        try:
            answer = _ask(self._target_port, method, path, headers, body)
        except (OSError, http.client.HTTPException):
            return None
        sleep(self._delay_seconds)
        task_id = _result_of(path)
        if method != "PUT" or answer.status != OK or task_id is None:
            return answer
        put = Put(monotonic(), digest_of(body))
        with self._lock:
            self._puts.setdefault(task_id, []).append(put)
            if self._num_to_swallow:
                self._num_to_swallow -= 1
                return None
        return answer


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes


def _ask(port: int, method: str, path: str, headers: Any, body: bytes) -> _Answer:
    connection = http.client.HTTPConnection(HOST, port, timeout=30)
    try:
        connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        for name, value in headers.items():
            if name.lower() not in HOP_BY_HOP:
                connection.putheader(name, value)
        connection.endheaders(body)
        reply = connection.getresponse()
        return _Answer(reply.status, reply.getheaders(), reply.read())
    finally:
        connection.close()


def key_of(path: str) -> str:
    """The key in a path-style URL; empty for the bucket."""
    return unquote(path.partition("?")[0].removeprefix("/").partition("/")[2])


def digest_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _result_of(path: str) -> str | None:
    folder, _, name = path.partition("?")[0].rpartition("/")
    is_result = folder.endswith(f"/{RESULT_FOLDER}") and name.endswith(".json")
    return name.removesuffix(".json") if is_result else None


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._open: set[socket.socket] = set()
        super().__init__((HOST, 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        self._open.add(request)
        try:
            super().finish_request(request, client_address)
        finally:
            self._open.discard(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed is no error here."""

    def close_connections(self) -> None:
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def do_GET(self) -> None:
        self._pass_on()

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815  # the base class's names

    def _pass_on(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size)
        if len(body) < size:  # its sender was killed
            self.close_connection = True
            return
        gate = self.server.gate
        status, fault = gate.error(), gate.fault(self.command, self.path)
        answer: _Answer | None
        if status is not None:
            answer = _Answer(status, [("Content-Type", "application/xml")], ERROR_BODY)
        elif fault is not None:
            answer = self._misbehave(fault, body)
        else:
            answer = gate.forward(self.command, self.path, self.headers, body)
        if answer is None:
            self.close_connection = True
        else:
            self._reply(answer)

    def _misbehave(self, fault: StoreFault, body: bytes) -> _Answer | None:
        """What is still to be answered. None: hang up."""
        if fault.kind == "status":
            return _Answer(fault.status, [("Content-Type", "application/xml")], fault.error_body())
        if fault.kind == "portal":
            return _Answer(OK, [("Content-Type", "text/html")], PAGE)
        if fault.kind == "mute":
            self.server.gate.released.wait(PATIENCE_SECONDS)
        if fault.kind in ("hang_up", "mute"):
            return None
        answer = self.server.gate.forward(self.command, self.path, self.headers, body)
        if answer is None or fault.kind == "lost":
            return None
        if answer.status not in (OK, PARTIAL) or self.command != "GET":
            return answer
        fault.send(
            self.wfile, answer.status, answer.headers, answer.body, self.server.gate.released
        )
        return None

    def _reply(self, answer: _Answer) -> None:
        is_head = self.command == "HEAD"
        length = {name.lower(): value for name, value in answer.headers}.get("content-length")
        size = length if is_head and length else str(len(answer.body))
        self.wfile.write(head_of(answer.status, answer.headers, {"Content-Length": size}))
        self.wfile.write(b"" if is_head else answer.body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the base class's name
        """Nothing: the scene has its own log."""
