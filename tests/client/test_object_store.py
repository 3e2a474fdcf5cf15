"""The store's short way for whole objects: what it sends, and when boto3 takes over."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from visionq import StoreAddress
from visionq.errors import (
    ObjectMissing,
    ObjectTooLarge,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from visionq.objects import ObjectStore

ODD_KEYS = ["a b", "größe", "a?b=c&d", "a#b", "a+b", "100%", "a%20b", "x~y-z_.txt", "a'b(c)*!"]
ODD_KEYS += [
    " a",
    "a ",
    "a\u00a0b",
    "a\u202fb",
    "a\u3000b",
    "a\tb",
    "a#page=3",
    "a;b,c",
    "[a]{b}",
    "e\u0301",
]
ODD_KEYS += [
    "a\u2028b",
    "a\x85b",
    "a:b@c",
    "a|b^c`d",
    "漢字 名.png",
    '"a"<b>',
    "a\\b",
    "\U0001f600.png",
]
NO_KEY = b"<Error><Code>NoSuchKey</Code></Error>"
Answer = Callable[[BaseHTTPRequestHandler], None]


class ScriptedStore:
    """An HTTP server whose answers the test writes; it keeps the heads of all requests."""

    def __init__(self, answers: list[Answer]) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.answers = answers
        store = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def handle_any(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                self.rfile.read(int(headers.get("content-length", 0)))
                store.requests.append((self.command, self.path, headers))
                store.answers.pop(0)(self)

            do_GET = do_PUT = do_HEAD = handle_any  # noqa: N815 the library's names

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def scripted() -> Iterator[Callable[..., tuple[ScriptedStore, ObjectStore]]]:
    closing: list[Callable[[], None]] = []

    def make(*answers: Answer) -> tuple[ScriptedStore, ObjectStore]:
        server = ScriptedStore(list(answers))
        address = StoreAddress(
            bucket="b", endpoint_url=server.url, access_key="key", secret_key="secret"
        )
        store = ObjectStore(address, timeout_seconds=2.0)
        closing.extend([store.close, server.server.shutdown, server.server.server_close])
        return server, store

    yield make
    for close in closing:
        close()


def reply(status: int, content: bytes = b"", *, length: int | None = None) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Content-Length", str(len(content) if length is None else length))
        if status == 200:
            handler.send_header("ETag", '"of-no-md5"')
        handler.end_headers()
        handler.wfile.write(content)
        handler.close_connection = length is not None

    return answer


def hang_up(handler: BaseHTTPRequestHandler) -> None:
    handler.close_connection = True


@pytest.mark.parametrize("key", ODD_KEYS)
def test_any_key_comes_back_as_it_was_put(store: ObjectStore, key: str) -> None:
    store.put(f"odd/{key}", key.encode())
    assert store.get(f"odd/{key}") == key.encode()
    assert store.exists(f"odd/{key}")
    store.delete(f"odd/{key}")
    with pytest.raises(ObjectMissing):
        store.get(f"odd/{key}")


@pytest.mark.parametrize(
    ("key", "path"),
    [
        ("my photo.jpg", "/b/my%20photo.jpg"),
        ("a+b%20c", "/b/a%2Bb%2520c"),
        ("\u202f\u3000", "/b/%E2%80%AF%E3%80%80"),
        ("a#page=3?x=1", "/b/a%23page%3D3%3Fx%3D1"),
        ("/a//b/./c", "/b//a//b/./c"),
        ("a\n\x00", "/b/a%0A%00"),
    ],
)
def test_key_is_sent_letter_by_letter(scripted: Any, key: str, path: str) -> None:
    """By the short way, and by boto3, which is asked when that finds nothing."""
    server, store = scripted(reply(404, NO_KEY), reply(404, NO_KEY))
    with pytest.raises(ObjectMissing):
        store.get(key)
    assert [asked for _, asked, _ in server.requests] == [path, path]


@pytest.mark.parametrize("num_bytes", [0, 1, 3_000_000])
def test_object_of_any_size_comes_back_whole(store: ObjectStore, num_bytes: int) -> None:
    content = bytes(range(256)) * (num_bytes // 256) + b"x" * (num_bytes % 256)
    store.put("size", content)
    assert store.get("size", max_bytes=num_bytes) == content
    if num_bytes:
        with pytest.raises(ObjectTooLarge, match=rf"^size: {num_bytes} > {num_bytes - 1} bytes$"):
            store.get("size", max_bytes=num_bytes - 1)
    assert store.get("size") == content


def test_put_is_one_request_that_waits_for_no_leave(scripted: Any) -> None:
    server, store = scripted(reply(200))
    store.put("results/a.json", b"{}", "application/json")
    ((method, path, headers),) = server.requests
    assert (method, path) == ("PUT", "/b/results/a.json")
    assert "expect" not in headers
    assert headers["content-type"] == "application/json"
    assert headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=key/")


def test_get_is_one_request(scripted: Any) -> None:
    server, store = scripted(reply(200, b"content"))
    assert store.get("inputs/a") == b"content"
    assert [(method, path) for method, path, _ in server.requests] == [("GET", "/b/inputs/a")]


def test_connection_that_the_store_has_closed_is_replaced(scripted: Any) -> None:
    server, store = scripted(reply(200), hang_up, reply(200))
    store.put("a", b"1")
    store.put("b", b"2")
    assert [path for _, path, _ in server.requests] == ["/b/a", "/b/b", "/b/b"]


def test_object_that_breaks_off_is_asked_for_again(scripted: Any) -> None:
    _, store = scripted(reply(200, b"half", length=8), reply(200, b"complete"))
    assert store.get("a") == b"complete"


def test_answer_that_is_no_success_is_judged_by_boto3(scripted: Any) -> None:
    denied = b"<Error><Code>AccessDenied</Code></Error>"
    _, store = scripted(reply(403, denied), reply(403, denied))
    with pytest.raises(StorageDenied, match="AccessDenied"):
        store.get("a")
    _, store = scripted(*[reply(503)] * 3)
    with pytest.raises(StorageUnavailable):
        store.put("a", b"1")
    _, store = scripted(reply(503), reply(200))
    store.put("a", b"1")


def test_store_that_answers_nothing_is_unavailable(scripted: Any) -> None:
    _, store = scripted(hang_up, hang_up)
    with pytest.raises(StorageUnavailable, match="object store: "):
        store.put("a", b"1")


def test_store_without_keys_is_denied_without_a_request(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    server, _ = scripted()
    store = ObjectStore(StoreAddress(bucket="b", endpoint_url=server.url))
    for call in (lambda: store.get("a"), lambda: store.put("a", b"1")):
        with pytest.raises(StorageDenied, match="no access key is set"):
            call()
    store.close()
    assert server.requests == []


def test_endpoint_of_the_environment_is_left_to_boto3(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = scripted(reply(200, b"content"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", server.url)
    store = ObjectStore(StoreAddress(bucket="b", access_key="key", secret_key="secret"))
    assert store.get("inputs/a") == b"content"
    store.close()
    assert [path for _, path, _ in server.requests] == ["/b/inputs/a"]


@pytest.mark.parametrize(
    ("bucket", "url"),
    [
        ("pictures", "https://pictures.s3.eu-west-1.amazonaws.com/a%20b"),
        ("my.pictures", "https://s3.eu-west-1.amazonaws.com/my.pictures/a%20b"),
    ],
)
def test_bucket_on_aws_has_the_address_that_its_certificate_covers(bucket: str, url: str) -> None:
    store = ObjectStore(
        StoreAddress(bucket="other", region="eu-west-1", access_key="key", secret_key="secret")
    )
    signed = store._doors.get().signed
    assert signed is not None
    assert signed._url(bucket, "a b") == url
    store.close()


def test_error_types_are_those_of_the_store() -> None:
    assert all(
        issubclass(kind, StorageError)
        for kind in (ObjectMissing, ObjectTooLarge, StorageDenied, StorageUnavailable)
    )


MD5_OF_CONTENT = "9a0364b9e99bb480dd25e1f0284c8555"
KEY_OF_CONTENT = "inputs/ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"


def head(**headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()

    return answer


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "7", "ETag": f'"{MD5_OF_CONTENT}"'},
        # No MD5: uploaded in parts, or encrypted under a key of its owner's.
        {"Content_Length": "7", "ETag": '"00000000000000000000000000000000-2"'},
        {
            "Content_Length": "7",
            "ETag": f'"{"0" * 32}"',
            "x_amz_server_side_encryption_aws_kms_key_id": "key",
        },
        {
            "Content_Length": "7",
            "ETag": f'"{"0" * 32}"',
            "x_amz_server_side_encryption_customer_algorithm": "AES256",
        },
    ],
)
def test_input_that_is_there_costs_one_head(scripted: Any, headers: dict[str, str]) -> None:
    server, store = scripted(head(**headers))
    assert store.put_input(b"content") == KEY_OF_CONTENT
    assert [method for method, *_ in server.requests] == ["HEAD"]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content_Length": "6", "ETag": f'"{MD5_OF_CONTENT}"'},
        {"Content_Length": "0", "ETag": '"00000000000000000000000000000000-2"'},
        {"Content_Length": "7", "ETag": f'"{"0" * 32}"'},
    ],
)
def test_wrong_object_under_the_key_of_an_input_is_replaced(
    scripted: Any, headers: dict[str, str]
) -> None:
    server, store = scripted(head(**headers), reply(200))
    assert store.put_input(b"content") == KEY_OF_CONTENT
    assert [method for method, *_ in server.requests] == ["HEAD", "PUT"]


@pytest.mark.parametrize("wrong", [b"", b"x", b"Content", b"contents"])
def test_wrong_object_is_mended_in_the_embedded_store(store: ObjectStore, wrong: bytes) -> None:
    store.put(KEY_OF_CONTENT, wrong)
    store.put_input(b"content")
    assert store.get(KEY_OF_CONTENT) == b"content"
