"""A pydantic model as the schema: it is sent as JSON Schema, and its own type comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from pydantic import BaseModel, Field

from tests.client.hand_worker import HandWorker
from visionq import (
    AsyncClient,
    Client,
    NoValue,
    SchemaUnsupported,
    StoreAddress,
    Submission,
    TaskHandle,
)
from visionq.local import LocalUrls


class Book(BaseModel):
    title: str = Field(max_length=80)
    published: date | None = None


VALUE = {"title": "Dune", "published": "1965-08-01"}
DUNE = Book(title="Dune", published=date(1965, 8, 1))


def answered(handle: TaskHandle, worker: HandWorker, value: Any = VALUE) -> TaskHandle:
    worker.succeed(handle.id, value=value)
    return handle


def test_the_task_carries_the_models_schema(client: Client, key: str, worker: HandWorker) -> None:
    handle = client.ask(key, "Which book?", schema=Book)
    assert worker.task(handle.id).options.schema == Book.model_json_schema()


def test_the_value_is_the_models_instance(client: Client, key: str, worker: HandWorker) -> None:
    handle = answered(client.ask(key, "Which book?", schema=Book), worker)
    assert handle.result(10).value == DUNE
    assert handle.parsed(Book) == DUNE


def test_many_tasks_have_their_own_models(client: Client, key: str, worker: HandWorker) -> None:
    class Year(BaseModel):
        year: int

    first, second, third = client.submit_many(
        [
            Submission("ask", key, "Which book?", {"schema": Book}),
            Submission("ask", key, "When?", {"schema": Year}),
            Submission("ask", key, "What?", {"schema": Book.model_json_schema()}),
        ]
    )
    assert answered(first, worker).result(10).value == DUNE
    assert answered(second, worker, {"year": 1965}).result(10).value == Year(year=1965)
    assert answered(third, worker).result(10).value == VALUE


def test_a_handle_made_from_the_id_is_told_the_model(
    client: Client, key: str, worker: HandWorker
) -> None:
    sent = answered(client.ask(key, "Which book?", schema=Book), worker)
    handle = client.task(sent.id)
    assert handle.result(10).value == VALUE
    assert handle.parsed(Book) == DUNE
    assert client.parsed(sent.id, Book, timeout=10) == DUNE


@pytest.mark.parametrize("value", [None, {"title": 5}])
def test_an_answer_without_such_a_value_is_an_error_that_holds_it(
    client: Client, key: str, worker: HandWorker, value: Any
) -> None:
    handle = answered(client.ask(key, "Which book?"), worker, value)
    with pytest.raises(NoValue) as caught:
        handle.parsed(Book, timeout=10)
    assert caught.value.result is not None
    assert caught.value.result.text == "a hand-made answer"


def test_a_model_that_the_grammar_cannot_enforce_is_refused(client: Client, key: str) -> None:
    class Distinct(BaseModel):
        words: set[str]

    with pytest.raises(SchemaUnsupported, match="schema at /properties/words/uniqueItems"):
        client.ask(key, "What?", schema=Distinct)


def test_a_model_without_a_json_schema_is_refused(client: Client, key: str) -> None:
    class Called(BaseModel):
        function: Callable[[], int]

    with pytest.raises(SchemaUnsupported, match="the model has no JSON Schema"):
        client.ask(key, "What?", schema=Called)


def test_the_asyncio_client_does_the_same(
    urls: LocalUrls, address: StoreAddress, namespace: str, key: str, worker: HandWorker
) -> None:
    async def ask() -> tuple[Any, Any, Book]:
        async with AsyncClient(urls.broker_url, address, namespace=namespace) as client:
            one = await client.ask(key, "Which book?", schema=Book)
            (other,) = await client.submit_many(
                [Submission("ask", key, "Which one?", {"schema": Book})]
            )
            worker.succeed(one.id, value=VALUE)
            worker.succeed(other.id, value=VALUE)
            first, second = await one.result(10), await other.result(10)
            return first.value, second.value, await other.parsed(Book, 10)

    assert asyncio.run(ask()) == (DUNE, DUNE, DUNE)
