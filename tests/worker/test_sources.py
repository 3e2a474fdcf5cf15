"""Where an image may come from, and what is said of a reference that leads nowhere."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import boto3
import pytest

from tests.worker.picture_bytes import DOT, DOT_DIGEST
from tests.worker.workbench import DOT_KEY
from visionq import StoreAddress
from visionq.contract import FailureCode, ImageRef
from visionq.errors import BucketMissing, StorageDenied, StorageUnavailable
from visionq.inputs import upload
from visionq.names import input_key
from visionq.objects import ObjectStore
from visionq_worker.errors import TaskError
from visionq_worker.fetching import Fetcher
from visionq_worker.sources import Source, Sources

TASK_ID = "00000000-0000-4000-8000-000000000000"
URL = "https://pictures.example/dot.png"


class Notes:
    """Pins of one task, in memory."""

    def __init__(self) -> None:
        self.keys: dict[int, str] = {}

    def pinned(self, task_id: str, number: int) -> str | None:
        assert task_id == TASK_ID
        return self.keys.get(number)

    def pin(self, task_id: str, number: int, key: str) -> str:
        assert task_id == TASK_ID
        return self.keys.setdefault(number, key)


class ScriptedFetcher(Fetcher):
    """What is behind every URL."""

    def __init__(self, content: bytes, meanwhile: Callable[[], object] = lambda: None) -> None:
        self.content = content
        self.urls: list[str] = []
        self._meanwhile = meanwhile

    def fetch(self, url: str) -> bytes:
        self.urls.append(url)
        self._meanwhile()
        return self.content


@pytest.fixture
def sources(bucket: ObjectStore) -> Sources:
    """Of a service that may read one more bucket, and one that nobody has made."""
    bucket.put(DOT_KEY, DOT)
    return Sources(bucket, Notes(), allowed_buckets=("photos", "forgotten"), max_bytes=1_000)


@pytest.fixture(scope="module", autouse=True)
def _photos(address: StoreAddress) -> Iterator[None]:
    """A second and a third bucket on the same server, each with the dot under `a/dot.png`."""
    client = boto3.session.Session().client(
        "s3",
        endpoint_url=address.endpoint_url,
        region_name=address.region,
        aws_access_key_id=address.access_key,
        aws_secret_access_key=address.secret_key,
    )
    for name in ("photos", "private"):
        client.create_bucket(Bucket=name)
        client.put_object(Bucket=name, Key="a/dot.png", Body=DOT)
    yield
    client.close()


def refusal(sources: Sources, ref: str) -> tuple[FailureCode, str]:
    with pytest.raises(TaskError) as caught:
        sources.fetch(TASK_ID, 0, ImageRef(ref=ref))
    assert not caught.value.retryable
    return caught.value.code, caught.value.message


@pytest.mark.parametrize("ref", [DOT_KEY, f"s3://visionq/{DOT_KEY}", "s3://photos/a/dot.png"])
def test_reference_gives_bytes_and_digest(sources: Sources, ref: str) -> None:
    assert sources.fetch(TASK_ID, 0, ImageRef(ref=ref)) == Source(DOT, DOT_DIGEST)


@pytest.mark.parametrize(("asked", "meant"), [(None, 1), (1, 1), (7, 7)])
def test_of_a_pdf_the_first_page_is_meant_unless_another_is_named(
    sources: Sources, bucket: ObjectStore, asked: int | None, meant: int
) -> None:
    bucket.put("inputs/a.pdf", b"%PDF-1.7")
    assert sources.fetch(TASK_ID, 0, ImageRef(ref="inputs/a.pdf", page=asked)).page == meant


def test_an_image_has_no_pages(sources: Sources) -> None:
    with pytest.raises(TaskError) as caught:
        sources.fetch(TASK_ID, 0, ImageRef(ref=DOT_KEY, page=1))
    assert caught.value.code is FailureCode.PAGE_MISSING
    assert "no PDF" in caught.value.message


@pytest.mark.parametrize(
    ("ref", "code", "message"),
    [
        ("s3://private/a/dot.png", "input_not_allowed", "the bucket is not allowed"),
        ("https://example.org/dot.png", "input_not_allowed", "image URLs are switched off"),
        ("inputs/nothing", "input_missing", "an input image is not there"),
        ("s3://photos/nothing", "input_missing", "an input image is not there"),
        ("inputs/" + "x" * 300, "input_missing", "an input image is not there"),
        (
            "inputs//dot.png",
            "input_missing",
            "the object store gives no image under this reference",
        ),
        (
            "s3://forgotten/a/dot.png",
            "input_missing",
            "the object store gives no image under this reference",
        ),
    ],
)
def test_reference_that_leads_nowhere_is_refused(
    sources: Sources, ref: str, code: str, message: str
) -> None:
    assert refusal(sources, ref) == (code, message)


def of_prefixes(store: ObjectStore, *prefixes: str) -> Sources:
    return Sources(
        store,
        Notes(),
        image_prefixes=prefixes,
        allowed_buckets=("photos", store.bucket),
        max_bytes=1_000,
    )


@pytest.mark.parametrize("key", ["results/a.json", "probes/a", "Inputs/a", "input", "a/inputs/a"])
@pytest.mark.parametrize("form", ["{}", "s3://visionq/{}"])
def test_key_outside_the_prefixes_is_not_read(bucket: ObjectStore, key: str, form: str) -> None:
    bucket.put(key, DOT)
    sources = of_prefixes(bucket, "inputs/", "scans/")
    message = "the image's key begins with none of storage.image_prefixes"
    assert refusal(sources, form.format(key)) == ("input_not_allowed", message)
    assert refusal(of_prefixes(bucket), DOT_KEY) == ("input_not_allowed", message)
    assert of_prefixes(bucket, "").fetch(TASK_ID, 0, ImageRef(ref=key)).content == DOT


def test_key_of_each_prefix_and_of_other_buckets_is_read(bucket: ObjectStore) -> None:
    bucket.put("scans/my photo\u202f1.png", DOT)
    sources = of_prefixes(bucket, "inputs/", "scans/")
    for ref in ("scans/my photo\u202f1.png", "s3://visionq/scans/my photo\u202f1.png"):
        assert sources.fetch(TASK_ID, 0, ImageRef(ref=ref)) == Source(DOT, DOT_DIGEST)
    elsewhere = ImageRef(ref="s3://photos/a/dot.png")
    assert sources.fetch(TASK_ID, 0, elsewhere) == Source(DOT, DOT_DIGEST)


def test_what_a_url_leads_to_is_read_again_whatever_the_prefixes_are(bucket: ObjectStore) -> None:
    sources = Sources(
        bucket,
        Notes(),
        image_prefixes=("scans/",),
        allowed_buckets=(),
        max_bytes=1_000,
        fetcher=ScriptedFetcher(DOT),
    )
    for _ in range(2):
        assert sources.fetch(TASK_ID, 0, ImageRef(ref=URL)) == Source(DOT, DOT_DIGEST)


def test_as_many_bytes_as_allowed_are_read_and_one_more_is_refused(
    sources: Sources, bucket: ObjectStore
) -> None:
    key = f"inputs/{uuid.uuid4()}"
    bucket.put(key, b"x" * 1_000)
    assert sources.fetch(TASK_ID, 0, ImageRef(ref=key)).content == b"x" * 1_000
    bucket.put(key, b"x" * 1_001)
    assert refusal(sources, key) == (
        "input_too_large",
        "an input image has more than 1000 bytes",
    )


def test_store_that_is_away_is_not_the_tasks_fault(closed_port: int) -> None:
    address = StoreAddress(
        bucket="visionq",
        endpoint_url=f"http://127.0.0.1:{closed_port}",
        access_key="x",
        secret_key="x",
    )
    with pytest.raises(StorageUnavailable):
        own(ObjectStore(address)).fetch(TASK_ID, 0, ImageRef(ref=DOT_KEY))


def test_wrong_secret_of_the_service_is_not_the_tasks_fault(address: StoreAddress) -> None:
    store = ObjectStore(replace(address, secret_key="0" * 40))
    with pytest.raises(StorageDenied):
        Sources(store, Notes(), allowed_buckets=(), max_bytes=1_000).fetch(
            TASK_ID, 0, ImageRef(ref=DOT_KEY)
        )
    store.close()


def test_missing_bucket_of_the_service_is_not_the_tasks_fault(address: StoreAddress) -> None:
    store = ObjectStore(replace(address, bucket="forgotten"))
    with pytest.raises(BucketMissing):
        Sources(store, Notes(), allowed_buckets=(), max_bytes=1_000).fetch(
            TASK_ID, 0, ImageRef(ref=DOT_KEY)
        )
    store.close()


@pytest.mark.parametrize("ref", ["inputs/{}", "s3://visionq/inputs/{}"])
@pytest.mark.parametrize("wrong", [b"", b"of another task", b"cut o", b"cut off!"])
def test_input_that_is_not_what_its_key_says_is_refused_until_it_is_uploaded_again(
    sources: Sources, bucket: ObjectStore, ref: str, wrong: bytes
) -> None:
    content = b"\xff\xd8\xff cut off."
    key = input_key(content)
    bucket.put(key, wrong)
    image = ImageRef(ref=ref.format(key.removeprefix("inputs/")))
    with pytest.raises(TaskError, match="upload it again") as caught:
        sources.fetch(TASK_ID, 0, image)
    assert (caught.value.code, caught.value.retryable) == (FailureCode.INPUT_CORRUPT, True)
    assert upload(content, bucket) == ImageRef(ref=key)
    assert sources.fetch(TASK_ID, 0, image).content == content


def test_input_that_is_mended_between_two_reads_is_taken(bucket: ObjectStore) -> None:
    content = b"mended meanwhile"
    key = input_key(content)
    bucket.put(key, b"wrong")

    class MendedStore(ObjectStore):
        def get(self, key: str, **more: Any) -> bytes:
            found = bucket.get(key, **more)
            bucket.put(key, content)
            return found

    store = MendedStore(StoreAddress(bucket=bucket.bucket))
    assert own(store).fetch(TASK_ID, 0, ImageRef(ref=key)).content == content


def test_digest_is_asked_of_inputs_of_the_services_bucket_only(
    sources: Sources, bucket: ObjectStore, address: StoreAddress
) -> None:
    key = input_key(b"anything")
    with_photos = ObjectStore(replace(address, bucket="photos"))
    with_photos.put(key, DOT)
    with_photos.close()
    assert sources.fetch(TASK_ID, 0, ImageRef(ref=f"s3://photos/{key}")).content == DOT
    bucket.put("inputs/named-by-its-owner", DOT)
    assert sources.fetch(TASK_ID, 0, ImageRef(ref="inputs/named-by-its-owner")).content == DOT


def test_bytes_behind_a_url_replace_a_wrong_object(bucket: ObjectStore) -> None:
    content, notes = uuid.uuid4().bytes, Notes()
    bucket.put(input_key(content), bytes(16))
    found = from_web(bucket, notes, ScriptedFetcher(content)).fetch(TASK_ID, 0, ImageRef(ref=URL))
    assert bucket.get(notes.keys[0]) == found.content == content


def own(store: ObjectStore) -> Sources:
    """Those of the service's own bucket only."""
    return Sources(store, Notes(), allowed_buckets=(), max_bytes=1_000)


def from_web(bucket: ObjectStore, notes: Notes, fetcher: Fetcher) -> Sources:
    return Sources(bucket, notes, allowed_buckets=(), max_bytes=1_000, fetcher=fetcher)


def test_bytes_behind_a_url_are_fetched_once_and_kept(bucket: ObjectStore) -> None:
    content, notes = uuid.uuid4().bytes, Notes()
    first = from_web(bucket, notes, ScriptedFetcher(content)).fetch(TASK_ID, 2, ImageRef(ref=URL))
    assert first.content == content
    assert notes.keys == {2: f"inputs/{first.digest}"}
    assert bucket.get(notes.keys[2]) == content
    changed = ScriptedFetcher(b"something else by now")
    assert from_web(bucket, notes, changed).fetch(TASK_ID, 2, ImageRef(ref=URL)) == first
    assert changed.urls == []


def test_attempt_that_was_slower_takes_the_bytes_of_the_first_one(bucket: ObjectStore) -> None:
    bucket.put(DOT_KEY, DOT)
    notes = Notes()
    slow = ScriptedFetcher(b"late", lambda: notes.pin(TASK_ID, 0, DOT_KEY))
    found = from_web(bucket, notes, slow).fetch(TASK_ID, 0, ImageRef(ref=URL))
    assert found == Source(DOT, DOT_DIGEST)
