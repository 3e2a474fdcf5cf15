"""From an image reference to bytes: the one door through which inputs come in."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from visionq.contract import FailureCode, ImageRef
from visionq.errors import BucketMissing, ObjectMissing, ObjectTooLarge
from visionq.image_heads import is_pdf
from visionq.names import input_digest
from visionq.objects import ObjectStore, split_s3_url
from visionq_worker.errors import TaskError
from visionq_worker.store_probe import KeyRefused, read_unless_refused

if TYPE_CHECKING:
    from visionq_worker.fetching import Fetcher

NOT_FOUND = 404
NO_IMAGE = "the object store gives no image under this reference"
REFUSED = (
    "the object store refuses this input image and gives others: it may not be read, or it is not "
    "there and the service may not list the bucket"
)


@dataclass(frozen=True, slots=True)
class Source:
    """An image as it was fetched, with the SHA-256 of its bytes."""

    content: bytes
    digest: str
    page: int | None = None
    """Of a PDF, which is meant; None of an image."""


class Pins(Protocol):
    """Remembers under which key the bytes behind a URL were stored; `Records` does.

    Images of a task are numbered from 0.
    """

    def pinned(self, task_id: str, number: int) -> str | None: ...

    def pin(self, task_id: str, number: int, key: str) -> str:
        """Returns the key that counts, which is an earlier one if there is any."""
        ...


class Sources:
    """Fetches references out of the service's bucket, of the buckets allowed beside it, of the web.

    What a URL leads to is fetched once: it is stored as an input of ours, and later attempts see
    the same bytes.
    """

    def __init__(
        self,
        store: ObjectStore,
        pins: Pins,
        *,
        allowed_buckets: Collection[str],
        max_bytes: int,
        image_prefixes: Sequence[str] = ("",),
        fetcher: Fetcher | None = None,
    ) -> None:
        """`image_prefixes`: how keys of the service's own bucket begin that may be read.

        `fetcher`: None where URLs are switched off.
        """
        self._store = store
        self._pins = pins
        self._image_prefixes = tuple(image_prefixes)
        self._allowed_buckets = frozenset(allowed_buckets)
        self._max_bytes = max_bytes
        self._fetcher = fetcher

    def fetch(self, task_id: str, number: int, image: ImageRef) -> Source:
        """The bytes of a task's image. Raises `TaskError` for a reference that leads nowhere.

        What concerns the store itself (away; access to the service's own bucket refused, or no
        such bucket) stays a `StorageError`: the task can wait for it. So does `BrokerUnavailable`,
        for a URL.
        """
        source = self._fetch(task_id, number, image.ref)
        return replace(source, page=page_meant(source.content, image.page))

    def _fetch(self, task_id: str, number: int, ref: str) -> Source:
        if ref.startswith("https://"):
            return self._from_web(task_id, number, ref)
        return self._from_store(*self._locate(ref))

    def _from_web(self, task_id: str, number: int, url: str) -> Source:
        if self._fetcher is None:
            raise TaskError(FailureCode.INPUT_NOT_ALLOWED, "image URLs are switched off")
        if pinned := self._pins.pinned(task_id, number):
            return self._from_store(None, pinned)
        source = _source(self._fetcher.fetch(url))
        key = self._store.put_input(source.content)
        counts = self._pins.pin(task_id, number, key)
        return source if counts == key else self._from_store(None, counts)

    def _from_store(self, bucket: str | None, key: str) -> Source:
        try:
            return read_unless_refused(self._store, partial(self._read, bucket, key))
        except KeyRefused as exc:
            message = NO_IMAGE if self._is_elsewhere(bucket) else REFUSED
            raise TaskError(FailureCode.INPUT_MISSING, message) from exc.__cause__
        except ObjectMissing as exc:
            message = "an input image is not there" if exc.status == NOT_FOUND else NO_IMAGE
            raise TaskError(FailureCode.INPUT_MISSING, message) from exc
        except ObjectTooLarge as exc:
            message = f"an input image has more than {self._max_bytes} bytes"
            raise TaskError(FailureCode.INPUT_TOO_LARGE, message) from exc
        except BucketMissing as exc:
            if not self._is_elsewhere(bucket):
                raise
            raise TaskError(FailureCode.INPUT_MISSING, NO_IMAGE) from exc

    def _read(self, bucket: str | None, key: str) -> Source:
        """The object, with the bytes that were stored, as far as digest or ETag can tell."""
        expected = None if self._is_elsewhere(bucket) else input_digest(key)
        if expected is not None:
            return self._read_own(key, expected)
        return _source(
            self._store.get_checked(
                key, bucket=bucket, max_bytes=self._max_bytes, trusts_etag=False
            )
        )

    def _read_own(self, key: str, expected: str) -> Source:
        """An input of ours, which has to have the digest that its key names.

        A wrong one is read again: it may be the reading that has gone wrong, or somebody may just
        have uploaded the right one. What its ETag contradicts passes. What it does not is left
        where it is: removing it could remove the right one, and the next upload of that replaces it
        (`ObjectStore.put_input`).
        """
        for read in (self._store.get, self._store.get, self._store.get_checked):
            source = _source(read(key, max_bytes=self._max_bytes))
            if source.digest == expected:
                return source
        message = (
            "an input image in the store is not what was uploaded: "
            "upload it again, or submit the URL again"
        )
        raise TaskError(FailureCode.INPUT_CORRUPT, message, retryable=True)

    def _is_elsewhere(self, bucket: str | None) -> bool:
        return bucket not in (None, self._store.bucket)

    def _locate(self, ref: str) -> tuple[str, str]:
        is_url = ref.startswith("s3://")
        bucket, key = split_s3_url(ref) if is_url else (self._store.bucket, ref)
        if bucket == self._store.bucket:
            if not key.startswith(self._image_prefixes):
                message = "the image's key begins with none of storage.image_prefixes"
                raise TaskError(FailureCode.INPUT_NOT_ALLOWED, message)
        elif bucket not in self._allowed_buckets:
            raise TaskError(FailureCode.INPUT_NOT_ALLOWED, "the bucket is not allowed")
        return bucket, key


def page_meant(content: bytes, asked: int | None) -> int | None:
    """Which page of a PDF; None of an image. Raises `TaskError` for a page of an image."""
    if is_pdf(content):
        return asked or 1
    if asked is not None:
        message = f"page {asked} was asked for of an input that is no PDF"
        raise TaskError(FailureCode.PAGE_MISSING, message)
    return None


def _source(content: bytes) -> Source:
    return Source(content, hashlib.sha256(content).hexdigest())
