"""From whatever a backend has in hand to an image reference.

Bytes in any form (path, bytes, file object, PIL image, data URI) are uploaded under their
digest; references (a key of the bucket, `s3://`, `https://`) pass through. What the bytes hold
is judged by the worker: decoding images is not a web process's work, nor is rendering PDFs.
"""

from __future__ import annotations

import base64
import inspect
import io
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, Union

from visionq.contract import MAX_PAGE, ImageRef
from visionq.errors import InvalidImage
from visionq.names import INPUT_FOLDER

if TYPE_CHECKING:
    from PIL.Image import Image

    from visionq.objects import ObjectStore


class AsyncUpload(Protocol):
    """What asyncio web frameworks hand out for an uploaded file. Only `AsyncClient` reads it."""

    async def read(self) -> bytes: ...


PlainArgument: TypeAlias = Union[
    str,
    "os.PathLike[str]",
    bytes,
    bytearray,
    memoryview,
    IO[bytes],
    "Image",
    ImageRef,
    AsyncUpload,
]


@dataclass(frozen=True, slots=True)
class Page:
    """A page of a PDF as an image, counted from 1. Of a PDF alone, its first page is meant.

    A string may say the same: `"report.pdf#page=3"`, a path or a reference. Raises `InvalidImage`.
    """

    pdf: PlainArgument
    number: int

    def __post_init__(self) -> None:
        number: object = self.number
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= MAX_PAGE:
            raise InvalidImage(f"a PDF has no page {str(number)[:20]}: they are counted from 1")


ImageArgument: TypeAlias = PlainArgument | Page

MAX_UPLOAD_BYTES = 50 * 1024 * 1024

_FRAGMENT = re.compile(r"(.+)#page=([0-9]{1,9})", re.DOTALL)
"""As RFC 8118 has it for PDFs."""


def split_page(argument: ImageArgument) -> tuple[PlainArgument, int | None]:
    """The file, and which page of it; None where none is named. Raises `InvalidImage`."""
    if isinstance(argument, str) and (match := _FRAGMENT.fullmatch(argument)):
        argument = Page(match[1], int(match[2]))
    if isinstance(argument, Page):
        return argument.pdf, argument.number
    return argument, None


def as_reference(argument: ImageArgument) -> ImageRef | None:
    """The argument if it is a reference already, or None. Raises `InvalidImage` for a wrong one."""
    file, page = split_page(argument)
    reference = _as_reference(file)
    if reference is None or page is None:
        return reference
    return replace(reference, page=page)


def _as_reference(argument: PlainArgument) -> ImageRef | None:
    if isinstance(argument, ImageRef):
        return argument
    if isinstance(argument, str) and argument.startswith(
        (f"{INPUT_FOLDER}/", "s3://", "https://", "http://")
    ):
        if argument.startswith("http://"):
            raise InvalidImage("image URLs must be https")
        return ImageRef(ref=argument)
    return None


def upload(argument: ImageArgument, store: ObjectStore) -> ImageRef:
    """Store an argument that is no reference, unless it is there already.

    Raises `InvalidImage` for what is no image argument, `StorageError` when uploading fails.
    """
    file, page = split_page(argument)
    return ImageRef(ref=store.put_input(read_content(file)), page=page)


def read_content(argument: PlainArgument) -> bytes:
    """The bytes of an argument that is no reference. Raises `InvalidImage`."""
    content = _content(argument)
    if not content:
        raise InvalidImage("the image is empty")
    if len(content) > MAX_UPLOAD_BYTES:
        raise InvalidImage(f"the image has {len(content)} bytes, the limit is {MAX_UPLOAD_BYTES}")
    return content


def _content(argument: Any) -> bytes:
    if isinstance(argument, bytes | bytearray | memoryview):
        return bytes(argument)
    if isinstance(argument, str) and argument.startswith("data:"):
        return _decode_data_uri(argument)
    if isinstance(argument, str | os.PathLike):
        return _read_file(Path(argument))
    if hasattr(argument, "read"):
        return _read_stream(argument)
    if hasattr(argument, "save") and hasattr(argument, "size"):
        return _encode_pillow(argument)
    raise InvalidImage(f"a {type(argument).__name__} is no image argument")


def _decode_data_uri(uri: str) -> bytes:
    header, _, payload = uri.partition(",")
    if not header.endswith(";base64"):
        raise InvalidImage("a data URI must be base64 encoded")
    try:
        return base64.b64decode(payload, validate=True)
    except ValueError as exc:
        raise InvalidImage("the data URI is not valid base64") from exc


def _read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as exc:
        # The cause would show in a traceback what the message hides, where the path is a URL.
        raise InvalidImage(f"cannot read {path}: {exc.strerror}") from None
    except ValueError as exc:  # a null character
        raise InvalidImage(f"cannot read {str(path)!r}: {exc}") from None


def _read_stream(stream: Any) -> bytes:
    if inspect.iscoroutinefunction(stream.read):
        raise InvalidImage("an object whose read() is awaited needs the AsyncClient")
    content = stream.read()
    if not isinstance(content, bytes):
        raise InvalidImage("the file object must be opened in binary mode")
    return content


def _encode_pillow(image: Image) -> bytes:
    """A PIL image as PNG: nothing is lost, and equal pixels give equal bytes.

    Only the colours of print and video (CMYK, YCbCr), which PNG cannot hold, become RGB.
    """
    buffer = io.BytesIO()
    try:
        plain = image.convert("RGB") if image.mode in ("CMYK", "YCbCr") else image
        plain.save(buffer, format="PNG")
    except (OSError, SyntaxError, ValueError, SystemError) as exc:
        raise InvalidImage(f"the PIL image cannot be written as PNG: {exc}") from exc
    return buffer.getvalue()
