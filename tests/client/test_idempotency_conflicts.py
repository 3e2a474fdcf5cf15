"""A key stands for one content: the same may be spelt in several ways, other content is refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
from pydantic import BaseModel

from tests.client.hand_worker import HandWorker
from visionq import Client, IdempotencyConflict, ImageRef, Page, QueueFull, State, Submission
from visionq.kinds import BUILTIN_KINDS

SCHEMA = {
    "type": "object",
    "properties": {"year": {"type": "integer", "minimum": 1450}, "title": {"type": "string"}},
    "required": ["title"],
}
PNG = b"\x89PNG\r\n\x1a\n"


class Book(BaseModel):
    title: str


BASE: dict[str, Any] = {"kind": "ocr", "images": "inputs/a", "question": "Title?"}

OTHER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "question": (BASE, {"question": "Author?"}),
    "no question": (BASE, {"question": None}),
    "white space in the question": (BASE, {"question": "Title? "}),
    "kind": (BASE, {"kind": "analyze"}),
    "image": (BASE, {"images": "inputs/b"}),
    "place of the image": (BASE, {"images": "s3://archive/inputs/a"}),
    "bytes": (BASE | {"images": PNG + b"one"}, {"images": PNG + b"two"}),
    "page": (BASE | {"images": "inputs/a#page=2"}, {"images": "inputs/a#page=3"}),
    "a page and none": (BASE | {"images": "inputs/a#page=2"}, {"images": "inputs/a"}),
    "order of images": (
        {"kind": "compare", "images": ["inputs/a", "inputs/b"]},
        {"images": ["inputs/b", "inputs/a"]},
    ),
    "number of images": (
        {"kind": "ask", "images": ["inputs/a"], "question": "Which?"},
        {"images": ["inputs/a", "inputs/a"]},
    ),
    "max_new_tokens": (BASE, {"max_new_tokens": 7}),
    "temperature": (BASE, {"temperature": 0.5}),
    "top_p": (BASE, {"top_p": 0.5}),
    "seed": (BASE | {"seed": 0}, {"seed": 1}),
    "no seed": (BASE | {"seed": 0}, {"seed": None}),
    "num_crops": (BASE, {"num_crops": 4}),
    "reuse": (BASE, {"reuse": False}),
    "schema and none": (BASE, {"schema": SCHEMA}),
    "part of a schema": (
        BASE | {"schema": SCHEMA},
        {"schema": SCHEMA | {"required": ["title", "year"]}},
    ),
    "order in a list of the schema": (
        BASE | {"schema": {"enum": ["a", "b"]}},
        {"schema": {"enum": ["b", "a"]}},
    ),
    "what a schema tells the model": (
        BASE | {"schema": SCHEMA},
        {"schema": SCHEMA | {"description": "the oldest book"}},
    ),
    "fields": (BASE | {"fields": {"title": str}}, {"fields": {"title": int}}),
}

SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "lane": (BASE, {"lane": "bulk"}),
    "deadline": (BASE, {"expires_in_seconds": 60}),
    "delay": (BASE, {"start_in_seconds": 60}),
    "labels": (BASE, {"labels": {"try": "2"}}),
    "defaults spelt out": (
        BASE,
        {"temperature": 0, "top_p": 1, "seed": None, "max_new_tokens": None, "reuse": True},
    ),
    "what the kind says": (
        {"kind": "ocr", "images": "inputs/a"},
        {"question": BUILTIN_KINDS["ocr"].default_question, "max_new_tokens": 1000},
    ),
    "crops of one image": (BASE, {"num_crops": 16}),
    "crops of several": (
        {"kind": "compare", "images": ["inputs/a", "inputs/b"]},
        {"num_crops": 4},
    ),
    "whole number as float": (BASE | {"temperature": 1}, {"temperature": 1.0}),
    "an image of one": (BASE, {"images": ["inputs/a"]}),
    "a reference as an object": (BASE, {"images": ImageRef(ref="inputs/a")}),
    "a page as an object": (
        BASE | {"images": "inputs/a#page=2"},
        {"images": Page("inputs/a", 2)},
    ),
    "equal bytes": (BASE | {"images": PNG}, {"images": bytearray(PNG)}),
    "order of keys in a schema": (
        BASE | {"schema": SCHEMA},
        {"schema": dict(reversed(copy.deepcopy(SCHEMA).items()))},
    ),
    "numbers in a schema": (
        BASE | {"schema": {"type": "integer", "minimum": 1}},
        {"schema": {"type": "integer", "minimum": 1.0}},
    ),
    "a model and its schema": (
        BASE | {"schema": Book},
        {"schema": Book.model_json_schema()},
    ),
}


@pytest.mark.parametrize("name", OTHER)
def test_other_content_is_a_conflict_and_nothing_is_sent(
    client: Client, worker: HandWorker, name: str
) -> None:
    first, changes = OTHER[name]
    accepted = client.submit(**first, idempotency_key="order-17")
    with pytest.raises(IdempotencyConflict, match=accepted.id) as caught:
        client.submit(**(first | changes), idempotency_key="order-17")
    assert caught.value.task_id == accepted.id
    assert "Title?" not in str(caught.value)
    assert worker.message_ids() == [accepted.id]


@pytest.mark.parametrize("name", SAME)
def test_same_content_is_the_same_task_however_it_is_spelt(
    client: Client, worker: HandWorker, name: str
) -> None:
    first, changes = SAME[name]
    accepted = client.submit(**first, idempotency_key="order-17")
    again = client.submit(**(first | changes), idempotency_key="order-17")
    assert again.id == accepted.id
    assert worker.message_ids() == [accepted.id]


@pytest.mark.parametrize("state", [State.STARTED, State.SUCCESS, State.FAILURE, State.REVOKED])
def test_other_content_is_a_conflict_in_every_state(
    client: Client, worker: HandWorker, key: str, state: State
) -> None:
    accepted = client.ocr(key, idempotency_key="order-17")
    if state is State.STARTED:
        worker.start(accepted.id)
    elif state is State.REVOKED:
        accepted.cancel()
    else:
        worker.end(accepted.id, state)
    with pytest.raises(IdempotencyConflict):
        client.ocr(key, "Author?", idempotency_key="order-17")


def test_another_tenant_may_use_the_key_for_something_else(client: Client, key: str) -> None:
    client.ocr(key, "Title?", idempotency_key="order-17")
    client.ocr(key, "Author?", idempotency_key="order-17", tenant="acme")


def test_a_record_of_an_older_client_is_believed_to_be_the_same(
    client: Client, worker: HandWorker, key: str
) -> None:
    accepted = client.ocr(key, "Title?", idempotency_key="order-17")
    worker.raw.hdel(worker.names.record(accepted.id), "print")
    assert client.ocr(key, "Author?", idempotency_key="order-17").id == accepted.id


def test_in_a_bulk_a_conflict_refuses_all(client: Client, worker: HandWorker, key: str) -> None:
    accepted = client.ocr(key, "Title?", idempotency_key="order-17")
    before = worker.keys()
    with pytest.raises(IdempotencyConflict) as caught:
        client.submit_many(
            [
                Submission("ocr", key),
                Submission("ocr", key, options={"idempotency_key": "order-18"}),
                Submission("ocr", key, "Author?", {"idempotency_key": "order-17"}),
                Submission("ocr", key),
            ]
        )
    assert caught.value.task_id == accepted.id
    assert worker.keys() == before
    assert worker.message_ids() == [accepted.id]
    assert client.ocr(key, "Author?", idempotency_key="order-18").status().state is State.PENDING


def test_a_key_for_two_things_in_one_bulk_refuses_all(
    client: Client, worker: HandWorker, key: str
) -> None:
    with pytest.raises(IdempotencyConflict):
        client.submit_many(
            [
                Submission("ocr", key, "Title?", {"idempotency_key": "order-17"}),
                Submission("ocr", key, "Author?", {"idempotency_key": "order-17"}),
            ]
        )
    assert client.recent() == []
    assert worker.messages() == []
    assert client.ocr(key, "Author?", idempotency_key="order-17").status().state is State.PENDING


def test_the_conflict_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(IdempotencyConflict("in use", "some-id")))
    assert (str(error), error.task_id) == ("in use", "some-id")
    assert not isinstance(error, QueueFull)
