"""A store that misbehaves per operation, before the real one: typed errors, in bounded time."""

from __future__ import annotations

import asyncio
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import monotonic
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest

from tests.client.hand_worker import HandWorker
from tests.faults.gate import Gate
from tests.faults.store_faults import Kind, StoreFault
from tests.support.waiting import wait_until
from visionq import AsyncClient, Client, StoreAddress
from visionq.contract import State
from visionq.errors import (
    InvalidImage,
    ObjectMissing,
    ObjectTooLarge,
    ResultUnreadable,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    WrongClock,
)
from visionq.local import LocalUrls
from visionq.names import result_key
from visionq.objects import ObjectStore

TIMEOUT_SECONDS = 0.4
BOUND_SECONDS = 12 * TIMEOUT_SECONDS + 4
"""Four tries at most of two reads each, boto3's pauses, and a machine that is busy."""
KEY = "inputs/misbehaving"
CONTENT = random.Random(7).randbytes(3_000)
GET, PUT, HEAD = frozenset({"GET"}), frozenset({"PUT"}), frozenset({"HEAD"})
GETS_OBJECT: list[Callable[[ObjectStore], object]] = [
    lambda store: store.get(KEY),
    lambda store: store.get(KEY, max_bytes=len(CONTENT)),
    lambda store: store.get_checked(KEY),
    lambda store: store.get_start(KEY, 10_000),
]
BODIES: list[StoreFault] = [
    *(StoreFault(kind="cut", share=share) for share in (0, 1 / 3, 2 / 3, 0.999)),
    *(StoreFault(kind="stalled", share=share) for share in (0, 1 / 3, 2 / 3, 0.999)),
    *(StoreFault(kind="chunked_cut", share=share) for share in (0, 1 / 3, 2 / 3, 0.999)),
    StoreFault(kind="slow"),
    StoreFault(kind="unsized"),
]
ODD_REPLIES = [
    (400, "RequestTimeout"),
    (400, "ThrottlingException"),
    (404, ""),
    (405, "MethodNotAllowed"),
    (409, "OperationAborted"),
    (418, "Unheard"),
    (429, ""),
    (429, "TooManyRequests"),
    (500, "InternalError"),
    (501, "NotImplemented"),
    (502, ""),
    (503, "SlowDown"),
    (504, ""),
]
REFUSALS = [
    (400, "ExpiredToken"),
    (400, "KMS.DisabledException"),
    (401, ""),
    (403, "AccessDenied"),
    (403, "InvalidAccessKeyId"),
]
WRONG_CLOCKS = [(400, "RequestExpired"), (403, "RequestTimeTooSkewed")]


@pytest.fixture(scope="module")
def gate(address: StoreAddress) -> Iterator[Gate]:
    port = urlsplit(address.endpoint_url or "").port
    assert port is not None
    with Gate(port, seed=1) as gate:
        yield gate


@pytest.fixture(scope="module")
def before(gate: Gate, address: StoreAddress) -> StoreAddress:
    """Of the store behind the gate."""
    return replace(address, endpoint_url=f"http://127.0.0.1:{gate.port}")


@pytest.fixture(scope="module")
def opened(before: StoreAddress) -> Iterator[ObjectStore]:
    store = ObjectStore(before, timeout_seconds=TIMEOUT_SECONDS)
    store.put(KEY, CONTENT)
    yield store
    store.close()


@pytest.fixture
def store(opened: ObjectStore, gate: Gate) -> Iterator[ObjectStore]:
    yield opened
    gate.passing()


def bounded(call: Callable[[], object]) -> Exception | None:
    """What the call raises."""
    began = monotonic()
    try:
        call()
    except Exception as error:
        return error
    finally:
        assert monotonic() - began < BOUND_SECONDS
    return None


@pytest.mark.parametrize("fault", BODIES, ids=lambda fault: f"{fault.kind}-{fault.share:.2f}")
def test_body_that_does_not_come_whole_passes(
    store: ObjectStore, gate: Gate, fault: StoreFault
) -> None:
    for get in GETS_OBJECT:
        gate.misbehave(replace(fault, methods=GET))
        assert type(bounded(lambda get=get: get(store))) is StorageUnavailable  # type: ignore[misc]
        gate.passing()
        assert get(store) == CONTENT, "whatever is left on the connections is not read"


@pytest.mark.parametrize("fault", BODIES, ids=lambda fault: f"{fault.kind}-{fault.share:.2f}")
def test_body_that_does_not_come_whole_once_is_asked_for_again(
    store: ObjectStore, gate: Gate, fault: StoreFault
) -> None:
    for get in GETS_OBJECT:
        gate.misbehave(replace(fault, times=1, methods=GET))
        assert get(store) == CONTENT


@pytest.mark.parametrize("kind", ["longer", "chunked"])
@pytest.mark.parametrize("get", GETS_OBJECT)
def test_body_that_is_framed_in_another_way_comes_whole(
    store: ObjectStore, gate: Gate, kind: Kind, get: Callable[[ObjectStore], object]
) -> None:
    gate.misbehave(StoreFault(kind=kind, methods=GET))
    for _ in range(3):
        assert get(store) == CONTENT


def test_object_of_unsaid_length_is_read_up_to_the_limit(store: ObjectStore, gate: Gate) -> None:
    gate.misbehave(StoreFault(kind="chunked", methods=GET))
    assert store.get(KEY, max_bytes=len(CONTENT)) == CONTENT
    with pytest.raises(ObjectTooLarge):
        store.get(KEY, max_bytes=len(CONTENT) - 1)


@pytest.mark.parametrize("kind", ["wrong", "page"])
def test_other_bytes_are_found_out_where_they_are_looked_for(
    store: ObjectStore, gate: Gate, kind: Kind
) -> None:
    gate.misbehave(StoreFault(kind=kind, methods=GET))
    with pytest.raises(StorageUnavailable):
        store.get_checked(KEY)
    gate.misbehave(StoreFault(kind=kind, methods=GET, times=1))
    assert store.get_checked(KEY) == CONTENT


def test_object_with_an_encoding_comes_as_it_was_stored(
    store: ObjectStore, gate: Gate, before: StoreAddress
) -> None:
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=before.endpoint_url,
        region_name=before.region,
        aws_access_key_id=before.access_key,
        aws_secret_access_key=before.secret_key,
    )
    client.put_object(Bucket=before.bucket, Key=KEY, Body=CONTENT, ContentEncoding="gzip")
    client.close()
    for get in GETS_OBJECT:
        assert get(store) == CONTENT


@pytest.mark.parametrize("num_bytes", [0, 1])
def test_start_of_a_tiny_object(store: ObjectStore, num_bytes: int) -> None:
    store.put("inputs/tiny", b"x" * num_bytes)
    assert store.get_start("inputs/tiny", 10) == b"x" * num_bytes
    assert store.get("inputs/tiny") == b"x" * num_bytes


def test_empty_image_of_the_store_is_no_image(
    store: ObjectStore, urls: LocalUrls, before: StoreAddress, namespace: str
) -> None:
    store.put("inputs/empty", b"")
    with (
        Client(urls.broker_url, before, namespace=namespace) as client,
        pytest.raises(InvalidImage),
    ):
        client.estimate("ocr", "inputs/empty")


OPERATIONS: list[tuple[str, Callable[[ObjectStore], object]]] = [
    ("GET", lambda store: store.get(KEY)),
    ("GET", lambda store: store.get_checked(KEY)),
    ("GET", lambda store: store.get_start(KEY, 10)),
    ("PUT", lambda store: store.put(KEY, CONTENT)),
    ("PUT", lambda store: store.put_new(KEY, CONTENT)),
    ("PUT", lambda store: store.put_input(b"an upload of its own")),
    ("DELETE", lambda store: store.delete("inputs/other")),
]


@pytest.mark.parametrize(("method", "call"), OPERATIONS)
@pytest.mark.parametrize("kind", ["hang_up", "mute"])
def test_operation_that_gets_no_reply_passes(
    store: ObjectStore,
    gate: Gate,
    method: str,
    call: Callable[[ObjectStore], object],
    kind: Kind,
) -> None:
    store.delete(store.put_input(b"an upload of its own"))
    gate.misbehave(StoreFault(kind=kind, methods=frozenset({method})))
    assert isinstance(bounded(lambda: call(store)), StorageUnavailable)


@pytest.mark.parametrize(("method", "call"), OPERATIONS)
def test_odd_replies_pass_and_refusals_are_denied(
    store: ObjectStore, gate: Gate, method: str, call: Callable[[ObjectStore], object]
) -> None:
    store.delete(store.put_input(b"an upload of its own"))
    expected = {StorageUnavailable: ODD_REPLIES, StorageDenied: REFUSALS, WrongClock: WRONG_CLOCKS}
    for kind, replies in expected.items():
        for status, code in replies:
            fault = StoreFault(kind="status", methods=frozenset({method}), status=status, code=code)
            gate.misbehave(fault)
            error = bounded(lambda: call(store))
            assert type(error) is kind, (status, code, error)
            assert isinstance(error, StorageError)
            assert error.status == status


@pytest.mark.parametrize(
    "call",
    [
        *(call for _, call in OPERATIONS if call is not OPERATIONS[-1][1]),
        lambda store: store.exists(KEY),
        lambda store: store.get_checked(KEY, trusts_etag=False),
        lambda store: list(store.pages("inputs/")),
        lambda store: store.put(KEY, CONTENT * 100),
    ],
)
def test_page_to_log_in_is_no_reply_of_a_store(
    store: ObjectStore, gate: Gate, call: Callable[[ObjectStore], object]
) -> None:
    """A proxy answers each request by 200 and a page: nothing was read, stored or listed."""
    gate.misbehave(StoreFault(kind="portal"))
    error = bounded(lambda: call(store))
    assert type(error) is StorageUnavailable
    assert "something else has answered" in str(error) or "lacks 'IsTruncated'" in str(error)


@pytest.mark.parametrize("kind", ["lost", "status", "hang_up"])
def test_put_that_fails_once_is_made_again(store: ObjectStore, gate: Gate, kind: Kind) -> None:
    for number, put in enumerate((store.put, store.put_new)):
        key = f"inputs/again-{kind}-{number}"
        store.delete(key)
        gate.misbehave(StoreFault(kind=kind, methods=PUT, times=1))
        put(key, CONTENT)
        assert store.get(key) == CONTENT


def test_who_may_only_write_can_upload(store: ObjectStore, gate: Gate) -> None:
    gate.misbehave(StoreFault(kind="status", methods=HEAD | GET, status=403, code=""))
    key = store.put_input(b"of a producer that may only write")
    gate.misbehave(StoreFault(kind="status", status=403, code="AccessDenied"))
    with pytest.raises(StorageDenied, match="AccessDenied"):
        store.put_input(b"of one that may not")
    gate.passing()
    assert store.get(key) == b"of a producer that may only write"


def test_upload_looks_again_at_what_it_was_told_nothing_about(
    store: ObjectStore, gate: Gate
) -> None:
    """A HEAD that says 404 of what is there costs an upload; one that is refused is no answer."""
    gate.misbehave(StoreFault(kind="status", methods=HEAD, status=404, code=""))
    key = store.put_input(CONTENT)
    gate.misbehave(StoreFault(kind="status", methods=HEAD, status=503, code=""))
    assert isinstance(bounded(lambda: store.put_input(CONTENT)), StorageUnavailable)
    gate.passing()
    assert store.get(key) == CONTENT


def any_fault(choose: random.Random) -> StoreFault:
    kinds: list[Kind] = ["status", "status", "status", "status"]
    kinds += ["hang_up", "lost", "cut", "chunked", "chunked_cut", "longer", "unsized", "page"]
    kinds += ["portal"]
    kind = choose.choice(kinds)
    status = choose.choice([choose.randrange(300, 600), *(status for status, _ in ODD_REPLIES)])
    codes = ["", "Unheard", *(code for _, code in ODD_REPLIES + REFUSALS)]
    return StoreFault(kind=kind, status=status, code=choose.choice(codes), share=choose.random())


@pytest.mark.parametrize("seed", [1, 2, 101, 105])
def test_any_mix_of_faults_gives_typed_errors_and_true_answers(
    store: ObjectStore, gate: Gate, seed: int
) -> None:
    choose = random.Random(seed)

    def fault(method: str, key: str) -> StoreFault | None:
        return any_fault(choose) if choose.random() < 0.5 else None

    gate.misbehave_as(fault)
    key = f"inputs/mixed-{seed}"
    contents = [b"%d" % number * 100 for number in range(25)]
    calls: list[Callable[[], object]] = [lambda: store.put(key, b"first")]
    for content in contents:
        calls += [
            lambda: store.get_checked(KEY),
            lambda: store.exists(KEY),
            lambda: store.get_start(KEY, 10_000),
            partial(store.put, key, content),
        ]
    errors, num_right = [], 0
    for call in calls:
        try:
            answer = call()
        except StorageError as error:
            errors.append(error)
        else:
            num_right += 1
            # Of a HEAD's 404 nothing tells whether it is the object's.
            assert answer in (None, True, False, CONTENT)
    assert errors
    assert num_right
    assert not any(isinstance(error, ObjectMissing) for error in errors)
    gate.passing()
    assert store.get(KEY) == CONTENT
    assert store.get(key) in (b"first", *contents)


@pytest.fixture
def behind(urls: LocalUrls, before: StoreAddress, namespace: str, gate: Gate) -> Iterator[Client]:
    """A client of the store that misbehaves."""
    with Client(
        urls.broker_url, before, namespace=namespace, store_timeout_seconds=TIMEOUT_SECONDS
    ) as client:
        yield client
    gate.passing()


ONCE_AWAY = [
    StoreFault(kind="cut", share=1 / 3),
    StoreFault(kind="stalled"),
    StoreFault(kind="wrong"),
    StoreFault(kind="page"),
    StoreFault(kind="hang_up"),
    StoreFault(kind="status", status=429, code=""),
    StoreFault(kind="status", status=404, code=""),
    StoreFault(kind="status", status=503),
]


def release_later(gate: Gate) -> threading.Thread:
    """The store behaves again after a few requests."""

    def release() -> None:
        seen = len(gate.requests)
        wait_until(lambda: len(gate.requests) >= seen + 4, seconds=20)
        gate.passing()

    thread = threading.Thread(target=release)
    thread.start()
    return thread


@pytest.mark.parametrize("fault", ONCE_AWAY, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_answer_is_waited_for_while_the_store_misbehaves(
    behind: Client, worker: HandWorker, gate: Gate, key: str, fault: StoreFault
) -> None:
    handle = behind.ocr(key)
    worker.succeed(handle.id)
    gate.misbehave(replace(fault, methods=GET))
    thread = release_later(gate)
    assert behind.result(handle.id, 20).text == "a hand-made answer"
    thread.join()


@pytest.mark.parametrize("fault", ONCE_AWAY, ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_answer_that_cannot_be_read_in_time_is_a_typed_error(
    behind: Client, worker: HandWorker, gate: Gate, key: str, fault: StoreFault
) -> None:
    handle = behind.ocr(key)
    worker.succeed(handle.id)
    gate.misbehave(replace(fault, methods=GET))
    for timeout in (0, 0.5, None):
        error = bounded(lambda timeout=timeout: behind.result(handle.id, timeout))  # type: ignore[misc]
        assert type(error) is StorageUnavailable


@pytest.mark.parametrize("timeout", [0, 0.3])
def test_silent_store_is_asked_once_where_that_uses_the_time_up(
    behind: Client, worker: HandWorker, gate: Gate, key: str, timeout: float
) -> None:
    """One try is two requests, each of which takes the store's time-out."""
    handle = behind.ocr(key)
    worker.succeed(handle.id)
    gate.misbehave(StoreFault(kind="mute", methods=GET))
    num_before = len(gate.requests)
    assert type(bounded(lambda: behind.result(handle.id, timeout))) is StorageUnavailable
    assert len(gate.requests) - num_before <= 2


def test_asyncio_client_waits_as_well(
    urls: LocalUrls,
    before: StoreAddress,
    behind: Client,
    worker: HandWorker,
    gate: Gate,
    key: str,
) -> None:
    handle = behind.ocr(key)
    worker.succeed(handle.id)

    async def read(timeout: float) -> Any:
        async with AsyncClient(
            urls.broker_url,
            before,
            namespace=worker.names.namespace,
            store_timeout_seconds=TIMEOUT_SECONDS,
        ) as client:
            return (await client.result(handle.id, timeout)).text

    gate.misbehave(StoreFault(kind="cut", methods=GET))
    error = bounded(lambda: asyncio.run(read(0.3)))
    assert isinstance(error, StorageUnavailable)
    thread = release_later(gate)
    assert asyncio.run(read(20)) == "a hand-made answer"
    thread.join()


def test_result_that_is_spoilt_in_the_store_is_unreadable_at_once(
    behind: Client, worker: HandWorker, key: str
) -> None:
    handle = behind.ocr(key)
    worker.store.put(result_key(handle.id), b"{")
    worker.end(handle.id, State.SUCCESS)
    began = monotonic()
    with pytest.raises(ResultUnreadable):
        behind.result(handle.id, 20)
    assert monotonic() - began < 5


def test_results_that_do_not_come_hold_up_nothing_else(
    urls: LocalUrls, before: StoreAddress, namespace: str, gate: Gate
) -> None:
    """300 coroutines ask for tasks without a record, and the store is silent."""

    async def submit_meanwhile() -> str:
        async with AsyncClient(urls.broker_url, before, namespace=namespace) as client:
            ids = [str(uuid.uuid4()) for _ in range(300)]
            asking = [asyncio.create_task(client.status(task_id)) for task_id in ids]
            while not gate.num_errors > num_errors:
                await asyncio.sleep(0.01)
            handle = await asyncio.wait_for(client.ocr(KEY), BOUND_SECONDS)
            for one in asking:
                one.cancel()
            gate.passing()
            return handle.id

    gate.misbehave(StoreFault(kind="mute", methods=GET, prefix="results/"))
    num_errors = gate.num_errors
    try:
        assert asyncio.run(submit_meanwhile())
    finally:
        gate.passing()


@pytest.mark.parametrize("fault", ONCE_AWAY[4:], ids=lambda fault: f"{fault.kind}-{fault.status}")
def test_image_that_cannot_be_uploaded_is_a_typed_error(
    behind: Client, gate: Gate, fault: StoreFault
) -> None:
    gate.misbehave(replace(fault, methods=PUT))
    error = bounded(lambda: behind.ocr(b"\xff\xd8 misbehaving"))
    assert isinstance(error, StorageUnavailable)


class _SlowReader(BaseHTTPRequestHandler):
    """A store on a slow line: takes 10 MB a second at most, and nothing under some keys."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        left = int(self.headers["Content-Length"])
        pause = threading.Event()
        while left and "stalled" not in self.path:
            left -= len(self.rfile.read(min(left, 500_000)))
            pause.wait(0.05)
        pause.wait(SECONDS_WITHOUT_READING if left else 0)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.send_header("ETag", '"of-no-md5"')
        self.end_headers()

    def handle_expect_100(self) -> bool:
        """The leave to go on never comes."""
        return True

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class _SlowServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        """Who was given up on is no error here."""


SECONDS_WITHOUT_READING = 5.0
SLOW_TIMEOUT_SECONDS = 1.0
"""More than what the buffers on the way hold takes."""


@pytest.fixture
def slow(before: StoreAddress) -> Iterator[ObjectStore]:
    with _SlowServer(("127.0.0.1", 0), _SlowReader) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        store = ObjectStore(
            replace(before, endpoint_url=f"http://127.0.0.1:{server.server_address[1]}"),
            timeout_seconds=SLOW_TIMEOUT_SECONDS,
        )
        yield store
        store.close()
        server.shutdown()
        thread.join()


def test_large_object_may_take_longer_than_the_time_out_on_a_slow_line(slow: ObjectStore) -> None:
    began = monotonic()
    slow.put("inputs/large", bytes(25_000_000))
    assert monotonic() - began > 1.5 * SLOW_TIMEOUT_SECONDS
    assert slow.put_new("inputs/large", bytes(25_000_000))


def test_large_object_that_the_store_does_not_take_passes(slow: ObjectStore) -> None:
    error = bounded(lambda: slow.put("inputs/stalled", bytes(20_000_000)))
    assert type(error) is StorageUnavailable


def test_leave_to_send_that_never_comes_is_not_waited_for(
    slow: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By boto3, which asks for it: where the environment names the endpoint."""
    endpoint_url = slow._doors.get().client.meta.endpoint_url
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint_url)
    store = ObjectStore(StoreAddress(bucket="b", access_key="key", secret_key="secret"))
    assert store._doors.get().signed is None
    assert bounded(lambda: store.put("inputs/a", b"x")) is None
    assert bounded(lambda: store.put("inputs/a", bytes(200_000))) is None
    store.close()
