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
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeAlias, Union, cast

from visionq.contract import MAX_PAGE, ImageRef
from visionq.errors import InvalidImage
from visionq.image_heads import HEAD_BYTES, check_head
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

_MOST = 65535
"""Of a sample of 16 bits."""
_PHOTOMETRIC, _BITS_PER_SAMPLE, _ORIENTATION = 262, 258, 274
"""Tags of TIFF and EXIF."""
_WHITE_IS_ZERO = 0
_TO_UPRIGHT = MappingProxyType({2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2})
"""By EXIF orientation, numbers of `PIL.Image.Transpose`; PIL itself is not imported here."""
_SWAPS_SIDES = frozenset({2, 4, 5, 6})

_ODD_EXIF = (
    ArithmeticError,
    LookupError,
    OSError,
    SyntaxError,
    TypeError,
    ValueError,
    struct.error,
)

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
    content = read_content(file)
    check_head(content[:HEAD_BYTES])
    return ImageRef(ref=store.put_input(content), page=page)


def look_at(argument: ImageArgument) -> None:
    """Raise `InvalidImage` for bytes or a file that are no image, before anything is stored.

    Of other arguments, `upload` says so, when it has read them.
    """
    file, _ = split_page(argument)
    if isinstance(file, bytes | bytearray | memoryview) and len(file):
        check_head(bytes(file[:HEAD_BYTES]))
    is_path = isinstance(file, os.PathLike) or (isinstance(file, str) and file[:5] != "data:")
    if is_path and (head := _head_of_file(Path(cast("str", file)))):
        check_head(head)


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


def _head_of_file(path: Path) -> bytes:
    """Empty of a pipe, out of which bytes come once."""
    try:
        is_special = path.exists() and not path.is_file()
    except OSError:  # a name that is too long; reading it says so
        is_special = False
    return b"" if is_special else _read_file(path, HEAD_BYTES)


def _read_file(path: Path, num_bytes: int = -1) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(num_bytes)
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


def upright_size(image: Image) -> tuple[int, int]:
    """Width and height of a PIL image as it is uploaded: as its EXIF or XMP says."""
    width, height = image.size
    return (height, width) if _turn(image) in _SWAPS_SIDES else (width, height)


def _encode_pillow(image: Image) -> bytes:
    """A PIL image as PNG, upright: no pixel is lost, and equal pixels give equal bytes.

    Only the colours of print and video (CMYK, YCbCr), which PNG cannot hold, become RGB.
    """
    buffer = io.BytesIO()
    try:
        image.load()
        plain = _of_png(image)
        turn = _turn(image)
        if turn is not None:
            plain = plain.transpose(turn)  # type: ignore[arg-type]
        # Nothing of the rest, which Pillow would take from the image by itself.
        plain.save(buffer, format="PNG", exif=None, icc_profile=None, **_transparency(plain))
    except (OSError, SyntaxError, ValueError, SystemError) as exc:
        raise InvalidImage(f"the PIL image cannot be written as PNG: {exc}") from exc
    return buffer.getvalue()


def _of_png(image: Image) -> Image:
    """The image in a mode that PNG has, with shades that mean there what they mean here."""
    if image.mode in ("CMYK", "YCbCr"):
        return image.convert("RGB")
    if image.mode == "I":
        lowest, highest = cast("tuple[int, int]", image.getextrema())
        if not 0 <= lowest <= highest <= _MOST:  # some versions of Pillow clip them
            raise ValueError(f"it has values outside of 0 to {_MOST}")
    tags = getattr(image, "tag_v2", {})
    if not image.mode.startswith("I;16") or not tags:
        return image
    # A TIFF's shades of 12 or 16 bits as they stand in the file: white may be zero.
    factor = 16 if tags.get(_BITS_PER_SAMPLE) == (12,) else 1
    ordered = image if image.mode == "I;16" else image.convert("I").convert("I;16")
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        return ordered.point(lambda value: value * -factor + _MOST)
    return ordered.point(lambda value: value * factor) if factor > 1 else image


def _turn(image: Image) -> int | None:
    """What makes it upright (`PIL.Image.Transpose`), read as a worker reads the file's."""
    if hasattr(image, "tag_v2"):  # a TIFF is upright when Pillow has loaded it, and its size before
        return None
    try:
        orientation: Any = image.getexif().get(_ORIENTATION)
        return _TO_UPRIGHT.get(orientation)
    except _ODD_EXIF:
        return None  # whatever the EXIF block is, the pixels are good


def _transparency(image: Image) -> dict[str, None]:
    """A transparent colour of 16 bits is not to be taken for one of 8."""
    key = image.info.get("transparency")
    is_deep = image.mode == "RGB" and isinstance(key, tuple) and max(key) > 255
    return {"transparency": None} if is_deep else {}
