"""The bucket as a worker will need it: each operation by itself, so that a refused one is named.

Looked at by `visionq-worker check`, and at each start.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from visionq.errors import (
    ObjectMissing,
    SettingsError,
    StorageDenied,
    StorageError,
)
from visionq.store_replies import is_refused_condition
from visionq_worker.findings import Finding, Level, fail, ok, warn

if TYPE_CHECKING:
    from visionq.objects import ObjectStore

PROBE_FOLDER = "probes"
FIRST, SECOND = b"visionq", b"visionq, written again"
CONDITIONAL = "bucket.conditional"


@dataclass(frozen=True, slots=True)
class BucketLook:
    """`keeps_results`: a stored result is kept from being overwritten (`put_new`)."""

    findings: tuple[Finding, ...]
    keeps_results: bool


def check_bucket(store: ObjectStore) -> BucketLook:
    """Writes a small object, reads it and removes it. Raises nothing of the store's."""
    findings = tuple(_check(store, f"{PROBE_FOLDER}/{uuid.uuid4()}"))
    levels = {finding.name: finding.level for finding in findings}
    return BucketLook(findings, keeps_results=levels.get(CONDITIONAL) is Level.OK)


def _check(store: ObjectStore, key: str) -> Iterator[Finding]:
    """What the others need comes first, and they are left out where it fails."""
    reached = _tried("bucket", lambda: _reach(store), f"{store.bucket} is there")
    yield reached
    if reached.level is Level.FAIL:
        return
    put = _tried("bucket.put", lambda: store.put(key, FIRST), "may be written", "s3:PutObject")
    yield put
    if put.level is Level.FAIL:
        return
    yield _tried("bucket.get", lambda: _get(store, key), "may be read", "s3:GetObject")
    yield _tried("bucket.head", lambda: _head(store, key), "may be looked at", "s3:GetObject")
    yield _missing(store)
    yield _conditional(store, key)
    yield _delete(store, key)


def _tried(name: str, call: Callable[[], object], well: str, right: str = "") -> Finding:
    try:
        call()
    except (StorageError, SettingsError) as error:
        return fail(name, _explained(error, right))
    return ok(name, well if name == "bucket" else f"objects {well}")


def _explained(error: Exception, right: str) -> str:
    said = str(error).removeprefix("bucket: ")
    if right and isinstance(error, StorageDenied):
        return f"{said}: the access key needs {right} on the bucket's objects"
    return said


def _reach(store: ObjectStore) -> None:
    """A refused HEAD gives no reason, having no body: then another request is asked for it."""
    try:
        store.check_bucket()
    except StorageDenied as error:
        with suppress(ObjectMissing):
            store.get(f"{PROBE_FOLDER}/{uuid.uuid4()}")
        raise StorageDenied(
            f"{error} to the bucket, though not to its objects: the access key needs s3:ListBucket"
        ) from error


def _get(store: ObjectStore, key: str) -> None:
    if store.get(key) != FIRST:
        raise StorageError("an object came back changed")


def _head(store: ObjectStore, key: str) -> None:
    if not store.exists(key):
        raise StorageError("an object that was just written is not there")


def _missing(store: ObjectStore) -> Finding:
    """A worker looks for results that may not be there."""
    name = "bucket.missing"
    try:
        store.get(f"{PROBE_FOLDER}/{uuid.uuid4()}")
    except ObjectMissing:
        return ok(name, "an object that is not there is reported as that")
    except StorageDenied as error:
        return fail(
            name,
            f"{error} for an object that is not there: the access key needs s3:ListBucket on the"
            " bucket, or a task that was started before cannot go on",
        )
    except StorageError as error:
        return fail(name, _explained(error, ""))
    return fail(name, "an object that nobody has written is there")


def _conditional(store: ObjectStore, key: str) -> Finding:
    meaning = (
        "conditional writes (If-None-Match) are not honoured: of two workers that both believe to"
        " have a task, the later one writes the object again, with the same bytes"
    )
    try:
        is_kept = not store.put_new(key, SECOND)
    except StorageError as error:
        if not is_refused_condition(error.status, error.code):
            return fail(CONDITIONAL, _explained(error, "s3:PutObject"))
        is_kept = False  # it does not know the condition at all
    if is_kept:
        return ok(CONDITIONAL, "conditional writes (If-None-Match) are honoured")
    return warn(CONDITIONAL, meaning)


def _delete(store: ObjectStore, key: str) -> Finding:
    """A worker removes nothing but what it has tried the bucket with."""
    name = "bucket.delete"
    try:
        store.delete(key)
    except StorageError as error:
        left = f"objects of a few bytes are left under {PROBE_FOLDER}/ at each start and check"
        return warn(name, f"{_explained(error, 's3:DeleteObject')}; {left}")
    return ok(name, "objects may be removed")
