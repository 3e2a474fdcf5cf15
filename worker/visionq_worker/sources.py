"""From an image reference to bytes: the one door through which inputs come in."""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import dataclass

from visionq.contract import FailureCode, ImageRef
from visionq.errors import (
    BucketMissing,
    ObjectMissing,
    ObjectTooLarge,
    StorageDenied,
    StorageError,
    StorageUnavailable,
)
from visionq.objects import ObjectStore, split_s3_url
from visionq_worker.errors import TaskError


@dataclass(frozen=True, slots=True)
class Source:
    """An image as it was fetched, with the SHA-256 of its bytes."""

    content: bytes
    digest: str


class Sources:
    """Fetches references out of the service's bucket and of the buckets allowed beside it."""

    def __init__(
        self, store: ObjectStore, *, allowed_buckets: Collection[str], max_bytes: int
    ) -> None:
        self._store = store
        self._allowed_buckets = frozenset(allowed_buckets)
        self._max_bytes = max_bytes

    def fetch(self, image: ImageRef) -> Source:
        """The image's bytes. Raises `TaskError` for a reference that leads nowhere.

        What concerns the store itself (away; access to the service's own bucket refused, or no
        such bucket) stays a `StorageError`: that passes, and the task can wait for it.
        """
        bucket, key = self._locate(image.ref)
        try:
            content = self._store.get(key, bucket=bucket, max_bytes=self._max_bytes)
        except ObjectMissing as exc:
            raise TaskError(FailureCode.INPUT_MISSING, "an input image is not there") from exc
        except ObjectTooLarge as exc:
            message = f"an input image has more than {self._max_bytes} bytes"
            raise TaskError(FailureCode.INPUT_TOO_LARGE, message) from exc
        except StorageError as exc:
            if self._may_pass(exc, bucket):
                raise
            message = "the object store gives no image under this reference"
            raise TaskError(FailureCode.INPUT_MISSING, message) from exc
        return Source(content, hashlib.sha256(content).hexdigest())

    def _may_pass(self, exc: StorageError, bucket: str | None) -> bool:
        """Whether waiting can help; a reference that the store will never serve must not wait."""
        is_ours = bucket is None or bucket == self._store.bucket
        concerns_store = isinstance(exc, StorageDenied | BucketMissing)
        return isinstance(exc, StorageUnavailable) or (is_ours and concerns_store)

    def _locate(self, ref: str) -> tuple[str | None, str]:
        if ref.startswith("https://"):
            raise TaskError(FailureCode.INPUT_NOT_ALLOWED, "image URLs are switched off")
        if not ref.startswith("s3://"):
            return None, ref
        bucket, key = split_s3_url(ref)
        if bucket != self._store.bucket and bucket not in self._allowed_buckets:
            raise TaskError(FailureCode.INPUT_NOT_ALLOWED, "the bucket is not allowed")
        return bucket, key
