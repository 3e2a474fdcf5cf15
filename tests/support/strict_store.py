"""A store that honours `If-None-Match: *`, or refuses what its key may not do: the embedded one,
behind a proxy that minds it.
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

PASSED_ON = ("content-type", "content-length", "etag", "x-amz-request-id")


@contextmanager
def strict_store(
    endpoint_url: str, refuses: Mapping[str, tuple[int, str]] = MappingProxyType({})
) -> Iterator[str]:
    """The URL of the proxy, as long as the block runs. `refuses`: status and code by method, and of
    "conditional" for a PUT with a condition.
    """
    host = urlsplit(endpoint_url).netloc
    known: set[str] = set()
    deciding = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            pass

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            with deciding:
                is_conditional = "If-None-Match" in self.headers
                what = "conditional" if is_conditional else self.command
                if what in refuses:
                    status, code = refuses[what]
                    self.answer(status, f"<Error><Code>{code}</Code></Error>".encode(), {})
                    return
                if self.headers.get("If-None-Match") == "*" and self.path in known:
                    self.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>", {})
                    return
                status, content, headers = self.ask(body)
                if self.command == "PUT" and status == 200:
                    known.add(self.path)
                if self.command == "DELETE":
                    known.discard(self.path)
            self.answer(status, content, headers)

        def ask(self, body: bytes) -> tuple[int, bytes, dict[str, str]]:
            connection = http.client.HTTPConnection(host, timeout=10)
            try:
                # The signature covers the Host header: the store has to see the proxy's.
                connection.putrequest(
                    self.command, self.path, skip_host=True, skip_accept_encoding=True
                )
                for name, value in self.headers.items():
                    if name.lower() not in ("connection", "expect"):
                        connection.putheader(name, value)
                connection.endheaders(body)
                reply = connection.getresponse()
                headers = {name.lower(): value for name, value in reply.getheaders()}
                return reply.status, reply.read(), headers
            finally:
                connection.close()

        def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name in PASSED_ON:
                if name in headers and name != "content-length":
                    self.send_header(name, headers[name])
            length = headers.get("content-length", "0")
            is_head = self.command == "HEAD"
            self.send_header("Content-Length", length if is_head else str(len(content)))
            self.end_headers()
            if not is_head:
                self.wfile.write(content)

        do_GET = do_PUT = do_HEAD = do_DELETE = pass_on  # noqa: N815 the library's names

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
