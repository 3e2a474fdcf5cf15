"""What a foreign Celery application sends: carried out, refused by name, or dead-lettered.

Never lost, never the end of a worker, and whoever waits for it is told.
"""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import uuid
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery, chain, chord, group, signature
from celery.result import AsyncResult

from tests.support.foreign import opened_foreign_app
from tests.support.waiting import wait_until
from tests.support.workers import environment, running_worker
from visionq import Client, State, Status, StoreAddress
from visionq.connections import connect
from visionq.dead import DeadLetters
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore

REPOSITORY = Path(__file__).parents[2]
SECONDS = 30.0
NAMESPACE = "foreign"
NAMES = Names(NAMESPACE)
QUEUE = NAMES.queue("interactive")
THEIRS = "their-queue"
REF = "inputs/foreign.png"
TASK: dict[str, Any] = {
    "kind": "ocr",
    "images": [{"ref": REF}],
    "options": {"max_new_tokens": 1},
}


@pytest.fixture(scope="module", autouse=True)
def _worker(urls: LocalUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    log = tmp_path_factory.mktemp("foreign") / "log"
    more = {"VISIONQ_WORKER__CANVAS_QUEUES": json.dumps([THEIRS])}
    with running_worker(environment(urls, NAMESPACE, **more), log):
        yield


@pytest.fixture(autouse=True)
def _picture(store: ObjectStore, pictures: Path) -> None:
    if not store.exists(REF):
        store.put(REF, (pictures / "shelf_after.png").read_bytes())


@pytest.fixture
def visionq_client(urls: LocalUrls, address: StoreAddress) -> Iterator[Client]:
    with Client(urls.broker_url, address, namespace=NAMESPACE) as opened:
        yield opened


@pytest.fixture
def letters(urls: LocalUrls) -> Iterator[DeadLetters]:
    client = connect(urls.broker_url, timeout_seconds=2)
    yield DeadLetters(client, NAMES, ttl_seconds=600)
    client.close()


@pytest.fixture
def app(urls: LocalUrls, raw: redis.Redis) -> Iterator[Celery]:
    """Somebody else's application, with a default queue of its own."""
    raw.delete(THEIRS)
    with opened_foreign_app(urls, NAMESPACE) as app:
        yield app
    raw.delete(THEIRS)


def send(app: Celery, task: object = TASK, **options: Any) -> AsyncResult:
    return app.send_task("visionq.run", kwargs={"task": task}, **{"queue": QUEUE, **options})


def vision(app: Celery, task: object = TASK) -> Any:
    return signature("visionq.run", kwargs={"task": task}, queue=QUEUE, app=app)


def theirs(app: Celery, name: str = "their.task", **options: Any) -> Any:
    return signature(name, app=app).set(queue=THEIRS, **options)


def ended(result: AsyncResult) -> AsyncResult:
    wait_until(result.ready, seconds=SECONDS, what=f"an end of {result.id}")
    return result


def message(task_id: str, **changes: Any) -> dict[str, Any]:
    """As Celery pushes it. `headers` and `properties` among the changes are added to these."""
    body = json.dumps([[], {"task": TASK}, {}]).encode()
    made: dict[str, Any] = {
        "body": base64.b64encode(body).decode(),
        "content-type": "application/json",
        "content-encoding": "utf-8",
        "headers": {"lang": "py", "task": "visionq.run", "id": task_id},
        "properties": {
            "body_encoding": "base64",
            "correlation_id": task_id,
            "delivery_tag": task_id,
            "delivery_info": {"exchange": "", "routing_key": QUEUE},
            "priority": 0,
        },
    }
    for name in ("headers", "properties"):
        made[name] |= changes.pop(name, {})
    return made | changes


def is_settled(raw: redis.Redis) -> bool:
    return not raw.exists(NAMES.unacked(), NAMES.leases(), QUEUE)


@pytest.mark.parametrize("codec", ["gzip", "zlib", "bzip2", "lzma", "xz"])
def test_compressed_message_is_run(app: Celery, visionq_client: Client, codec: str) -> None:
    sent = ended(send(app, compression=codec))
    assert sent.state == "SUCCESS"
    assert visionq_client.status(sent.id).state is State.SUCCESS


def test_body_that_unpacks_to_too_much_is_refused_without_being_unpacked(
    app: Celery, visionq_client: Client, raw: redis.Redis
) -> None:
    packed = zlib.compress(b"[" + b" " * 200_000_000, 9)
    task_id = str(uuid.uuid4())
    bomb = message(
        task_id,
        body=base64.b64encode(packed).decode(),
        headers={"compression": "application/x-gzip"},
    )
    raw.lpush(QUEUE, json.dumps(bomb))
    assert "larger than" in str(ended(app.AsyncResult(task_id)).result)
    failure = visionq_client.status(task_id).failure
    assert failure is not None
    assert failure.code == "invalid_task"


HARMLESS: dict[str, dict[str, Any]] = {
    "delivery info is a string": {"properties": {"delivery_info": "x"}},
    "delivery info is a list": {"properties": {"delivery_info": [1]}},
    "delivery info holds lists": {
        "properties": {"delivery_info": {"exchange": [], "priority": {}}}
    },
    "no delivery info": {"properties": {"delivery_info": None}},
    "delivery tag is a number": {"properties": {"delivery_tag": 7}},
    "delivery tag is long": {"properties": {"delivery_tag": "x" * 100_000}},
    "delivery tag is of other characters": {"properties": {"delivery_tag": "\u0000\n#1"}},
    "priority is an object": {"properties": {"priority": {}}},
    "reply to is a list": {"properties": {"reply_to": [[]], "correlation_id": {}}},
    "headers of others": {"headers": {"shadow": 5, "retries": "x", "origin": [], "stamps": 3}},
    "reprs are numbers": {"headers": {"argsrepr": 5, "kwargsrepr": [], "lang": {}}},
}


@pytest.mark.parametrize("name", HARMLESS)
def test_what_is_not_needed_of_a_message_does_no_harm(
    app: Celery, visionq_client: Client, raw: redis.Redis, name: str
) -> None:
    task_id = str(uuid.uuid4())
    raw.lpush(QUEUE, json.dumps(message(task_id, **HARMLESS[name])))
    assert ended(app.AsyncResult(task_id)).state == "SUCCESS"
    assert visionq_client.status(task_id).state is State.SUCCESS
    wait_until(lambda: is_settled(raw), what="everything to be settled")


def test_half_a_surrogate_pair_is_refused(app: Celery, raw: redis.Redis) -> None:
    task_id = str(uuid.uuid4())
    raw.lpush(QUEUE, json.dumps(message(task_id, headers={"argsrepr": "\ud800"})))
    assert "surrogate" in str(ended(app.AsyncResult(task_id)).result)
    wait_until(lambda: is_settled(raw), what="everything to be settled")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "expires is no time": ({"headers": {"expires": "tomorrow"}}, "expires 'tomorrow'"),
    "expires in seconds from when": ({"headers": {"expires": 30}}, "expires 30"),
    "expires is a list": ({"headers": {"expires": []}}, "expires list"),
    "eta is a number": ({"headers": {"eta": 17}}, "eta 17"),
    "eta is far away": ({"headers": {"eta": "2999-01-01T00:00:00"}}, "86400"),
    "time limit is a string": ({"headers": {"timelimit": ["5", None]}}, "timelimit"),
    "ignore_result is a string": ({"headers": {"ignore_result": "yes"}}, "ignore_result"),
    "pickled": ({"content-type": "application/x-python-serialize"}, "only JSON"),
    "unknown charset": ({"content-encoding": "utf-7"}, "utf-7"),
    "unknown compression": ({"headers": {"compression": "zpaq"}}, "zpaq"),
    "unknown body encoding": ({"properties": {"body_encoding": "hex"}}, "hex"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_option_that_cannot_be_carried_out_is_refused_by_name(
    app: Celery, visionq_client: Client, store: ObjectStore, raw: redis.Redis, name: str
) -> None:
    changes, named = REFUSED[name]
    task_id = str(uuid.uuid4())
    raw.lpush(QUEUE, json.dumps(message(task_id, **changes)))
    sent = ended(app.AsyncResult(task_id))
    assert sent.state == "FAILURE"
    assert named in str(sent.result)
    failure = visionq_client.status(task_id).failure
    assert failure is not None
    assert failure.code == "unsupported_option"
    assert named in failure.message
    assert json.loads(store.get(f"results/{task_id}.json"))["state"] == "FAILURE"
    wait_until(lambda: is_settled(raw), what="everything to be settled")


def test_expired_task_is_not_run_and_its_sender_is_told(
    app: Celery, visionq_client: Client
) -> None:
    sent = ended(send(app, expires=-5))
    assert sent.state == "FAILURE"
    assert "deadline" in str(sent.result)
    assert visionq_client.status(sent.id).state is State.EXPIRED


@pytest.mark.parametrize("expires_first", [True, False])
def test_earlier_one_of_expires_and_deadline_counts(
    app: Celery, raw: redis.Redis, expires_first: bool
) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=60)
    late = soon + timedelta(hours=1)
    expires, deadline = (soon, late) if expires_first else (late, soon)
    sent = ended(send(app, {**TASK, "deadline": deadline.timestamp()}, expires=expires))
    assert sent.state == "SUCCESS"
    kept = json.loads(str(raw.hget(NAMES.record(sent.id), "task")))["deadline"]
    assert kept == pytest.approx(soon.timestamp(), abs=0.01)


def test_time_limit_becomes_a_deadline(app: Celery, raw: redis.Redis) -> None:
    before = datetime.now(UTC).timestamp()
    sent = ended(send(app, time_limit=500, soft_time_limit=90))
    assert sent.state == "SUCCESS"
    kept = json.loads(str(raw.hget(NAMES.record(sent.id), "task")))["deadline"]
    assert kept == pytest.approx(before + 90, abs=20)


@pytest.mark.parametrize("countdown", [None, 3600])
def test_task_that_no_record_may_hold_is_refused_and_its_sender_is_told(
    app: Celery, visionq_client: Client, raw: redis.Redis, countdown: int | None
) -> None:
    schema = {"type": "object", "description": "d" * 60_000}
    large = {**TASK, "question": "q" * 8_000, "options": {"schema": schema}}
    sent = ended(send(app, large, countdown=countdown))
    assert sent.state == "FAILURE"
    assert "the limit is 65536" in str(sent.result)
    failure = visionq_client.status(sent.id).failure
    assert failure is not None
    assert failure.code == "invalid_task"
    wait_until(lambda: is_settled(raw), what="everything to be settled")


def test_countdown_delays_the_start(app: Celery, visionq_client: Client) -> None:
    sent = send(app, countdown=1.5)

    def kept() -> Status | None:
        status = visionq_client.status(sent.id, look_in_store=False)  # which would take its time
        return status if status.is_known else None

    waiting = wait_until(kept, seconds=SECONDS)
    assert waiting is not None
    assert (waiting.state, waiting.position) == (State.PENDING, None)
    assert ended(sent).state == "SUCCESS"
    status = visionq_client.status(sent.id)
    assert status.started_at is not None
    assert waiting.submitted_at is not None
    assert status.started_at - waiting.submitted_at > 1.0


def test_task_that_expires_before_its_start_ends_at_once(
    app: Celery, visionq_client: Client
) -> None:
    sent = ended(send(app, countdown=3600, expires=1800))
    assert sent.state == "FAILURE"
    assert visionq_client.status(sent.id).state is State.EXPIRED


def test_sender_of_a_delayed_task_that_is_cancelled_is_told(
    app: Celery, visionq_client: Client
) -> None:
    sent = send(app, countdown=3600)
    wait_until(lambda: visionq_client.status(sent.id).is_known, seconds=SECONDS)
    visionq_client.cancel(sent.id)
    assert ended(sent).state == "REVOKED"


def test_delayed_task_keeps_its_queue_and_its_callbacks(app: Celery, raw: redis.Redis) -> None:
    sent = send(app, countdown=0.5, queue=NAMES.queue("bulk"), link=theirs(app))
    wait_until(lambda: raw.exists(NAMES.record(sent.id)), seconds=SECONDS)
    assert ended(sent).state == "SUCCESS"
    assert json.loads(str(raw.hget(NAMES.record(sent.id), "task")))["lane"] == "bulk"
    assert wait_until(lambda: raw.llen(THEIRS), seconds=SECONDS) == 1


def test_kombus_typed_values_are_no_values_of_ours(app: Celery, visionq_client: Client) -> None:
    sent = ended(send(app, {**TASK, "deadline": datetime.now(UTC)}))
    assert sent.state == "FAILURE"
    failure = visionq_client.status(sent.id).failure
    assert failure is not None
    assert failure.code == "invalid_task"
    assert "deadline" in failure.message


@pytest.mark.parametrize("value", ["no uuid", "b0b5c3a0-0000-4000-8000-000000000000"])
def test_labels_may_be_named_as_kombus_types_are(
    app: Celery, visionq_client: Client, value: str
) -> None:
    labels = {"__type__": "uuid", "__value__": value}
    sent = ended(send(app, {**TASK, "labels": labels}))
    assert sent.state == "SUCCESS"
    assert visionq_client.result(sent.id).labels == labels


def test_misspelt_task_is_a_dead_letter_and_its_sender_is_told(
    app: Celery, visionq_client: Client, letters: DeadLetters, raw: redis.Redis
) -> None:
    sent = ended(app.send_task("visionq.rum", kwargs={"task": TASK}, queue=QUEUE))
    assert sent.state == "FAILURE"
    assert "visionq.rum" in str(sent.result)
    letter = wait_until(lambda: letters.list(1, 0)[0].id == sent.id and letters.show(sent.id))
    assert "visionq.rum" in letter.letter.reason
    assert visionq_client.status(sent.id).state is State.UNKNOWN
    wait_until(lambda: is_settled(raw), what="everything to be settled")


@pytest.mark.parametrize(
    "task_id", ["../../evil", "order-17", "7", "x" * 36, "a-b-c-d-eeeeeeeeeeeeeeeeeeeeeeeeeeeeee"]
)
def test_id_that_is_no_uuid_is_a_dead_letter_and_no_key(
    app: Celery, letters: DeadLetters, raw: redis.Redis, task_id: str
) -> None:
    app.send_task("visionq.run", task_id=task_id, kwargs={"task": TASK}, queue=QUEUE)
    wait_until(lambda: is_settled(raw) and task_id in letters.list(1)[0].reason, seconds=SECONDS)
    assert not raw.exists(NAMES.celery_result(task_id), NAMES.record(task_id))


def test_sender_of_an_upper_case_uuid_is_told(
    app: Celery, letters: DeadLetters, raw: redis.Redis
) -> None:
    task_id = str(uuid.uuid4()).upper()
    sent = app.send_task("visionq.run", task_id=task_id, kwargs={"task": TASK}, queue=QUEUE)
    assert ended(sent).state == "FAILURE"
    assert "lower case" in str(sent.result)
    wait_until(lambda: task_id in letters.list(1)[0].reason, seconds=SECONDS)
    assert not raw.exists(NAMES.record(task_id))


def test_sender_of_protocol_1_is_told(
    app: Celery, letters: DeadLetters, visionq_client: Client
) -> None:
    app.conf.task_protocol = 1
    sent = ended(send(app))
    assert sent.state == "FAILURE"
    assert "protocol 2" in str(sent.result)
    wait_until(lambda: letters.list(1)[0].id == sent.id, seconds=SECONDS)


def test_damaged_message_does_not_end_a_task_that_has_a_record(
    visionq_client: Client, raw: redis.Redis, letters: DeadLetters, app: Celery, pictures: Path
) -> None:
    """The record sends it again."""
    picture = pictures / "shelf_after.png"
    handle = visionq_client.ocr(picture, start_in_seconds=3, max_new_tokens=1)
    raw.lpush(QUEUE, json.dumps(message(handle.id, body="W10=")))
    wait_until(lambda: letters.list(1)[0].id == handle.id, seconds=SECONDS)
    assert handle.wait(SECONDS).state is State.SUCCESS
    assert ended(app.AsyncResult(handle.id)).state == "SUCCESS"


def test_callback_and_chain_go_to_a_queue_that_is_allowed(app: Celery, raw: redis.Redis) -> None:
    linked = vision(app).apply_async(link=[theirs(app, "their.first"), theirs(app, "their.second")])
    chained = chain(vision(app), theirs(app, "their.third"), theirs(app, "their.last"))()
    assert ended(linked).state == "SUCCESS"
    assert wait_until(lambda: raw.llen(THEIRS) == 3, seconds=SECONDS)
    sent = [json.loads(str(text)) for text in raw.lrange(THEIRS, 0, -1)]
    names = sorted(one["headers"]["task"] for one in sent)
    assert names == ["their.first", "their.second", "their.third"]
    (third,) = [one for one in sent if one["headers"]["task"] == "their.third"]
    args, _, embedded = json.loads(base64.b64decode(third["body"]))
    assert args[0]["result_key"] == f"results/{third['headers']['parent_id']}.json"
    assert [step["task"] for step in embedded["chain"]] == ["their.last"]
    assert embedded["chain"][0]["options"]["task_id"] == chained.id


def test_chord_is_called_with_its_answers_in_order(app: Celery, raw: redis.Redis) -> None:
    header = group(vision(app), vision(app), vision(app))
    result = chord(header)(theirs(app, "their.body"))
    assert wait_until(lambda: raw.llen(THEIRS) == 1, seconds=SECONDS)
    body = json.loads(str(raw.lindex(THEIRS, 0)))
    args, _, _ = json.loads(base64.b64decode(body["body"]))
    assert body["headers"]["id"] == result.id
    ids = [child.id for child in result.parent.children]
    assert [one["result_key"] for one in args[0]] == [f"results/{one}.json" for one in ids]


def test_errback_goes_to_a_queue_that_is_allowed(app: Celery, raw: redis.Redis) -> None:
    bad = vision(app, {"kind": "sing", "images": []})
    sent = bad.apply_async(link_error=theirs(app, "their.errback"))
    assert ended(sent).state == "FAILURE"
    assert wait_until(lambda: raw.llen(THEIRS) == 1, seconds=SECONDS)


Link = Callable[[Celery], Any]
FORBIDDEN: dict[str, Link] = {
    "callback without a queue": lambda app: vision(app).set(
        link=[signature("their.task", app=app)]
    ),
    "callback to another queue": lambda app: vision(app).set(
        link=[signature("their.task", app=app).set(queue="celery")]
    ),
    "callback to a queue of ours": lambda app: vision(app).set(link=[vision(app)]),
    "errback to another queue": lambda app: vision(app).set(
        link_error=[signature("their.task", app=app).set(queue="celery")]
    ),
    "link of a callback": lambda app: vision(app).set(
        link=[theirs(app).set(link=[signature("x", app=app)])]
    ),
    "group in a callback": lambda app: vision(app).set(
        link=[group(theirs(app), signature("x", app=app), app=app)]
    ),
    "serializer of a callback": lambda app: vision(app).set(
        link=[theirs(app, serializer="pickle")]
    ),
    "exchange of a callback": lambda app: vision(app).set(link=[theirs(app, exchange="any")]),
    "a callback of Celery's own": lambda app: vision(app).set(
        link=[theirs(app, "celery.backend_cleanup")]
    ),
    "an errback that would run here": lambda app: vision(app).set(
        link_error=[vision(app).set(queue=THEIRS)]
    ),
    "id of a callback": lambda app: vision(app).set(link=[theirs(app, task_id="../../evil")]),
}


@pytest.mark.parametrize("name", FORBIDDEN)
def test_canvas_that_is_not_allowed_is_refused_before_the_task_runs(
    app: Celery, visionq_client: Client, raw: redis.Redis, name: str
) -> None:
    sent = ended(FORBIDDEN[name](app).apply_async())
    assert sent.state == "FAILURE"
    status = visionq_client.status(sent.id)
    assert status.failure is not None
    assert status.failure.code == "unsupported_option"
    wait_until(lambda: is_settled(raw), what="everything to be settled")
    assert not raw.exists(THEIRS, "celery")


def test_everybody_who_waits_for_a_refused_chain_is_told(app: Celery) -> None:
    last = chain(vision(app), signature("x", app=app), signature("y", app=app))()
    assert ended(last).state == "FAILURE"
    assert ended(last.parent).state == "FAILURE"
    assert ended(last.parent.parent).state == "FAILURE"


def test_everybody_who_waits_for_a_cancelled_chain_is_told(
    app: Celery, visionq_client: Client
) -> None:
    last = chain(vision(app).set(countdown=3600), theirs(app))()
    wait_until(lambda: visionq_client.status(last.parent.id).is_known, seconds=SECONDS)
    visionq_client.cancel(last.parent.id)
    assert ended(last).state == "REVOKED"


def test_whoever_waits_for_a_refused_chord_is_told(app: Celery) -> None:
    result = chord(group(vision(app), vision(app)))(signature("x", app=app))
    assert ended(result).state == "FAILURE"


EMBEDDED: dict[str, Any] = {
    "a number among the callbacks": {"callbacks": [5]},
    "callbacks are an object": {"callbacks": {"task": "x"}},
    "a callback without a task": {"callbacks": [{"args": []}]},
    "a callback's args are an object": {"callbacks": [{"task": "x", "args": {}}]},
    "a chain of numbers": {"chain": [7]},
    "errbacks of strings": {"errbacks": ["x"]},
    "a chord that is a list": {"chord": [1]},
    "a group without tasks": {
        "callbacks": [{"task": "celery.group", "kwargs": {"tasks": []}, "subtask_type": "group"}]
    },
    "a subtask of an unknown type": {"callbacks": [{"task": "celery.map", "subtask_type": "xmap"}]},
    "attributes of the request": {"id": "other", "delivery_info": 5},
}


@pytest.mark.parametrize("name", EMBEDDED)
def test_malformed_canvas_leaves_record_and_celery_in_agreement(
    app: Celery, visionq_client: Client, raw: redis.Redis, name: str
) -> None:
    task_id = str(uuid.uuid4())
    body = json.dumps([[], {"task": TASK}, EMBEDDED[name]]).encode()
    raw.lpush(QUEUE, json.dumps(message(task_id, body=base64.b64encode(body).decode())))
    sent = ended(app.AsyncResult(task_id))
    failure = visionq_client.status(task_id).failure
    assert failure is not None
    assert failure.code == "unsupported_option"
    assert (sent.state, str(sent.result)) == ("FAILURE", failure.message)


def test_sender_who_wants_no_result_of_celery_gets_none(
    app: Celery, visionq_client: Client, raw: redis.Redis
) -> None:
    sent = send(app, ignore_result=True)
    wait_until(lambda: visionq_client.status(sent.id).is_done, seconds=SECONDS)
    wait_until(lambda: is_settled(raw), what="everything to be settled")
    assert not raw.exists(NAMES.celery_result(sent.id))


def test_what_celery_fails_at_is_dead_lettered_and_the_worker_goes_on(
    urls: LocalUrls,
    address: StoreAddress,
    store: ObjectStore,
    raw: redis.Redis,
    namespace: str,
    tmp_path: Path,
) -> None:
    names, bad = Names(namespace), [str(uuid.uuid4()) for _ in range(5)]
    good = str(uuid.uuid4())
    for task_id in (*bad, good):
        raw.lpush(names.queue("interactive"), json.dumps(message(task_id)))
    log = tmp_path / "log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.service.failing_consumer", ",".join(bad)],
            cwd=REPOSITORY,
            env=environment(urls, namespace),
            stdout=output,
            stderr=output,
        )
    try:
        with Client(urls.broker_url, address, namespace=namespace) as client:
            wait_until(lambda: client.status(good).is_done, seconds=60, what=log.read_text())
            assert client.status(good).state is State.SUCCESS
        wait_until(lambda: not raw.exists(names.unacked()))
        assert {str(key) for key in raw.hkeys(names.dead())} == set(bad)
        reasons = [json.loads(str(entry))["reason"] for entry in raw.hvals(names.dead())]
        assert all("TypeError: a failure of the test's" in reason for reason in reasons)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait(30) == 0
    finally:
        worker.kill()
        worker.wait()
