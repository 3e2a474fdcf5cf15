"""What a task would cost, told before it is submitted: by headers, and by what workers tell."""

from __future__ import annotations

import asyncio
import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from PIL import Image

from tests.client.hand_worker import HandWorker
from tests.support.addresses import store_address
from visionq import (
    AsyncClient,
    Client,
    InvalidTask,
    Page,
    PromptTooLong,
    State,
    StorageError,
    StoreAddress,
)
from visionq.errors import BrokerUnavailable, ImageTooNarrow, InvalidImage
from visionq.fleet import REPORT_TTL_SECONDS, Fleets, WorkerReport
from visionq.image_sizes import size_in_hand
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.submissions import Images
from visionq_worker.developing import Upright
from visionq_worker.images import ImageLimits, open_image
from visionq_worker.model.geometry import num_image_tokens

ORIENTATION = 0x0112
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
LIMITS = ImageLimits(max_pixels=1_000_000, formats=FORMATS)


def report(
    max_context_tokens: int = 4096, per_second: float | None = None, seconds: float | None = None
) -> WorkerReport:
    return WorkerReport(
        model="tiny",
        model_revision=None,
        max_context_tokens=max_context_tokens,
        concurrency=80,
        tasks_per_second=per_second,
        seconds_per_task=seconds,
    )


def picture(form: str = "PNG", size: tuple[int, int] = (640, 480), **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, form, **options)
    return buffer.getvalue()


def size_at_the_worker(content: bytes) -> tuple[int, int]:
    width, height = Upright(open_image(content, LIMITS).load()).size
    return width, height


@pytest.fixture
def fleets(raw: redis.Redis, names: Names) -> Fleets:
    return Fleets(raw, names)


@pytest.mark.parametrize("form", FORMATS)
def test_the_size_is_the_one_the_worker_sees(form: str) -> None:
    content = picture(form, (501, 333))
    assert size_in_hand(content) == (501, 333)
    assert size_in_hand(content) == size_at_the_worker(content)


@pytest.mark.parametrize("form", ["JPEG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_that_lies_on_its_side_counts_upright(form: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = picture(form, (501, 333), exif=exif)
    assert size_in_hand(content) == size_at_the_worker(content)


def in_form(name: str, content: bytes, folder: Path) -> Any:
    """An image argument of each form."""
    path = folder / "image"
    path.write_bytes(content)
    forms: dict[str, Callable[[], Any]] = {
        "a path": lambda: path,
        "a path as a string": lambda: str(path),
        "bytes": lambda: content,
        "a memoryview": lambda: memoryview(content),
        "a file object": lambda: io.BytesIO(content),
        "a data URI": lambda: "data:image/png;base64," + base64.b64encode(content).decode(),
        "a PIL image": lambda: Image.open(io.BytesIO(content)),
    }
    return forms[name]()


@pytest.mark.parametrize(
    "form",
    [
        "a path",
        "a path as a string",
        "bytes",
        "a memoryview",
        "a file object",
        "a data URI",
        "a PIL image",
    ],
)
def test_images_of_every_form_are_counted_and_none_is_stored(
    client: Client, worker: HandWorker, tmp_path: Path, form: str
) -> None:
    found = client.estimate("ocr", in_form(form, picture(), tmp_path), "Title?")
    assert found.image_tokens == (1921,)
    assert worker.keys() == []


def test_a_file_object_can_still_be_submitted(client: Client, bucket: ObjectStore) -> None:
    content = picture(size=(77, 55))
    file = io.BytesIO(b"before" + content)
    file.seek(6)
    assert client.estimate("ocr", file).image_tokens == (1933 - 12,)
    assert file.tell() == 6


def test_a_stored_image_is_counted_by_its_first_bytes(
    client: Client, bucket: ObjectStore, address: StoreAddress
) -> None:
    bucket.put("inputs/short", picture())
    bucket.put("inputs/padded", picture() + bytes(3_000_000))
    keys: Images = ["inputs/short", f"s3://{address.bucket}/inputs/padded"]
    assert client.estimate("compare", keys, num_crops=16).image_tokens == (1921, 1921)


def test_more_is_read_of_a_stored_image_with_a_long_header(
    client: Client, bucket: ObjectStore
) -> None:
    profiled = picture("JPEG", icc_profile=bytes(300_000))
    bucket.put("inputs/profiled", profiled)
    assert client.estimate("ocr", "inputs/profiled").image_tokens == (1921,)


@pytest.mark.parametrize(
    ("argument", "error"),
    [
        ("inputs/nobody-put-this", StorageError),
        ("https://example.org/a.png", InvalidImage),
        (b"Dear Sir or Madam,", InvalidImage),
        (b"", InvalidImage),
        (picture()[:20], InvalidImage),
        (picture("JPEG")[:100], InvalidImage),
        (b"<svg width='10' height='10'></svg>", InvalidImage),
        ("nothing.png", InvalidImage),
        (picture(size=(6000, 1)), ImageTooNarrow),
    ],
)
def test_what_has_no_size_is_refused(client: Client, argument: Any, error: type) -> None:
    with pytest.raises(error):
        client.estimate("ocr", argument)


def test_a_stored_object_that_is_no_image_is_refused(client: Client, bucket: ObjectStore) -> None:
    bucket.put("inputs/letter", b"Dear Sir or Madam,")
    with pytest.raises(InvalidImage):
        client.estimate("ocr", "inputs/letter")


def test_a_task_that_would_be_refused_has_no_estimate(client: Client) -> None:
    with pytest.raises(InvalidTask, match="needs a question"):
        client.estimate("ask", picture())
    with pytest.raises(InvalidTask, match="num_crops"):
        client.estimate("ocr", picture(), num_crops=99)


def test_without_workers_nothing_is_said_of_context_and_time(client: Client) -> None:
    found = client.estimate("describe", picture())
    assert (found.max_context_tokens, found.fits, found.seconds) == (None, None, None)
    assert (found.max_new_tokens, found.position) == (300, 0)


def test_the_prompt_counts_a_token_for_each_byte(client: Client) -> None:
    found = client.estimate("ocr", picture(), "Größe?", max_new_tokens=7)
    # <|user|>\n, the image's line, 8 bytes of question, <|end|>\n<|assistant|>\n; twice two more.
    assert found.max_prompt_tokens == 1921 + 9 + 1 + 8 + 22 + 4
    assert found.max_new_tokens == 7


def test_the_smallest_context_decides_whether_it_fits(client: Client, fleets: Fleets) -> None:
    fleets.tell("a:1", report(4096))
    fleets.tell("b:1", report(2048))
    found = client.estimate("ocr", picture(), "Title?")
    assert (found.max_context_tokens, found.fits) == (2048, True)
    assert client.estimate("ocr", picture(), "Title?", max_new_tokens=300).fits is False
    assert client.estimate("ocr", picture(), "x" * 200).fits is False


def test_position_and_seconds_follow_from_what_waits_and_how_fast_workers_are(
    client: Client, fleets: Fleets, worker: HandWorker, key: str
) -> None:
    first, *_ = [client.ocr(key) for _ in range(6)]
    client.ocr(key, lane="bulk")
    worker.start(first.id)
    fleets.tell("a:1", report(per_second=0.5, seconds=4.0))
    fleets.tell("b:1", report(per_second=1.5, seconds=2.0))
    fleets.tell("c:1", report())  # it has just been started
    found = client.estimate("ocr", picture())
    assert (found.position, found.seconds) == (5, 5 / 2.0 + 3.0)
    bulk = client.estimate("ocr", picture(), lane="bulk")
    assert (bulk.position, bulk.seconds) == (1, 6 / 2.0 + 3.0)


def test_a_worker_that_tells_nothing_any_more_is_forgotten(
    fleets: Fleets, raw: redis.Redis, names: Names
) -> None:
    fleets.tell("a:1", report())
    ttl = raw.ttl(names.workers())
    assert 0 < ttl <= REPORT_TTL_SECONDS
    at, _, told = str(raw.hget(names.workers(), "a:1")).partition(" ")
    raw.hset(names.workers(), "gone:1", f"{int(at) - REPORT_TTL_SECONDS - 1} {told}")
    raw.hset(names.workers(), "newer:1", f'{at} {told[:-1]}, "colour": "red"}}')
    assert len(fleets.look().workers) == 2
    fleets.tell("a:1", report(1024))
    assert set(cast("dict[str, str]", raw.hgetall(names.workers()))) == {"a:1", "newer:1"}
    assert (fleets.look().min_context_tokens, fleets.look().max_context_tokens) == (1024, 4096)


@pytest.mark.parametrize(
    ("told", "most"), [((), None), ((4, None), None), ((4,), 4), ((1, 4, 2), 4)]
)
def test_crops_are_bounded_by_the_model_that_takes_most(
    fleets: Fleets, told: tuple[int | None, ...], most: int | None
) -> None:
    for number, crops in enumerate(told):
        fleets.tell(f"w:{number}", replace(report(), max_num_crops=crops))
    assert fleets.look().max_num_crops == most


def test_an_estimate_counts_the_crops_that_the_model_will_get(
    client: Client, fleets: Fleets
) -> None:
    large = picture(size=(672, 672))
    assert client.estimate("ocr", large).image_tokens == (num_image_tokens(672, 672, 16),)
    fleets.tell("a:1", replace(report(), max_num_crops=4))
    assert client.estimate("ocr", large).image_tokens == (num_image_tokens(672, 672, 4),)


def test_crops_that_no_model_takes_refuse_nothing(client: Client, fleets: Fleets) -> None:
    """With 16 crops the picture would not fit."""
    fleets.tell("a:1", replace(report(2048), max_num_crops=4))
    fleets.tell("b:1", report(2048))  # takes any number: it is not for it alone to refuse
    task = client.submit("ocr", picture(size=(672, 672)), max_new_tokens=1000)
    assert task.status().state is State.PENDING


TOO_LONG: dict[str, tuple[Any, dict[str, Any]]] = {
    "chosen tokens": ("inputs/a", {"max_new_tokens": 4000}),
    "a picture and chosen tokens": (picture(size=(336, 336)), {"max_new_tokens": 1600}),
    "a question of many bytes": (
        "inputs/a",
        {"question": "Größe? " * 1100, "max_new_tokens": 3600},
    ),
}


@pytest.mark.parametrize("name", TOO_LONG)
def test_what_fits_nowhere_is_refused_and_leaves_nothing_behind(
    client: Client, fleets: Fleets, worker: HandWorker, name: str
) -> None:
    image, options = TOO_LONG[name]
    fleets.tell("a:1", report(2048))
    fleets.tell("b:1", report(4096))
    with pytest.raises(PromptTooLong, match="do not fit into 4096") as caught:
        client.submit("ocr", image, **options)
    assert caught.value.code == "prompt_too_long"
    with pytest.raises(PromptTooLong):
        asyncio.run(_submit(client, image, options))
    assert worker.keys() == [worker.names.workers()]


async def _submit(client: Client, image: Any, options: dict[str, Any]) -> None:
    async with AsyncClient(
        client._parts.broker, client._parts.store, namespace=client._parts.names.namespace
    ) as other:
        await other.submit("ocr", image, **options)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        ("inputs/a", {"max_new_tokens": 3700}),
        (picture(size=(336, 336)), {"max_new_tokens": 1500}),
        (picture(size=(640, 480)), {"max_new_tokens": 2000}),
        (b"\xff\xd8 and no size", {"max_new_tokens": 3700}),
        (picture(size=(6000, 1)), {"max_new_tokens": 3700}),
        ("inputs/a", {}),
    ],
)
def test_what_may_fit_is_accepted(
    client: Client, fleets: Fleets, image: Any, options: dict[str, Any]
) -> None:
    fleets.tell("a:1", report(4096))
    assert client.submit("ocr", image, **options).status().position == 0


def test_nothing_is_refused_while_no_worker_has_told_its_context(client: Client, key: str) -> None:
    assert client.ocr(key, max_new_tokens=32_000).status().is_known


def test_one_of_many_that_does_not_fit_refuses_all(
    client: Client, fleets: Fleets, worker: HandWorker, key: str
) -> None:
    from visionq import Submission

    fleets.tell("a:1", report(4096))
    many = [Submission("ocr", key), Submission("ocr", key, options={"max_new_tokens": 5000})]
    with pytest.raises(PromptTooLong):
        client.submit_many(many)
    assert worker.keys() == [worker.names.workers()]


def test_the_context_is_asked_for_once_and_not_at_every_submit(
    own_client: Client, num_reads: Callable[[Callable[[], Any]], int]
) -> None:
    own_client.ocr("inputs/a")
    # The record, and the message.
    assert num_reads(lambda: own_client.ocr("inputs/a")) == 2


def test_the_estimate_is_one_round_trip(
    own_client: Client, num_reads: Callable[[Callable[[], Any]], int]
) -> None:
    content = picture()
    own_client.estimate("ocr", content)
    assert num_reads(lambda: own_client.estimate("ocr", content)) == 1


def test_a_redis_that_is_away_is_said(address: StoreAddress, closed_port: int) -> None:
    with (
        Client(f"redis://127.0.0.1:{closed_port}/0", address) as client,
        pytest.raises(BrokerUnavailable),
    ):
        client.estimate("ocr", picture())


class Upload:
    """As FastAPI's."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)

    async def read(self) -> bytes:
        return self._file.read()

    async def seek(self, offset: int) -> None:
        self._file.seek(offset)


def test_the_asyncio_client_estimates_an_upload_that_is_submitted_later(
    urls: LocalUrls, namespace: str
) -> None:
    async def ask() -> tuple[Any, bytes]:
        upload = Upload(picture())
        async with AsyncClient(urls.broker_url, store_address(urls), namespace=namespace) as client:
            found = await client.estimate("ocr", upload, "Title?")
        return found, await upload.read()

    found, content = asyncio.run(ask())
    assert (found.image_tokens, content) == ((1921,), picture())


@pytest.mark.parametrize(
    "argument", [b"%PDF-1.7", Page(b"%PDF-1.7", 2), Page("inputs/a.pdf", 2), "a.pdf#page=2"]
)
def test_of_a_page_only_a_worker_knows_the_size(client: Client, argument: Any) -> None:
    with pytest.raises(InvalidImage, match="a page of a PDF is, only a worker"):
        client.estimate("ocr", argument)


class FieldFile:
    """What Django has for a stored file: all that a PIL image has, but its size is its length."""

    def __init__(self, content: bytes) -> None:
        self._file = io.BytesIO(content)
        self.size = len(content)

    def read(self) -> bytes:
        return self._file.read()

    def save(self) -> None:
        raise AssertionError("it is no PIL image")


def test_file_objects_that_cannot_be_rewound_are_refused_and_can_be_submitted(
    client: Client, fleets: Fleets
) -> None:
    fleets.tell("w", report(max_context_tokens=400))
    with pytest.raises(InvalidImage, match="cannot be rewound"):
        client.estimate("ocr", cast("Any", FieldFile(picture())), num_crops=1)
    assert client.ocr(cast("Any", FieldFile(picture())), num_crops=1, max_new_tokens=1).id


def test_upload_that_is_awaited_is_refused_by_the_client_that_cannot(client: Client) -> None:
    class Upload:
        async def read(self) -> bytes:
            return picture()

    with pytest.raises(InvalidImage, match="AsyncClient"):
        client.estimate("ocr", cast("Any", Upload()))


def test_other_buckets_are_the_workers_to_look_into(client: Client) -> None:
    with pytest.raises(InvalidImage, match="another bucket"):
        client.estimate("ocr", "s3://private/a.png")
