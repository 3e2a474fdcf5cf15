"""What an error of the store concerns: the key that was asked for, or the store.

Found out by asking for the same of a small object of our own beside it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeVar

from visionq.errors import ObjectMissing, StorageDenied, StorageError, StorageUnavailable
from visionq.objects import PROBE_FOLDER
from visionq.store_replies import is_of_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

    from visionq.objects import ObjectStore
    from visionq.store_replies import Asked

T = TypeVar("T")

PROBE_NAME = "probe"
PROBE = b"Written by visionq to find out whether the object store works. It may be deleted.\n" * 40
"""Long enough to be cut anywhere."""
REFUSALS = 4
"""Of one key, each with another one given after it, until it is taken for refused."""


class Extent(StrEnum):
    """What an error of the store concerns."""

    KEY = "key"
    STORE = "store"
    UNKNOWN = "unknown"
    """Other folders work, and in the key's own nothing may be written to find out."""


class KeyRefused(Exception):
    """The store refuses one key again and again, and gives others meanwhile."""


def read_unless_refused(store: ObjectStore, read: Callable[[], T]) -> T:
    """What `read` returns. Raises what it does, and `KeyRefused` of one key.

    S3 refuses a key that is not there, where the bucket may not be listed. Whoever takes that for
    the task's fault must not do so where a part of the store refuses for a moment.
    """
    for _ in range(REFUSALS):
        try:
            return read()
        except StorageDenied as exc:
            error, found = exc, extent(store, exc)
            is_elsewhere = exc.asked is not None and exc.asked.bucket != store.bucket
            if found is Extent.STORE or (found is Extent.UNKNOWN and not is_elsewhere):
                raise
    raise KeyRefused from error


def extent(store: ObjectStore, error: StorageError) -> Extent:
    """Found out by asking for the same of an object of our own."""
    if error.asked is None or is_of_credentials(error.code):
        return Extent.STORE
    try:
        return Extent.KEY if try_beside(store, error.asked) else Extent.UNKNOWN
    except StorageError:
        return Extent.STORE


def try_beside(store: ObjectStore, asked: Asked) -> bool:
    """Do the same with an object of our own, in the key's folder if that is ours.

    Raises as the operation itself does, where it fails there, too. False where the object may not
    be written there, and elsewhere it may.
    """
    if asked.operation in ("list", "bucket"):
        store.check_bucket()
    elif asked.operation in ("put", "delete"):
        store.put(_probe_in(asked.folder), PROBE)
    elif not _holds_probe(store, asked.folder):
        try:
            store.put(_probe_in(asked.folder), PROBE)
        except StorageDenied as exc:
            return _is_refused_in_folder(store, exc)
        _require_probe(store, asked.folder)
    return True


def _is_refused_in_folder(store: ObjectStore, error: StorageDenied) -> Literal[False]:
    """Raises what concerns more than the folder."""
    if is_of_credentials(error.code):
        raise error
    store.put(_probe_in(PROBE_FOLDER), PROBE)
    _require_probe(store, PROBE_FOLDER)
    return False


def _holds_probe(store: ObjectStore, folder: str) -> bool:
    try:
        return store.get(_probe_in(folder)) == PROBE
    except ObjectMissing:
        return False
    except StorageDenied as exc:
        if is_of_credentials(exc.code):
            raise
        return False  # as some stores say of a missing object where nobody may list


def _require_probe(store: ObjectStore, folder: str) -> None:
    if store.get(_probe_in(folder)) != PROBE:
        raise StorageUnavailable(f"object store: {_probe_in(folder)} came back changed")


def _probe_in(folder: str) -> str:
    return f"{folder}/{PROBE_NAME}"
