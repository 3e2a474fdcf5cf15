"""Every form an image may have in a backend's hands becomes a reference, uploaded at most once."""

import base64
import hashlib
import io
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from tests.client.hand_worker import HandWorker
from visionq import Client, ImageRef, InvalidTask, Page, StoreAddress
from visionq.errors import InvalidImage
from visionq.local import LocalUrls
from visionq.names import Names
from visionq.objects import ObjectStore
from visionq.records import Records

Form = Callable[[bytes, Path], Any]

FORMS: dict[str, Form] = {
    "a path": lambda _content, path: path,
    "a path as a string": lambda _content, path: str(path),
    "bytes": lambda content, _path: content,
    "a bytearray": lambda content, _path: bytearray(content),
    "a memoryview": lambda content, _path: memoryview(content),
    "a file object": lambda content, _path: io.BytesIO(content),
    "a data URI": lambda content, _path: (
        "data:image/png;base64," + base64.b64encode(content).decode()
    ),
    "a data URI without a type": lambda content, _path: (
        "data:;base64," + base64.b64encode(content).decode()
    ),
}


NAMES = Names("image-arguments")


@pytest.fixture(scope="module")
def client(urls: LocalUrls, address: StoreAddress) -> Iterator[Client]:
    """One client for all tests of this file: making its boto3 client takes longer than they do."""
    with Client(urls.broker_url, address, namespace=NAMES.namespace) as opened:
        yield opened


@pytest.fixture
def worker(urls: LocalUrls, raw: redis.Redis, bucket: ObjectStore) -> HandWorker:
    """The worker of `client`'s tasks, of which there are none yet."""
    raw.delete(*raw.keys(f"{NAMES.namespace}*"), "no key")
    return HandWorker(raw, NAMES, Records(raw, NAMES, ttl_seconds=600), bucket)


@pytest.fixture
def content(request: pytest.FixtureRequest) -> bytes:
    """Bytes no other test uploads."""
    return b"\xff\xd8" + f"the image of {request.node.name}".encode()


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "image.png"
    file.write_bytes(content)
    return file


def key_of(content: bytes) -> str:
    return "inputs/" + hashlib.sha256(content).hexdigest()


def references(worker: HandWorker, task_id: str) -> list[str]:
    return [image.ref for image in worker.task(task_id).images]


@pytest.mark.parametrize("form", FORMS)
def test_bytes_in_any_form_are_uploaded_under_their_digest(
    client: Client,
    worker: HandWorker,
    bucket: ObjectStore,
    content: bytes,
    path: Path,
    form: str,
) -> None:
    handle = client.ocr(FORMS[form](content, path))
    assert references(worker, handle.id) == [key_of(content)]
    assert bucket.get(key_of(content)) == content


def test_an_open_file_is_uploaded_from_where_it_stands(
    client: Client, worker: HandWorker, content: bytes, path: Path
) -> None:
    with path.open("rb") as file:
        handle = client.ocr(file)
    assert references(worker, handle.id) == [key_of(content)]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_a_pil_image_is_uploaded_as_a_png_of_the_same_pixels(
    client: Client, worker: HandWorker, bucket: ObjectStore, mode: str
) -> None:
    image = Image.linear_gradient("L").resize((16, 8)).convert(mode)
    handle = client.ocr(image)
    [key] = references(worker, handle.id)
    stored = bucket.get(key)
    assert key == key_of(stored)
    with Image.open(io.BytesIO(stored)) as uploaded:
        assert (uploaded.format, uploaded.size) == ("PNG", (16, 8))
        assert uploaded.convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def test_a_pil_image_of_a_printer_s_colours_is_uploaded_as_rgb(
    client: Client, worker: HandWorker, bucket: ObjectStore
) -> None:
    handle = client.ocr(Image.new("CMYK", (4, 4), (0, 255, 255, 0)))
    with Image.open(io.BytesIO(bucket.get(references(worker, handle.id)[0]))) as uploaded:
        assert uploaded.mode == "RGB"
        assert uploaded.getpixel((0, 0)) == (255, 0, 0)


def test_a_pil_image_that_lies_on_its_side_is_uploaded_upright(
    client: Client, worker: HandWorker, bucket: ObjectStore
) -> None:
    lying = Image.linear_gradient("L").resize((16, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    lying.save(file, "PNG", exif=exif)
    [key] = references(worker, client.ocr(Image.open(file)).id)
    with Image.open(io.BytesIO(bucket.get(key))) as uploaded:
        assert uploaded.size == (8, 16)
        assert uploaded.tobytes() == lying.transpose(Image.Transpose.ROTATE_270).tobytes()
        assert not uploaded.getexif()


def test_equal_pil_images_share_one_object(client: Client, worker: HandWorker) -> None:
    first, second = (client.ocr(Image.new("RGB", (5, 5), "teal")) for _ in range(2))
    assert references(worker, first.id) == references(worker, second.id)


@pytest.mark.parametrize(
    ("argument", "reference"),
    [
        ("s3://archive/scan.png", "s3://archive/scan.png"),
        ("https://example.org/a.png", "https://example.org/a.png"),
        ("inputs/" + "ab" * 32, "inputs/" + "ab" * 32),
        (ImageRef(ref="photos/2024/a.png"), "photos/2024/a.png"),
    ],
)
def test_a_reference_passes_through_untouched(
    client: Client, worker: HandWorker, argument: str | ImageRef, reference: str
) -> None:
    assert references(worker, client.ocr(argument).id) == [reference]


def test_several_forms_may_be_mixed_and_keep_their_order(
    client: Client, worker: HandWorker, content: bytes, path: Path
) -> None:
    handle = client.ask(["s3://archive/a.png", content, path, content + b", another one"], "Which?")
    assert references(worker, handle.id) == [
        "s3://archive/a.png",
        key_of(content),
        key_of(content),
        key_of(content + b", another one"),
    ]


def test_what_is_already_uploaded_is_not_uploaded_again(
    client: Client, bucket: ObjectStore, content: bytes
) -> None:
    bucket.put(key_of(content), content, "image/of-the-first-upload")
    client.ocr(content)
    assert bucket._head(key_of(content))["ContentType"] == "image/of-the-first-upload"


@pytest.mark.parametrize("change", [lambda _: b"", lambda it: it[:-1], lambda it: it[::-1]])
def test_a_wrong_object_under_the_digest_of_an_image_is_replaced(
    client: Client, bucket: ObjectStore, content: bytes, change: Callable[[bytes], bytes]
) -> None:
    bucket.put(key_of(content), change(content))
    client.ocr(content)
    assert bucket.get(key_of(content)) == content


def test_a_reference_costs_the_store_nothing(
    urls: LocalUrls, closed_port: int, worker: HandWorker
) -> None:
    away = StoreAddress(bucket="away", endpoint_url=f"http://127.0.0.1:{closed_port}")
    with Client(urls.broker_url, away, namespace=NAMES.namespace) as blind:
        handle = blind.ocr("inputs/" + "ab" * 32)
    assert worker.message_ids() == [handle.id]


def truncated_jpeg() -> Image.Image:
    buffer = io.BytesIO()
    Image.linear_gradient("L").save(buffer, "JPEG")
    return Image.open(io.BytesIO(buffer.getvalue()[:600]))


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no bytes": (lambda: b"", "the image is empty"),
    "an empty file object": (io.BytesIO, "the image is empty"),
    "a file object in text mode": (lambda: io.StringIO("image"), "opened in binary mode"),
    "a file that is not there": (lambda: Path("/nowhere/a.png"), "No such file"),
    "a string that names no file": (lambda: "a.png", "cannot read a.png: No such file"),
    "an empty string": (lambda: "", "cannot read"),
    "a folder": (lambda: Path("/"), "Is a directory"),
    "a string no file can be named by": (lambda: "image\0.png", "cannot read"),
    "a very long string": (lambda: "a" * 5000, "File name too long"),
    "a plain http URL": (lambda: "http://example.org/a.png", "must be https"),
    "a data URI that is not base64": (lambda: "data:image/png,abc", "base64 encoded"),
    "a data URI of bad base64": (lambda: "data:image/png;base64,%%%", "not valid base64"),
    "a data URI cut off": (lambda: "data:image/png;base64,AAAAA", "not valid base64"),
    "a data URI beyond ASCII": (lambda: "data:image/png;base64,äää", "not valid base64"),
    "an empty data URI": (lambda: "data:image/png;base64,", "the image is empty"),
    "a number": (lambda: 5, "a int is no image argument"),
    "nothing": (lambda: None, "a NoneType is no image argument"),
    "a dict": (lambda: {"ref": "inputs/a"}, "a dict is no image argument"),
    "an object": (object, "a object is no image argument"),
    "a generator": (lambda: (b"image" for _ in "1"), "a generator is no image argument"),
    "a PIL image cut off": (truncated_jpeg, "PIL image"),
    "a PIL image PNG cannot hold": (lambda: Image.new("F", (4, 4)), "PIL image"),
    "a PIL image without pixels": (lambda: Image.new("RGB", (0, 0)), "PIL image"),
    "more than 50 MiB": (lambda: b"\xff\xd8" + bytes(50 * 1024 * 1024), "the limit is 52428800"),
}


@pytest.mark.parametrize("form", BAD)
def test_what_is_no_image_is_refused_and_nothing_is_sent(
    client: Client, worker: HandWorker, form: str
) -> None:
    make, sentence = BAD[form]
    with pytest.raises(InvalidImage, match=sentence):
        client.ocr(make())
    assert worker.keys() == []


def test_an_upload_object_of_an_asyncio_framework_is_refused_by_the_synchronous_client(
    client: Client,
) -> None:
    class Upload:
        async def read(self) -> bytes:
            return b"image"

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(InvalidImage, match="AsyncClient"):
            client.ocr(Upload())


def test_a_second_image_that_is_bad_stops_the_task(
    client: Client, worker: HandWorker, content: bytes
) -> None:
    with pytest.raises(InvalidTask):
        client.compare([content, 5])  # type: ignore[list-item]
    assert worker.keys() == []


PAGES: dict[str, Callable[[bytes, Path], Any]] = {
    "bytes": lambda content, _path: Page(content, 3),
    "a path": lambda _content, path: Page(path, 3),
    "a path as a string": lambda _content, path: f"{path}#page=3",
    "a file object": lambda content, _path: Page(io.BytesIO(content), 3),
}


@pytest.mark.parametrize("form", PAGES)
def test_page_of_a_pdf_is_named_beside_the_file(
    client: Client, worker: HandWorker, content: bytes, path: Path, form: str
) -> None:
    handle = client.ocr(PAGES[form](content, path))
    assert worker.task(handle.id).images == (ImageRef(ref=key_of(content), page=3),)


@pytest.mark.parametrize(
    ("argument", "ref"),
    [
        ("s3://letters/a.pdf#page=2", "s3://letters/a.pdf"),
        ("https://example.org/a.pdf#page=2", "https://example.org/a.pdf"),
        (Page("inputs/a.pdf", 2), "inputs/a.pdf"),
        (Page(ImageRef(ref="inputs/a.pdf", page=9), 2), "inputs/a.pdf"),
    ],
)
def test_page_of_a_stored_pdf_is_named_beside_the_reference(
    client: Client, worker: HandWorker, argument: Any, ref: str
) -> None:
    handle = client.ocr(argument)
    assert worker.task(handle.id).images == (ImageRef(ref=ref, page=2),)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("s3://archive/my photo.jpg", ImageRef(ref="s3://archive/my photo.jpg")),
        ("inputs/10.30\u202fUhr.png", ImageRef(ref="inputs/10.30\u202fUhr.png")),
        ("s3://archive/a b.pdf#page=2", ImageRef(ref="s3://archive/a b.pdf", page=2)),
        (ImageRef(ref="s3://archive/a#page=3"), ImageRef(ref="s3://archive/a#page=3")),
        (Page(ImageRef(ref="inputs/a#page=3"), 2), ImageRef(ref="inputs/a#page=3", page=2)),
    ],
)
def test_key_with_white_space_or_a_fragment_of_its_own_can_be_named(
    client: Client, worker: HandWorker, argument: Any, expected: ImageRef
) -> None:
    handle = client.ocr(argument)
    assert worker.task(handle.id).images == (expected,)


@pytest.mark.parametrize(
    "ref", ["inputs/a.pdf#page=two", "inputs/a.pdf#page=", "inputs/a#page=2.pdf", "inputs/#page=1x"]
)
def test_what_only_looks_like_a_page_belongs_to_the_key(
    client: Client, worker: HandWorker, ref: str
) -> None:
    handle = client.ocr(ref)
    assert worker.task(handle.id).images == (ImageRef(ref=ref),)


def test_several_pages_are_one_upload_and_several_images(
    client: Client, worker: HandWorker, content: bytes
) -> None:
    handle = client.compare([Page(content, number) for number in (1, 2)])
    ref = key_of(content)
    assert worker.task(handle.id).images == (ImageRef(ref=ref, page=1), ImageRef(ref=ref, page=2))


@pytest.mark.parametrize("number", [0, -1, 10**7, True, 1.0, "1", None])
def test_page_that_no_pdf_can_have_is_refused(number: Any) -> None:
    with pytest.raises(InvalidImage, match="counted from 1"):
        Page(b"%PDF-1.7", number)


def test_page_zero_of_a_string_is_refused_before_the_file_is_read(client: Client) -> None:
    with pytest.raises(InvalidImage, match="no page 0"):
        client.ocr("nowhere.pdf#page=0")
