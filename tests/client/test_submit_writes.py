"""What `submit` leaves behind: the image, then the record, then a message Celery can read."""

import json
import re
from time import time
from typing import Any

import kombu
import pytest
import redis

from tests.client.hand_worker import HandWorker
from visionq import Client, InvalidTask, Kind, StoreAddress
from visionq.contract import is_task_id
from visionq.errors import SchemaUnsupported, UnknownKind, UnsupportedOption, WrongImageCount
from visionq.local import LocalUrls
from visionq.names import Names


def test_the_handle_knows_where_the_result_will_be(client: Client, key: str) -> None:
    handle = client.ocr(key)
    assert is_task_id(handle.id)
    assert handle.result_key == f"results/{handle.id}.json"
    assert handle.status().result_key == handle.result_key


def test_the_task_travels_as_it_was_submitted(client: Client, key: str, worker: HandWorker) -> None:
    before = time()
    handle = client.submit(
        "compare",
        [key, "s3://archive/second.png"],
        "Was ist anders?",
        max_new_tokens=50,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        num_crops=4,
        lane="bulk",
        expires_in_seconds=60,
        tenant="acme",
        labels={"order": "17"},
    )
    task = json.loads(str(worker.raw.hget(worker.names.record(handle.id), "task")))
    deadline = task.pop("deadline")
    assert task == {
        "id": handle.id,
        "kind": "compare",
        "images": [{"ref": key}, {"ref": "s3://archive/second.png"}],
        "question": "Was ist anders?",
        "options": {
            "max_new_tokens": 50,
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "num_crops": 4,
        },
        "lane": "bulk",
        "tenant": "acme",
        "labels": {"order": "17"},
        "version": 1,
    }
    assert before + 60 <= deadline <= time() + 60


def test_the_record_is_written_before_the_message(
    own_client: Client, own_raw: redis.Redis, own_worker: HandWorker
) -> None:
    own_client.ocr("inputs/warm-up")
    with own_raw.monitor() as monitor:  # type: ignore[no-untyped-call]
        task_id = own_client.ocr("inputs/a").id
        seen: list[str] = []
        while not seen or not seen[-1].startswith("LPUSH"):
            seen.append(monitor.next_command()["command"])
    written = [command.split()[0] for command in seen if task_id in command]
    assert written == ["EVALSHA", "HMGET", "HSET", "EXPIRE", "ZADD", "ZADD", "LPUSH"]
    assert own_worker.message_ids()[-1] == task_id


def test_the_record_of_a_waiting_task_holds_no_more_than_it_must(
    client: Client, key: str, raw: redis.Redis, names: Names
) -> None:
    handle = client.ocr(key)
    record: Any = raw.hgetall(names.record(handle.id))
    assert set(record) == {"state", "task", "at", "seq", "counted"}
    assert (record["state"], record["seq"]) == ("PENDING", "1")
    assert re.fullmatch(r"\d{10,}\.\d{6}", record["at"])


def test_record_and_counters_go_when_their_time_is_up(
    urls: LocalUrls, address: StoreAddress, namespace: str, key: str, raw: redis.Redis
) -> None:
    with Client(
        urls.broker_url, address, namespace=namespace, record_ttl_seconds=100
    ) as short_lived:
        handle = short_lived.ocr(key)
    names = Names(namespace)
    for name in (names.record(handle.id), names.lane("interactive")):
        ttl: Any = raw.ttl(name)
        assert 90 < ttl <= 100


def test_celery_and_kombu_can_read_the_message(
    client: Client, key: str, urls: LocalUrls, names: Names
) -> None:
    handle = client.ocr(key, "Title and author?")
    with (
        kombu.Connection(urls.broker_url) as connection,
        connection.SimpleQueue(names.queue("interactive")) as queue,
    ):
        message = queue.get(timeout=5)
        message.ack()
    assert message.headers["task"] == "visionq.run"
    assert message.headers["id"] == handle.id
    assert message.headers["root_id"] == handle.id
    assert message.properties["correlation_id"] == handle.id
    assert message.content_type == "application/json"
    args, kwargs, _embedded = message.decode()
    assert args == []
    assert kwargs == {
        "task": {
            "id": handle.id,
            "kind": "ocr",
            "images": [{"ref": key}],
            "question": "Title and author?",
            "version": 1,
        }
    }


def test_the_headers_of_the_message_show_neither_question_nor_image(
    client: Client, key: str, worker: HandWorker
) -> None:
    client.ocr(key, "what does the secret plan say?")
    headers = json.dumps(worker.messages()[0]["headers"])
    assert "secret plan" not in headers
    assert key not in headers


def test_each_lane_has_its_own_queue(client: Client, key: str, worker: HandWorker) -> None:
    fast = client.ocr(key)
    slow = client.ocr(key, lane="bulk")
    assert worker.message_ids("interactive") == [fast.id]
    assert worker.message_ids("bulk") == [slow.id]
    assert (fast.status().lane, slow.status().lane) == ("interactive", "bulk")


@pytest.mark.parametrize("name", ["analyze", "ocr", "describe", "table", "detect"])
def test_a_method_named_after_a_kind_submits_that_kind(
    client: Client, key: str, name: str, worker: HandWorker
) -> None:
    handle = getattr(client, name)(key, lane="bulk")
    assert handle.status().kind == name
    assert worker.message_ids("bulk") == [handle.id]


def test_compare_and_ask_take_several_images(client: Client, key: str, worker: HandWorker) -> None:
    compared = client.compare([key, key])
    asked = client.ask((key, key, key), "Which is the oldest?")
    assert [len(worker.task(item.id).images) for item in (compared, asked)] == [2, 3]


def test_a_kind_of_one_s_own_is_submitted_by_name(
    urls: LocalUrls, address: StoreAddress, namespace: str, key: str
) -> None:
    kinds = {"invoice": Kind(prompt="Read this invoice.", max_images=2)}
    with Client(urls.broker_url, address, namespace=namespace, kinds=kinds) as custom:
        assert custom.submit("invoice", [key, key]).status().kind == "invoice"
        with pytest.raises(UnknownKind, match="no kind 'ocr'; there are invoice"):
            custom.ocr(key)


REFUSED: list[tuple[dict[str, Any], type[InvalidTask], str]] = [
    ({"kind": "poem"}, UnknownKind, "no kind 'poem'"),
    ({"images": []}, WrongImageCount, "takes 1 image"),
    ({"images": ["inputs/a", "inputs/b"]}, WrongImageCount, "got 2"),
    ({"kind": "compare"}, WrongImageCount, "takes 2 to 8"),
    ({"kind": "ask"}, InvalidTask, "needs a question"),
    ({"schema": {"not": {}}}, SchemaUnsupported, "schema at its root: no document fits"),
    ({"schema": {"oneOf": []}}, SchemaUnsupported, "schema at /oneOf: must be a list of"),
    ({"schema": int}, SchemaUnsupported, "neither a JSON Schema nor a pydantic model"),
    ({"schema": "object"}, SchemaUnsupported, "neither a JSON Schema nor a pydantic model"),
    ({"notify": "https://example.org/done"}, UnsupportedOption, "notify"),
    ({"beams": 4}, InvalidTask, "beams"),
    ({"max_new_tokens": 0}, InvalidTask, "max_new_tokens"),
    ({"temperature": "hot"}, InvalidTask, "temperature"),
    ({"seed": -1}, InvalidTask, "seed"),
    ({"lane": "fast"}, InvalidTask, "no lane 'fast'; there are interactive, bulk"),
    ({"tenant": "Acme & Co"}, InvalidTask, "tenant"),
    ({"tenant": None}, InvalidTask, "tenant"),
    ({"labels": {"order": 17}}, InvalidTask, "labels"),
    ({"labels": 17}, InvalidTask, "labels"),
    ({"labels": "order"}, InvalidTask, "labels"),
    ({"labels": ["order"]}, InvalidTask, "labels"),
    ({"expires_in_seconds": "soon"}, InvalidTask, "expires_in_seconds"),
    ({"expires_in_seconds": float("nan")}, InvalidTask, "expires_in_seconds"),
    ({"expires_in_seconds": -1}, InvalidTask, "expires_in_seconds"),
    ({"expires_in_seconds": True}, InvalidTask, "expires_in_seconds"),
    ({"question": 5}, InvalidTask, "question"),
    ({"question": "x" * 8001}, InvalidTask, "question"),
    ({"question": "half a character: \ud83d"}, InvalidTask, "question"),
    ({"images": "s3://bucket"}, InvalidTask, "image reference"),
    ({"images": "inputs/../results/a"}, InvalidTask, r"'\.\.'"),
    ({"idempotency_key": ""}, InvalidTask, "idempotency_key"),
]


@pytest.mark.parametrize(("changes", "error", "named"), REFUSED)
def test_what_cannot_be_accepted_is_refused_and_nothing_is_sent(
    client: Client,
    worker: HandWorker,
    changes: dict[str, Any],
    error: type[InvalidTask],
    named: str,
) -> None:
    given: dict[str, Any] = {"kind": "ocr", "images": "inputs/a"} | changes
    with pytest.raises(error, match=named):
        client.submit(**given)
    assert worker.keys() == []


def test_a_task_too_large_for_a_message_is_refused_and_nothing_is_sent(
    urls: LocalUrls, address: StoreAddress, namespace: str, worker: HandWorker
) -> None:
    images = ["s3://bucket/" + "k" * 970] * 64
    with Client(
        urls.broker_url, address, namespace=namespace, kinds={"many": Kind(max_images=64)}
    ) as custom:
        with pytest.raises(InvalidTask, match=r"takes 7\d{4} bytes as JSON, the limit is 65536"):
            custom.submit("many", images, "x" * 8000)
        assert worker.keys() == []
        assert custom.submit("many", images, "x").status().state == "PENDING"
