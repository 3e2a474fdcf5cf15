"""A store that misbehaves per operation: no task ends by it, and the worker goes on by itself."""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from time import monotonic
from urllib.parse import urlsplit

import pytest
import redis

from tests.faults.gate import Gate
from tests.faults.store_faults import StoreFault
from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.picture_bytes import DOT, DOT_DIGEST
from tests.worker.test_reconciler import Office
from tests.worker.workbench import Workbench, workbench
from visionq import StoreAddress
from visionq.broker import Publisher
from visionq.contract import FailureCode, ImageRef, Result, State, Task
from visionq.errors import (
    ObjectMissing,
    StorageDenied,
    StorageError,
    StorageUnavailable,
    WrongClock,
)
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.errors import Postponed, TaskError
from visionq_worker.gate import StoreGate
from visionq_worker.sources import Source, Sources

TIMEOUT_SECONDS = 0.4
SECONDS = 30.0
BACK_SECONDS = 5.0
"""Within which the worker goes on when the store does: a probe, at most two of boto3's pauses."""
GET, PUT = frozenset({"GET"}), frozenset({"PUT"})
BOTH = GET | PUT
REFUSED_TO_THE_WORKER = ("ExpiredToken", "RequestTimeTooSkewed", "AccessDenied")
"""Perhaps to this one alone: it hands on what it has answered."""
KINDS = [
    StoreFault(kind="status"),
    StoreFault(kind="status", status=429, code=""),
    StoreFault(kind="status", status=404, code=""),
    StoreFault(kind="status", status=400, code="Unheard"),
    StoreFault(kind="status", status=400, code="ExpiredToken"),
    StoreFault(kind="status", status=403, code="RequestTimeTooSkewed"),
    StoreFault(kind="status", status=403, code="AccessDenied"),
    StoreFault(kind="status", status=404, code="NoSuchBucket"),
    StoreFault(kind="hang_up"),
    StoreFault(kind="mute"),
    StoreFault(kind="portal"),
]
BODIES = [
    StoreFault(kind="cut", share=1 / 3),
    StoreFault(kind="cut", share=2 / 3),
    StoreFault(kind="stalled"),
    StoreFault(kind="slow"),
    StoreFault(kind="wrong"),
    StoreFault(kind="page"),
]


def named(fault: StoreFault) -> str:
    return f"{fault.kind}-{fault.status}-{fault.code}-{fault.share:.1f}"


@pytest.fixture(scope="module")
def gate(address: StoreAddress) -> Iterator[Gate]:
    port = urlsplit(address.endpoint_url or "").port
    assert port is not None
    with Gate(port, seed=1) as gate:
        yield gate


@pytest.fixture(scope="module")
def opened(gate: Gate, address: StoreAddress) -> Iterator[ObjectStore]:
    behind = replace(address, endpoint_url=f"http://127.0.0.1:{gate.port}")
    store = ObjectStore(behind, timeout_seconds=TIMEOUT_SECONDS)
    yield store
    store.close()


@pytest.fixture
def store(opened: ObjectStore, gate: Gate) -> Iterator[ObjectStore]:
    yield opened
    gate.passing()


@pytest.fixture
def bench(records: Records, store: ObjectStore) -> Workbench:
    return workbench(ScriptedEngine(), records, store)


def opens(bench: Workbench) -> bool:
    """As the housekeeping tries it again and again."""
    if not bench.store_gate.is_open:
        try:
            bench.store_gate.probe(bench.store)
        except StorageError:
            return False
    return bench.store_gate.is_open


def assert_postponed(bench: Workbench, task: Task) -> None:
    with pytest.raises(Postponed) as caught:
        bench.executor.execute(task)
    assert caught.value.is_noted
    status = bench.status(task)
    assert status.state is State.RETRY
    assert status.failure is not None
    assert status.failure.code == "storage_unavailable"


@pytest.mark.parametrize("fault", KINDS + BODIES, ids=named)
def test_task_whose_image_cannot_be_read_waits_for_the_store(
    bench: Workbench, gate: Gate, fault: StoreFault
) -> None:
    task = bench.task()
    gate.misbehave(replace(fault, methods=GET))
    for _ in range(2):
        assert_postponed(bench, task)
    assert bench.engine.requests == []
    if fault.kind != "wrong":  # which passes where nobody looks closer
        assert not bench.store_gate.is_open
        bench.store.check_bucket()
        assert not opens(bench), "the bucket's HEAD works, and its objects cannot be read"
    gate.passing()
    wait_until(lambda: opens(bench), seconds=BACK_SECONDS)
    assert bench.run(task).state is State.SUCCESS


@pytest.mark.parametrize("fault", KINDS, ids=named)
def test_task_without_a_record_waits_until_results_can_be_read(
    bench: Workbench, gate: Gate, fault: StoreFault
) -> None:
    task = bench.task(is_submitted=False)
    gate.misbehave(replace(fault, methods=GET, prefix="results/"))
    with pytest.raises(Postponed):
        bench.executor.execute(task)
    assert not bench.store_gate.is_open
    bench.store.check_bucket()
    assert not opens(bench), "the bucket's HEAD works, and no result can be read"
    gate.passing()
    wait_until(lambda: opens(bench), seconds=BACK_SECONDS)
    assert bench.run(task).state is State.SUCCESS


def test_result_of_one_task_without_a_record_that_cannot_be_read_keeps_only_that_waiting(
    bench: Workbench, gate: Gate
) -> None:
    task = bench.task(is_submitted=False)
    gate.misbehave(
        StoreFault(kind="status", status=500, code="", methods=GET, prefix=task.result_key)
    )
    with pytest.raises(Postponed):
        bench.executor.execute(task)
    assert bench.store_gate.is_open
    gate.passing()
    assert bench.run(task).state is State.SUCCESS


@pytest.mark.parametrize("keeps_results", [False, True])
@pytest.mark.parametrize("fault", [*KINDS, StoreFault(kind="lost")], ids=named)
def test_answer_that_cannot_be_stored_is_kept(
    records: Records, store: ObjectStore, gate: Gate, fault: StoreFault, keeps_results: bool
) -> None:
    bench = workbench(ScriptedEngine(), records, store, keeps_results=keeps_results)
    task = bench.task()
    gate.misbehave(replace(fault, methods=PUT))
    with ThreadPoolExecutor(1) as pool:
        answering = pool.submit(bench.executor.execute, task)
        try:
            wait_until(lambda: not bench.store_gate.is_open, seconds=SECONDS)
            bench.store.check_bucket()
            assert not opens(bench)
            assert not bench.state(task).is_final
        finally:
            gate.passing()
        if fault.code in REFUSED_TO_THE_WORKER:
            with pytest.raises(Postponed):
                answering.result(SECONDS)
            assert isinstance(bench.executor.execute(task), Result), "by whoever takes it next"
        else:
            assert isinstance(answering.result(SECONDS), Result)
    wait_until(lambda: opens(bench), seconds=BACK_SECONDS)
    assert bench.state(task) is State.SUCCESS
    assert bench.status(task).failure is None
    assert len(bench.engine.requests) == 1
    stored = bench.stored(task)
    assert stored is not None
    assert stored.provenance is not None


@pytest.mark.parametrize("fault", KINDS[:4] + KINDS[8:9] + BODIES[:3], ids=named)
def test_trouble_with_one_key_keeps_only_its_task(
    bench: Workbench, gate: Gate, fault: StoreFault
) -> None:
    other = bench.store.put_input(DOT + b"\0")
    task = bench.task(images=(ImageRef(ref=other),))
    gate.misbehave(replace(fault, methods=GET, prefix=other))
    assert_postponed(bench, task)
    if fault.kind != "hang_up":  # where nothing was answered, a second look says so
        assert bench.store_gate.is_open
    wait_until(lambda: opens(bench), seconds=BACK_SECONDS)
    assert bench.run(bench.task()).state is State.SUCCESS
    gate.passing()
    assert bench.run(task).state is State.SUCCESS


@pytest.mark.parametrize("code", ["AccessDenied", "", "InvalidObjectState"])
def test_key_that_the_store_refuses_is_its_tasks_fault(
    bench: Workbench, gate: Gate, code: str
) -> None:
    """As S3 says as well of a key that is not there, where the bucket may not be listed."""
    refused = f"inputs/{'0' * 64}"
    task = bench.task(images=(ImageRef(ref=refused),))
    gate.misbehave(StoreFault(kind="status", status=403, code=code, methods=GET, prefix=refused))
    result = bench.run(task)
    assert result.failure is not None
    assert result.failure.code == "input_missing"
    assert "may not be read, or it is not there" in result.failure.message
    assert bench.store_gate.is_open


def test_refusal_of_all_keys_where_missing_ones_are_refused_as_well(
    bench: Workbench, gate: Gate
) -> None:
    """Nothing may be listed, and the object that we ask for in its place is not there yet."""
    bench.store.delete("inputs/probe")
    refused = f"inputs/{'0' * 64}"

    def choose(method: str, key: str) -> StoreFault | None:
        is_missing = key == refused or (key == "inputs/probe" and not has_probe())
        if method != "GET" or not is_missing:
            return None
        return StoreFault(kind="status", status=403, code="AccessDenied")

    def has_probe() -> bool:
        return ("PUT", "inputs/probe") in gate.requests[start:]

    start = len(gate.requests)
    gate.misbehave_as(choose)
    result = bench.run(bench.task(images=(ImageRef(ref=refused),)))
    assert result.failure is not None
    assert result.failure.code == "input_missing"


def test_refused_credentials_are_reported_once_and_nothing_is_lost(
    bench: Workbench, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    tasks = [bench.task() for _ in range(3)]
    gate.misbehave(StoreFault(kind="status", status=400, code="ExpiredToken", methods=BOTH))
    with caplog.at_level(logging.WARNING):
        for task in tasks * 3:
            assert_postponed(bench, task)
    (error,) = [each for each in caplog.records if each.levelno == logging.ERROR]
    assert "ExpiredToken" in error.getMessage()
    assert "those accepted are kept" in error.getMessage()
    gate.passing()
    wait_until(lambda: opens(bench), seconds=BACK_SECONDS)
    for task in tasks:
        assert bench.run(task).state is State.SUCCESS


def test_folder_that_may_neither_be_read_nor_written_ends_no_task(
    bench: Workbench, gate: Gate
) -> None:
    """What is refused cannot be told there, and the worker goes on with what it can do."""
    task = bench.task()
    gate.misbehave(
        StoreFault(kind="status", status=403, code="AccessDenied", methods=BOTH, prefix="inputs/")
    )
    assert_postponed(bench, task)
    assert bench.store_gate.is_open
    gate.passing()
    assert bench.run(task).state is State.SUCCESS


def test_pauses_of_a_task_that_waits_for_the_store_are_bounded(
    bench: Workbench, gate: Gate, raw: redis.Redis, names: Names
) -> None:
    """And however often it has waited, it is answered at last."""
    task = bench.task()
    gate.misbehave(StoreFault(kind="status", status=500, code="", methods=GET))
    for _ in range(8):
        assert_postponed(bench, task)
    due = float(raw.hget(names.record(task.id), "due") or "inf")
    now, _ = raw.time()
    assert due - now <= 12 * 0.05 + 1
    gate.passing()
    assert bench.run(task).state is State.SUCCESS


def test_result_of_an_earlier_attempt_that_is_refused_is_taken_for_missing(
    bench: Workbench, gate: Gate
) -> None:
    task = bench.task()
    bench.records.start(task, owner="lost", max_new_tokens=10)
    gate.misbehave(
        StoreFault(
            kind="status", status=403, code="AccessDenied", methods=GET, prefix=task.result_key
        )
    )
    assert bench.run(task).state is State.SUCCESS
    assert bench.store_gate.is_open


@pytest.mark.parametrize("fault", BODIES, ids=named)
def test_result_of_an_earlier_attempt_is_not_replaced_for_one_bad_reading(
    bench: Workbench, gate: Gate, raw: redis.Redis, names: Names, fault: StoreFault
) -> None:
    task = bench.task()
    first = bench.run(task)
    raw.hdel(names.record(task.id), "result")
    raw.hset(names.record(task.id), "state", "STARTED")
    gate.misbehave(replace(fault, methods=GET, prefix="results/"))
    assert_postponed(bench, task)
    gate.passing()
    wait_until(lambda: opens(bench), seconds=BACK_SECONDS)
    assert bench.run(task) == first
    assert len(bench.engine.requests) == 1


@pytest.mark.parametrize(
    ("status", "code"), [(501, "NotImplemented"), (400, "InvalidArgument"), (412, "")]
)
def test_condition_that_the_store_refuses_at_last_keeps_no_answer(
    records: Records, store: ObjectStore, gate: Gate, status: int, code: str
) -> None:
    """It was honoured when the worker started. 412: of what is not there."""
    bench = workbench(ScriptedEngine(), records, store, keeps_results=True)
    task = bench.task()
    num_refusals = 2 if status == 412 else 3
    fault = StoreFault(
        kind="status", status=status, code=code, methods=PUT, prefix="results/", times=num_refusals
    )
    gate.misbehave(fault)
    assert bench.run(task).state is State.SUCCESS
    assert bench.stored(task) is not None


def own(store: ObjectStore) -> Sources:
    class NoPins:
        def pinned(self, task_id: str, number: int) -> str | None:
            return None

        def pin(self, task_id: str, number: int, key: str) -> str:
            return key

    return Sources(store, NoPins(), allowed_buckets=("elsewhere",), max_bytes=1_000_000)


ELSEWHERE = ImageRef(ref="s3://elsewhere/a.png")


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (403, "AccessDenied", TaskError),
        (404, "NoSuchBucket", TaskError),
        (404, "NoSuchKey", TaskError),
        (403, "ExpiredToken", StorageDenied),
        (403, "RequestTimeTooSkewed", WrongClock),
        (503, "SlowDown", StorageUnavailable),
        (404, "", StorageUnavailable),
        (400, "Unheard", StorageUnavailable),
    ],
)
def test_other_bucket_that_is_refused_is_the_tasks_fault_and_an_outage_is_not(
    store: ObjectStore, gate: Gate, status: int, code: str, kind: type[Exception]
) -> None:
    gate.misbehave(StoreFault(kind="status", status=status, code=code, methods=GET, prefix="a.png"))
    with pytest.raises(kind) as caught:
        own(store).fetch(str(uuid.uuid4()), 0, ELSEWHERE)
    if isinstance(caught.value, TaskError):
        assert caught.value.code is FailureCode.INPUT_MISSING


def test_object_of_any_name_is_taken_when_it_comes_the_same_twice(
    store: ObjectStore, gate: Gate
) -> None:
    """An ETag that is no MD5 looks like one on some stores."""
    store.put("inputs/named", DOT)
    sources, image = own(store), ImageRef(ref="inputs/named")
    gate.misbehave(StoreFault(kind="wrong", methods=GET, times=1))
    assert sources.fetch(str(uuid.uuid4()), 0, image) == Source(DOT, DOT_DIGEST)
    gate.misbehave(StoreFault(kind="wrong", methods=GET))
    assert sources.fetch(str(uuid.uuid4()), 0, image).content == bytes(b ^ 0x55 for b in DOT)


def test_gate_reports_what_somebody_has_to_mend_also_when_it_is_found_later(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = StoreGate()
    with caplog.at_level(logging.WARNING):
        gate.shut(StorageUnavailable("away"))
        gate.shut(StorageUnavailable("away"))
        gate.shut(StorageDenied("refused (AccessDenied)"))
        gate.shut(StorageDenied("refused (AccessDenied)"))
        gate.open()
    assert [each.levelno for each in caplog.records] == [
        logging.WARNING,
        logging.ERROR,
        logging.WARNING,
    ]


ANY_CODES = ["", "Unheard", "SlowDown", "InternalError", "AccessDenied", "ExpiredToken"]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("methods", [GET, PUT, BOTH], ids=["GET", "PUT", "both"])
def test_any_mix_of_replies_ends_no_task_and_replaces_no_result(
    bench: Workbench, gate: Gate, methods: frozenset[str], seed: int
) -> None:
    choose = random.Random(seed)

    def fault(method: str, _key: str) -> StoreFault | None:
        if method not in methods or choose.random() < 0.5:
            return None
        if choose.random() < 0.4:
            return replace(choose.choice(BODIES[:2] + BODIES[4:]), share=choose.random())
        status = choose.choice([400, 403, 404, 409, 429, 500, 501, 502, 503, 507])
        return StoreFault(kind="status", status=status, code=choose.choice(ANY_CODES))

    tasks = [bench.task() for _ in range(6)]
    ended: dict[str, Result] = {}

    def work_off(until: Callable[[], bool]) -> None:
        while len(ended) < len(tasks) and not until():
            for task in tasks:
                if task.id not in ended and opens(bench):
                    try:
                        result = bench.executor.execute(task)
                    except Postponed:
                        continue
                    assert isinstance(result, Result)
                    ended[task.id] = result

    gate.misbehave_as(fault)
    deadline = monotonic() + 6
    work_off(lambda: monotonic() > deadline)
    gate.passing()
    deadline = monotonic() + SECONDS
    work_off(lambda: monotonic() > deadline)
    assert [ended[task.id].state for task in tasks] == [State.SUCCESS] * len(tasks)
    assert all(bench.stored(task) == ended[task.id] for task in tasks)
    assert all(len({put.digest for put in puts}) == 1 for puts in gate.puts().values())


def test_missing_image_is_still_missing(bench: Workbench) -> None:
    result = bench.run(bench.task(images=(ImageRef(ref="inputs/nothing"),)))
    assert result.failure is not None
    assert (result.failure.code, result.failure.message) == (
        "input_missing",
        "an input image is not there",
    )
    with pytest.raises(ObjectMissing):
        bench.store.get("inputs/nothing")


def test_housekeeping_goes_on_when_the_store_takes_objects_again(
    bench: Workbench, gate: Gate, raw: redis.Redis, names: Names, urls: LocalUrls
) -> None:
    """The results of cancelled tasks are pending; one of them finds the store away for all."""
    publisher = Publisher(urls.broker_url, names, timeout_seconds=2)
    office = Office(bench, raw, names, publisher)
    tasks = [bench.task() for _ in range(4)]
    for task in tasks:
        assert bench.records.cancel(task.id) is State.REVOKED
    gate.misbehave(StoreFault(kind="hang_up", methods=PUT))
    office.look()
    assert not bench.store_gate.is_open
    assert len({key for method, key in gate.requests if method == "PUT" and is_of(key, tasks)}) == 1
    office.look()
    assert not bench.store_gate.is_open, "the bucket's HEAD works"
    gate.passing()
    wait_until(lambda: office.look() or bench.store_gate.is_open, seconds=BACK_SECONDS)  # type: ignore[func-returns-value]
    office.look()
    publisher.close()
    assert all(bench.stored(task) is not None for task in tasks)


def is_of(key: str, tasks: Iterable[Task]) -> bool:
    return key in {task.result_key for task in tasks}
