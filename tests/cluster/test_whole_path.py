"""All that visionq does on a Redis Cluster with a hash tag, and that all of it has one slot."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from celery import Celery, chain, chord, group, signature
from celery.result import AsyncResult

from tests.cli.commands import json_of, visionq
from tests.cli.conftest import only_ours
from tests.cluster.conftest import NAMES, NAMESPACE, THEIRS
from tests.support.cluster import Cluster
from tests.support.foreign import opened_foreign_app
from tests.support.waiting import wait_until
from visionq import AsyncClient, Client, State, StoreAddress, Submission
from visionq.broker_urls import BrokerAddress
from visionq.connections import connect
from visionq.dead import DeadLetters
from visionq.local import LocalUrls
from visionq.objects import ObjectStore
from visionq.records import Records

SECONDS = 30.0
REF = "inputs/clustered.png"
SHORT: dict[str, Any] = {"max_new_tokens": 2}
TASK: dict[str, Any] = {"kind": "ocr", "images": [{"ref": REF}], "options": SHORT}
# kombu's mailbox, which asks the event loop for its reply queue.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:kombu")


@pytest.fixture(autouse=True)
def _picture(store: ObjectStore, pictures: Path) -> None:
    if not store.exists(REF):
        store.put(REF, (pictures / "shelf_after.png").read_bytes())


@pytest.fixture(autouse=True)
def _one_slot(cluster: Cluster) -> Iterator[None]:
    """Whatever a test does: every key is where the tag's slot is."""
    yield
    owner = cluster.owner(NAMESPACE)
    num_keys = dict(cluster.num_keys())
    assert num_keys.pop(owner) == cluster.num_keys_in_slot(NAMESPACE)
    assert set(num_keys.values()) == {0}


@pytest.fixture
def stock(owner_urls: LocalUrls) -> Iterator[Celery]:
    with opened_foreign_app(owner_urls, NAMESPACE, hash_tag=True) as app:
        yield app


@pytest.fixture
def letters(broker: BrokerAddress) -> Iterator[DeadLetters]:
    client = connect(broker.for_namespace(NAMESPACE), timeout_seconds=2)
    with DeadLetters(client, NAMES, ttl_seconds=600) as opened:
        yield opened


def sent(app: Celery, task: object = TASK, **options: Any) -> AsyncResult:
    queue = NAMES.queue("interactive")
    return app.send_task("visionq.run", kwargs={"task": task}, **{"queue": queue, **options})


def ended(result: AsyncResult) -> str:
    wait_until(result.ready, seconds=SECONDS, what=f"an end of {result.id}")
    return str(result.state)


def test_a_task_is_answered_and_its_stock_result_is_there(clustered: Client, stock: Celery) -> None:
    handle = clustered.ocr(REF, **SHORT)
    assert handle.result(SECONDS).task_id == handle.id
    assert handle.status().state is State.SUCCESS
    assert ended(stock.AsyncResult(handle.id)) == "SUCCESS"
    assert handle.id in [status.id for status in clustered.recent()]


def test_many_tasks_with_keys_a_delay_and_a_cancel(clustered: Client) -> None:
    lanes: tuple[Literal["bulk", "interactive"], ...] = ("bulk", "interactive")
    many = [Submission("ocr", REF, None, {"max_new_tokens": 2, "lane": lane}) for lane in lanes]
    keyed = {**SHORT, "idempotency_key": str(uuid.uuid4())}
    handles = clustered.submit_many(many)
    first, again = clustered.ocr(REF, **keyed), clustered.ocr(REF, **keyed)
    assert first.id == again.id
    delayed = clustered.ocr(REF, **SHORT, start_in_seconds=0.5)
    cancelled = clustered.ocr(REF, **SHORT, start_in_seconds=600)
    assert cancelled.cancel() is State.REVOKED
    for handle in (*handles, first, delayed):
        assert handle.wait(SECONDS).state is State.SUCCESS
    assert clustered.estimate("ocr", REF).max_prompt_tokens > 0
    # A try after one that has not ended with an answer is a task of its own.
    key = str(uuid.uuid4())
    lost = clustered.ocr("inputs/nothing.png", idempotency_key=key)
    assert lost.wait(SECONDS).state is State.FAILURE
    assert clustered.ocr("inputs/nothing.png", idempotency_key=key).status().retry_of == lost.id


def test_asyncio_client(
    broker: BrokerAddress, cluster_address: StoreAddress, clustered: Client
) -> None:
    async def ask() -> tuple[State, State]:
        async with AsyncClient(broker, cluster_address, namespace=NAMESPACE) as client:
            handle = await client.ocr(REF, **SHORT)
            await handle.result(SECONDS)
            return (await handle.status()).state, await client.cancel(str(uuid.uuid4()))

    assert asyncio.run(ask()) == (State.SUCCESS, State.UNKNOWN)


def test_commands(env: dict[str, str], clustered: Client, pictures: Path) -> None:
    ours = only_ours(env)
    image = str(pictures / "shelf_after.png")
    result = visionq(ours, "submit", "ocr", image, "--wait", "--json", "--max-new-tokens", "2")
    assert result.exit_code == 0, result.output
    assert json_of(result)["state"] == "SUCCESS"
    assert visionq(ours, "dead", "ls").exit_code == 0


def test_senders_of_celery(stock: Celery, cluster: Cluster, clustered: Client) -> None:
    assert ended(sent(stock)) == "SUCCESS"
    assert ended(sent(stock, priority=6)) == "SUCCESS"
    assert ended(sent(stock, countdown=0.5)) == "SUCCESS"
    assert ended(sent(stock, {"kind": "sing", "images": []})) == "FAILURE"


def test_canvas_of_celery(stock: Celery, cluster: Cluster, clustered: Client) -> None:
    owner = cluster.node(cluster.owner(NAMESPACE))
    owner.delete(THEIRS)

    def vision() -> Any:
        queue = NAMES.queue("interactive")
        return signature("visionq.run", kwargs={"task": TASK}, queue=queue, app=stock)

    def theirs(name: str) -> Any:
        return signature(name, app=stock).set(queue=THEIRS)

    chain(vision(), theirs("their.next"))()
    chord(group(vision(), vision()))(theirs("their.body"))
    wait_until(lambda: owner.llen(THEIRS) == 2, seconds=SECONDS, what="what follows the tasks")
    headers = [json.loads(str(text))["headers"]["task"] for text in owner.lrange(THEIRS, 0, -1)]
    assert sorted(headers) == ["their.body", "their.next"]
    owner.delete(THEIRS)


def test_control_commands_of_celery(stock: Celery, clustered: Client) -> None:
    def asked() -> list[Any]:
        return stock.control.ping(timeout=1, limit=1) or []

    (reply,) = wait_until(asked, seconds=SECONDS, what="an answer to ping")
    assert list(reply.values()) == [{"ok": "pong"}]
    waiting = clustered.ocr(REF, start_in_seconds=600)
    stock.AsyncResult(waiting.id).revoke()
    assert waiting.wait(SECONDS).state is State.REVOKED


def test_dead_letters(letters: DeadLetters, cluster: Cluster, clustered: Client) -> None:
    cluster.node(cluster.owner(NAMESPACE)).lpush(NAMES.queue("bulk"), "no JSON")
    (letter,) = wait_until(letters.list, seconds=SECONDS, what="a dead letter")
    assert letters.show(letter.id).text == "no JSON"
    assert letters.replay([letter.id])[0].outcome == "replayed"
    wait_until(letters.list, seconds=SECONDS, what="the letter to die again")
    assert len(letters.purge([each.id for each in letters.list()])) == 1


def test_what_is_fetched_for_a_task_is_noted_in_its_record(
    broker: BrokerAddress, clustered: Client
) -> None:
    handle = clustered.ocr(REF, start_in_seconds=600)
    client = connect(broker.for_namespace(NAMESPACE), timeout_seconds=2)
    records = Records(client, NAMES, ttl_seconds=600)
    assert records.pin(handle.id, 0, REF) == records.pinned(handle.id, 0) == REF
    records.close()
    handle.cancel()
