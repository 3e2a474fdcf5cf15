"""The whole service: client, queue, a worker process, store.

The worker has the pocket model where what is said is checked, and random weights elsewhere.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from pathlib import Path

import pytest
from celery import Celery
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from tests.conftest import POCKET_NAMESPACE, SERVICE_NAMESPACE
from tests.support.examples import COVER, COVER_ANSWER, COVER_AUTHOR, COVER_TITLE
from tests.support.foreign import foreign_app
from tests.support.waiting import wait_until
from tests.worker.pdf_bytes import A4, lettered, pdf
from visionq import (
    AsyncClient,
    Client,
    Page,
    State,
    StoreAddress,
    TaskExpired,
    TaskFailed,
    TaskRevoked,
)
from visionq.contract import read_result
from visionq.image_tokens import num_image_tokens
from visionq.local import LocalUrls
from visionq.objects import ObjectStore

SECONDS = 30.0
THREE_JOBS = (
    ("analyze", ["stock_chart.png"], "Could you please introduce this stock to me?", 1921),
    ("ocr", ["book_cover.jpg"], "Help me get the title and author information of this book?", 1933),
    ("compare", ["shelf_before.png", "shelf_after.png"], "What is difference in these?", 1514),
)
"""With the image tokens each needs: 16 crops for one picture, 4 for each of several."""


@pytest.fixture
def other_app(urls: LocalUrls) -> Celery:
    """Somebody else's Celery application, with nothing of ours in it."""
    return foreign_app(urls, SERVICE_NAMESPACE)


@pytest.fixture
def pocket_app(urls: LocalUrls) -> Celery:
    """The same beside the worker with the pocket model."""
    return foreign_app(urls, POCKET_NAMESPACE)


def test_page_of_a_pdf_is_answered(service: Client) -> None:
    content = pdf(b"", lettered("Invoice 2041: 31.90 EUR"))
    result = service.ocr(Page(content, 2)).result(timeout=SECONDS)
    assert result.provenance.input_pages == (2,)
    assert result.usage is not None
    assert result.usage.image_tokens == num_image_tokens(*A4, 16)
    with pytest.raises(TaskFailed) as caught:
        service.ocr(Page(content, 3)).result(timeout=SECONDS)
    assert caught.value.code == "page_missing"


@pytest.mark.parametrize(("kind", "names", "question", "image_tokens"), THREE_JOBS)
def test_the_three_jobs_are_answered_and_stored(
    service: Client,
    store: ObjectStore,
    pictures: Path,
    kind: str,
    names: list[str],
    question: str,
    image_tokens: int,
) -> None:
    paths = [pictures / name for name in names]
    handle = service.submit(kind, paths, question, max_new_tokens=8)
    result = handle.result(SECONDS)
    assert result.state is State.SUCCESS
    assert result.text
    assert result.usage is not None
    assert result.usage.image_tokens == image_tokens
    assert result.usage.completion_tokens == 8
    assert result.finish_reason == "length"
    assert result.verdict is not None
    assert result.verdict.reasons == ("truncated",)
    digests = tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)
    assert result.provenance.input_digests == digests
    assert handle.result_key == f"results/{handle.id}.json"
    assert read_result(store.get(handle.result_key)) == result


def test_a_schema_is_kept_by_random_weights(service: Client, pictures: Path) -> None:
    """And one that asks for more than may be generated is cut, and says so."""
    book = {
        "type": "object",
        "properties": {"title": {"type": "string", "maxLength": 30}, "year": {"type": "integer"}},
        "required": ["title", "year"],
    }
    cover = pictures / "book_cover.jpg"
    task = service.ask(cover, "Which book?", schema=book, num_crops=1, max_new_tokens=120)
    cut = service.ask(cover, "Which book?", schema=book, num_crops=1, max_new_tokens=5)
    result, short = task.result(SECONDS), cut.result(SECONDS)
    assert result.text == json.dumps(result.value, ensure_ascii=False)
    assert set(result.value) == {"title", "year"}
    assert len(result.value["title"]) <= 30
    assert isinstance(result.value["year"], int)
    assert result.verdict is not None
    assert (result.verdict.outcome, result.finish_reason) == ("ok", "stop")
    assert short.verdict is not None
    assert (short.value, short.verdict.outcome) == (None, "degraded")
    assert short.verdict.reasons == ("truncated",)


def test_the_record_ends_with_the_result(service: Client, pictures: Path) -> None:
    handle = service.describe(pictures / "shelf_before.png", max_new_tokens=4)
    status = handle.wait(SECONDS)
    assert (status.state, status.attempt, status.generated_tokens) == (State.SUCCESS, 1, 4)
    assert status.position is None
    assert status.submitted_at is not None
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.submitted_at <= status.started_at <= status.finished_at
    assert status.store_seconds is not None


def test_asyncio_client_gets_the_answer(
    pocket: Client, urls: LocalUrls, address: StoreAddress, pictures: Path
) -> None:
    async def ask() -> str | None:
        async with AsyncClient(urls.broker_url, address, namespace=POCKET_NAMESPACE) as client:
            handle = await client.ocr(pictures / COVER, "Title and author?")
            return (await handle.result(SECONDS)).text

    assert asyncio.run(ask()) == COVER_ANSWER


def test_many_tasks_at_once_are_all_answered(service: Client, pictures: Path) -> None:
    picture = (pictures / "shelf_after.png").read_bytes()
    handles = [service.ask(picture, f"Number {n}?", max_new_tokens=2) for n in range(20)]
    states = [handle.wait(SECONDS).state for handle in handles]
    assert states == [State.SUCCESS] * 20


def test_sampled_answer_repeats_with_its_seed(service: Client, pictures: Path) -> None:
    picture = pictures / "shelf_after.png"

    def answer(seed: int) -> str | None:
        task = service.ask(picture, "What?", temperature=1.5, seed=seed, max_new_tokens=12)
        return task.result(SECONDS).text

    assert answer(7) == answer(7)
    assert answer(7) != answer(8)


def test_running_task_shows_tokens_and_can_be_cancelled(service: Client, pictures: Path) -> None:
    handle = service.ask(pictures / "shelf_after.png", "Go on.", max_new_tokens=12_000)
    wait_until(lambda: handle.status().generated_tokens, seconds=SECONDS)
    running = handle.status()
    assert running.state is State.PROGRESS
    assert running.max_new_tokens == 12_000
    assert handle.cancel() is State.PROGRESS
    final = handle.wait(SECONDS)
    assert final.state is State.REVOKED
    assert final.generated_tokens < 12_000
    with pytest.raises(TaskRevoked):
        handle.result(0)


def test_task_past_its_deadline_expires_while_running(service: Client, pictures: Path) -> None:
    handle = service.ask(
        pictures / "shelf_after.png", "Go on.", max_new_tokens=12_000, expires_in_seconds=1.0
    )
    assert handle.wait(SECONDS).state is State.EXPIRED
    with pytest.raises(TaskExpired):
        handle.result(0)


def test_celery_result_of_our_task_holds_text_value_and_key(
    pocket: Client, pocket_app: Celery, pictures: Path
) -> None:
    fields = {"title": str, "author": str}
    handle = pocket.ocr(pictures / COVER, fields=fields)
    value = AsyncResult(handle.id, app=pocket_app).get(timeout=SECONDS)
    document = {"title": COVER_TITLE, "author": COVER_AUTHOR}
    assert value == {
        "result_key": handle.result_key,
        "text": json.dumps(document),
        "value": document,
    }


def test_celery_result_of_a_failed_task_is_a_failure(service: Client, other_app: Celery) -> None:
    handle = service.ocr(b"\xff\xd8 but no picture")
    with pytest.raises(TaskFailed) as caught:
        AsyncResult(handle.id, app=other_app).get(timeout=SECONDS)
    assert "no image" in str(caught.value)
    assert (caught.value.code, caught.value.retryable) == ("not_an_image", False)
    with pytest.raises(TaskFailed) as ours:
        handle.result(SECONDS)
    assert ours.value.code == "not_an_image"


def test_celery_result_of_a_cancelled_task_is_revoked(
    service: Client, other_app: Celery, pictures: Path
) -> None:
    handle = service.ask(pictures / "shelf_after.png", "Go on.", max_new_tokens=12_000)
    wait_until(lambda: handle.status().generated_tokens, seconds=SECONDS)
    handle.cancel()
    with pytest.raises(TaskRevokedError):
        AsyncResult(handle.id, app=other_app).get(timeout=SECONDS)


def test_task_sent_by_a_foreign_celery_app_has_record_and_result(
    pocket: Client, pocket_app: Celery, store: ObjectStore, pictures: Path
) -> None:
    store.put("inputs/cover.jpg", (pictures / COVER).read_bytes())
    sent = pocket_app.send_task(
        "visionq.run",
        kwargs={
            "task": {
                "kind": "ocr",
                "question": "Title and author?",
                "images": [{"ref": "inputs/cover.jpg"}],
                "options": {"max_new_tokens": 60},
            }
        },
        queue=f"{POCKET_NAMESPACE}.bulk",
    )
    value = sent.get(timeout=SECONDS)
    status = pocket.status(sent.id)
    assert (status.state, status.kind) == (State.SUCCESS, "ocr")
    assert value["text"] == COVER_ANSWER
    assert pocket.result(sent.id, 0).text == COVER_ANSWER
    assert json.loads(store.get(f"results/{sent.id}.json"))["task_id"] == sent.id


def test_question_about_a_control_token_has_its_letters_in_the_prompt(
    pocket: Client, store: ObjectStore, pictures: Path
) -> None:
    """The pocket model's prompts are single characters, so both questions have as many tokens."""
    store.put("inputs/my\u202fcover 1.jpg", (pictures / COVER).read_bytes())
    handles = [
        pocket.ask(f"s3://{store.bucket}/inputs/my\u202fcover 1.jpg", question, max_new_tokens=4)
        for question in ("What does </s> mean?", "What does word mean?")
    ]
    usages = [handle.result(timeout=SECONDS).usage for handle in handles]
    with_it, without = (usage.prompt_tokens if usage else None for usage in usages)
    assert with_it == without is not None
