"""How large an image is, by its header alone. The only door to imagesize.

Of a stored image the first bytes are fetched, and of an image behind a URL nothing is: that is a
worker's to do. JPEG and TIFF are counted upright, as their EXIF says. PNG and WEBP are taken as
they are stored: an orientation, which few of them have, may stand behind the pixels.
"""

from __future__ import annotations

import inspect
import io
import os
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, cast

from visionq.errors import InvalidImage
from visionq.image_heads import HEAD_BYTES, is_pdf, is_sized
from visionq.inputs import as_reference, read_content, split_page, upright_size
from visionq.objects import split_s3_url
from visionq.per_process import import_unforked

if TYPE_CHECKING:
    from visionq.inputs import ImageArgument
    from visionq.objects import ObjectStore

HEADER_BYTES = (64 * 1024, 1024 * 1024, 4 * 1024 * 1024)
"""Fetched of a stored image, until its size is known: most say it at once, but for a JPEG with a
colour profile or a preview before its size. A large TIFF with its directory at the end does not."""


class Size(NamedTuple):
    """In pixels, upright."""

    width: int
    height: int


def image_size(argument: ImageArgument, store: ObjectStore) -> Size:
    """The size of any image argument. Raises `InvalidImage` and `StorageError`."""
    reference = as_reference(argument)
    if reference is None:
        return size_in_hand(argument)
    if reference.page is not None:
        raise _only_worker_knows("a page of a PDF")
    if reference.ref.startswith("https://"):
        raise _only_worker_knows("an image behind a URL")
    is_elsewhere = reference.ref.startswith("s3://")
    bucket, key = split_s3_url(reference.ref) if is_elsewhere else (store.bucket, reference.ref)
    if bucket != store.bucket:  # which others are allowed is the workers' to say
        raise _only_worker_knows("an image in another bucket")
    return _stored_size(store, bucket, key)


def size_in_hand(argument: ImageArgument) -> Size:
    """The size of an argument that is no reference. A file object is left where it was.

    Raises `InvalidImage`.
    """
    given, page = split_page(argument)
    if page is not None:
        raise _only_worker_knows("a page of a PDF")
    if isinstance(given, os.PathLike) or (isinstance(given, str) and given[:5] != "data:"):
        return _size_of_file(Path(given))
    if hasattr(given, "save") and hasattr(given, "size") and not hasattr(given, "read"):
        return Size(*upright_size(cast("Any", given)))
    size = _read_size(io.BytesIO(_content(given)))
    if size is None:
        raise _unreadable()
    return size


def _size_of_file(path: Path) -> Size:
    try:
        with path.open("rb") as file:
            size = _read_size(file)
    except (OSError, ValueError) as exc:
        raise InvalidImage(f"cannot read {str(path)!r}: {exc}") from None
    if size is None:
        raise _unreadable()
    return size


def _content(given: Any) -> bytes:
    if not hasattr(given, "read"):
        return read_content(given)
    seekable = getattr(given, "seekable", None)
    # What is awaited is no place to stand in: `read_content` says what it takes.
    if inspect.iscoroutinefunction(given.read):
        return read_content(given)
    if seekable is None or not seekable():
        raise InvalidImage("of a file object that cannot be rewound, the size is not known")
    place = given.tell()
    try:
        return read_content(given)
    finally:
        given.seek(place)


def _stored_size(store: ObjectStore, bucket: str, key: str) -> Size:
    for num_bytes in HEADER_BYTES:
        start = store.get_start(key, num_bytes, bucket=bucket)
        size = _read_size(io.BytesIO(start))
        if size is not None:
            return size
        if len(start) < num_bytes:
            break
    raise _unreadable()


def _read_size(file: IO[bytes]) -> Size | None:
    """None where the header is none, or goes on behind the file's end. Raises `InvalidImage`."""
    # Imported when it is needed: it brings urllib and an XML parser along.
    import_unforked("imagesize")
    import imagesize

    head = file.read(HEAD_BYTES)
    file.seek(0)
    if is_pdf(head):
        raise _only_worker_knows("a page of a PDF")
    if head[4:8] == b"ftyp":  # imagesize does not read those that are turned
        raise _only_worker_knows("a HEIF")
    if not is_sized(head):
        return None
    width, height = cast("tuple[int, int]", imagesize.get(file))
    return Size(width, height) if width > 0 and height > 0 else None


def _unreadable() -> InvalidImage:
    return InvalidImage("an image's header says no width and height")


def _only_worker_knows(what: str) -> InvalidImage:
    return InvalidImage(f"how large {what} is, only a worker finds out")
