"""The client as a typed program uses it. Never run: mypy --strict reads it with the rest."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, assert_type

from PIL import Image
from pydantic import BaseModel

from visionq import (
    AsyncClient,
    AsyncTaskHandle,
    Client,
    Estimate,
    Failure,
    ImageRef,
    Kind,
    Lane,
    NoValue,
    Options,
    Result,
    State,
    Status,
    StoreAddress,
    Submission,
    SubmitOptions,
    Task,
    TaskFailed,
    TaskHandle,
    Usage,
    Verdict,
)
from visionq.kinds import BUILTIN_KINDS
from visionq.settings import Settings, load_settings

ADDRESS = StoreAddress(bucket="pictures", endpoint_url="http://127.0.0.1:8333")


def make_clients() -> None:
    client = Client("redis://127.0.0.1:6379/0", ADDRESS, namespace="staging")
    assert_type(client, Client)
    assert_type(Client.from_settings(), Client)
    assert_type(AsyncClient.from_settings(), AsyncClient)
    settings = load_settings("settings.toml", broker={"namespace": "staging"})
    assert_type(settings, Settings)
    assert_type(settings.kinds, dict[str, Kind])
    kinds = {**BUILTIN_KINDS, "invoice": Kind(prompt="Read this invoice.", max_images=2)}
    with Client("redis://127.0.0.1:6379/0", kinds=kinds) as opened:
        assert_type(opened, Client)
    Client(6379)  # type: ignore[arg-type]
    Client("redis://127.0.0.1:6379/0", bucket="pictures")  # type: ignore[call-arg]
    AsyncClient("redis://127.0.0.1:6379/0", timeout_seconds="2")  # type: ignore[arg-type]


def submit_images_of_every_form(client: Client) -> None:
    path = Path("cover.jpg")
    assert_type(client.ocr(path), TaskHandle)
    assert_type(client.ocr("cover.jpg", "Title and author?"), TaskHandle)
    assert_type(client.describe(path.read_bytes()), TaskHandle)
    assert_type(client.describe(bytearray(b"image")), TaskHandle)
    assert_type(client.describe(memoryview(b"image")), TaskHandle)
    assert_type(client.table(BytesIO(b"image")), TaskHandle)
    with path.open("rb") as file:
        assert_type(client.detect(file), TaskHandle)
    with Image.open(path) as image:
        assert_type(client.analyze(image), TaskHandle)
    assert_type(client.compare([path, "s3://archive/second.png"]), TaskHandle)
    assert_type(client.ask((path, ImageRef(ref="photos/a.png")), "Which is older?"), TaskHandle)


def submit_with_options(client: Client) -> None:
    handle = client.submit(
        "ocr",
        "cover.jpg",
        "Title?",
        max_new_tokens=100,
        temperature=0.5,
        top_p=0.9,
        seed=7,
        num_crops=4,
        lane=Lane.BULK,
        expires_in_seconds=60,
        tenant="acme",
        labels={"order": "17"},
        idempotency_key="order-17",
    )
    assert_type(handle, TaskHandle)
    client.ocr("cover.jpg", lane="bulk")
    options: SubmitOptions = {"seed": 7, "lane": "bulk"}
    client.ocr("cover.jpg", **options)
    client.ocr("cover.jpg", beams=4)  # type: ignore[call-arg]
    client.ocr("cover.jpg", seed="seven")  # type: ignore[arg-type]
    client.ocr(5)  # type: ignore[arg-type]
    client.ask("cover.jpg")  # type: ignore[call-arg]


def estimate(client: Client) -> None:
    found = client.estimate("ocr", "cover.jpg", "Title?", num_crops=4, lane="bulk")
    assert_type(found, Estimate)
    assert_type(found.image_tokens, tuple[int, ...])
    assert_type(found.fits, bool | None)
    assert_type(found.seconds, float | None)
    client.estimate("ocr", "cover.jpg", beams=4)  # type: ignore[call-arg]


def submit_many(client: Client, paths: Sequence[Path]) -> None:
    submissions = [Submission("describe", path, options={"tenant": "acme"}) for path in paths]
    handles = client.submit_many(submissions)
    assert_type(handles, list[TaskHandle])
    assert_type(client.status_many([handle.id for handle in handles]), list[Status])
    assert_type(client.recent(limit=10), list[Status])


def watch(handle: TaskHandle) -> None:
    assert_type(handle.id, str)
    assert_type(handle.result_key, str)
    assert_type(handle.cancel(), State)
    assert_type(handle.wait(timeout=60), Status)
    status = handle.status()
    assert_type(status, Status)
    assert_type(status.state, State)
    assert_type(status.lane, Lane | None)
    assert_type(status.position, int | None)
    assert_type(status.is_done, bool)
    assert_type(status.failure, Failure | None)
    assert_type(status.has_workers, bool | None)
    assert_type(status.tenant, str | None)
    assert_type(status.source, Literal["record", "store"] | None)


def read(handle: TaskHandle) -> str:
    try:
        result = handle.result(timeout=60)
    except TaskFailed as error:
        assert_type(error.code, str)
        assert_type(error.retryable, bool)
        raise
    assert_type(result, Result)
    assert_type(result.value, Any)
    assert_type(result.usage, Usage | None)
    assert_type(result.verdict, Verdict | None)
    assert_type(result.timings.decode_seconds, float | None)
    assert_type(result.text, str | None)
    return result.text or ""


class Book(BaseModel):
    title: str


def ask_for_a_type(client: Client, handle: TaskHandle) -> str:
    assert_type(client.ask("cover.jpg", "Which book?", schema=Book), TaskHandle)
    assert_type(client.ocr("cover.jpg", schema={"type": "null"}), TaskHandle)
    Submission("ocr", "cover.jpg", options={"schema": Book})
    assert_type(client.ocr("cover.jpg", fields={"title": str, "year": int}), TaskHandle)
    client.ocr("cover.jpg", fields={"title": list})  # type: ignore[dict-item]
    client.ocr("cover.jpg", schema=int)  # type: ignore[arg-type]
    client.ocr("cover.jpg", schema="Book")  # type: ignore[arg-type]
    try:
        assert_type(handle.parsed(Book, timeout=60), Book)
    except NoValue as error:
        assert_type(error.result, Result | None)
        raise
    return client.parsed(handle.id, Book).title


def use_a_client_by_ids(client: Client, task_id: str) -> None:
    assert_type(client.task(task_id), TaskHandle)
    assert_type(client.status(task_id), Status)
    assert_type(client.status_many([task_id], look_in_store=True), list[Status])
    assert_type(client.wait(task_id, 60), Status)
    assert_type(client.result(task_id, timeout=None), Result)
    assert_type(client.cancel(task_id), State)


async def use_the_asyncio_client(paths: Sequence[Path]) -> None:
    async with AsyncClient("redis://127.0.0.1:6379/0", ADDRESS) as client:
        assert_type(client, AsyncClient)
        handle = await client.ocr("cover.jpg", "Title?", lane="bulk")
        assert_type(handle, AsyncTaskHandle)
        assert_type(handle.id, str)
        assert_type(handle.result_key, str)
        assert_type(await client.submit("compare", list(paths)), AsyncTaskHandle)
        assert_type(await client.ask(paths[0], "Why?"), AsyncTaskHandle)
        assert_type(await handle.status(), Status)
        assert_type(await handle.wait(60), Status)
        assert_type(await handle.result(timeout=60), Result)
        assert_type(await handle.cancel(), State)
        assert_type(await client.estimate("ocr", paths[0]), Estimate)
        many = await client.submit_many(Submission("describe", path) for path in paths)
        assert_type(many, list[AsyncTaskHandle])
        assert_type(await client.status_many([item.id for item in many]), list[Status])
        assert_type(await client.recent(), list[Status])
        assert_type(client.task(handle.id), AsyncTaskHandle)
        assert_type(await client.result(handle.id), Result)
        assert_type(await handle.parsed(Book), Book)
        assert_type(await client.parsed(handle.id, Book, timeout=60), Book)


class Upload:
    """What an asyncio web framework hands out for an uploaded file."""

    async def read(self, size: int = -1) -> bytes:
        return b"image" * abs(size)


async def submit_an_upload(client: AsyncClient, upload: Upload) -> None:
    assert_type(await client.ocr(upload), AsyncTaskHandle)
    assert_type(await client.ask([upload, b"image"], "Which?"), AsyncTaskHandle)


def build_a_task() -> Task:
    task = Task(
        id="0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11",
        kind="ocr",
        images=(ImageRef(ref="inputs/a"),),
        options=Options(max_new_tokens=100),
    )
    assert_type(task.lane, Lane)
    assert_type(task.labels, dict[str, str])
    return task
