"""From bytes to a picture in memory, in the mode of its file. The only door to Pillow's decoders.

What may not be decoded is refused by its header. Left out: turning it upright (`developing`), and
what a decode takes of the memory (`footprint`).
"""

from __future__ import annotations

import io
import struct
import warnings
from collections.abc import Collection
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError

from visionq.contract import FailureCode
from visionq_worker import heifs, jpegs
from visionq_worker.colours import BYTES_PER_PIXEL, flat_rgb
from visionq_worker.errors import TaskError

if TYPE_CHECKING:
    from visionq.settings import LimitSettings

MAX_TEXT_BYTES = 4 * 1024 * 1024
"""Of text beside a PNG's pixels, unpacked. Pillow would keep 64 MiB for each file."""

MAX_KEPT_BLOCKS = 2
"""Of 16 MB at most, that Pillow keeps for the next picture. By itself it keeps none, and a picture
of 4 megapixels costs a third more: the system has to find it new pages."""

PDF = "PDF"
UPRIGHT = 1
_TO_UPRIGHT = MappingProxyType(
    {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
)
"""By EXIF orientation."""

_DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    EOFError,
    TypeError,
    LookupError,
    ArithmeticError,
    RuntimeError,
    struct.error,
)
"""What Pillow has been seen to raise for files that break off or contradict themselves, or may."""

_SCAN = b"\xff\xda"
"""A JPEG's marker before compressed data. The length of its header follows, and how many of the
picture's components are in it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageLimits:
    """What may be decoded. Formats are Pillow's names; the content of a file decides.

    `pdf`: whether pages of PDFs are rendered, too (`pdf_pages`).
    """

    max_pixels: int
    formats: Collection[str]
    pdf: bool = False

    @classmethod
    def of(cls, settings: LimitSettings) -> Self:
        """As the settings have it, which count PDF among the formats."""
        formats = set(settings.image_formats)
        return cls(
            max_pixels=settings.max_image_pixels,
            formats=sorted(formats - {PDF}),
            pdf=PDF in formats,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of its picture. Width and height are as stored, perhaps not upright."""

    form: str
    mode: str
    width: int
    height: int
    num_bytes: int = 0
    """Of the file, and of what Pillow may keep of it beside the pixels."""
    num_coefficients: int = 0
    """That a JPEG's decoder has to collect before the first pixel; 0 of most."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file of which the header has been read."""

    header: Header
    content: bytes
    image: Image.Image
    """Not decoded before `load`."""

    def load(self, *, reduction: int = 1) -> Image.Image:
        """The decoded picture, its first frame. Raises `TaskError`.

        With a `reduction` of 2 or 4, a JPEG comes in so many times smaller, sides rounded up.
        """
        image, header = self.image, self.header
        size = (-(-header.width // reduction), -(-header.height // reduction))
        if header.form == "JPEG" and not jpegs.is_whole(self.content, image.size):
            raise _damaged()
        try:
            if reduction > 1:
                image.draft(None, (header.width // reduction, header.height // reduction))
            image.load()
        except _DAMAGE as exc:
            raise _damaged() from exc
        if image.size != size:  # nobody has looked at how much this one takes
            raise _damaged()
        return image


def set_up_pillow(formats: Collection[str]) -> None:
    """Once for the process, before the first picture: what is set here is global to it.

    Raises `StartError` for a format whose decoder is not installed.
    """
    jpegs.require_decoder()
    # Our own limit of pixels counts; Pillow's lower one would only fill the log.
    warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
    PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT_BYTES
    Image.core.set_blocks_max(MAX_KEPT_BLOCKS)  # type: ignore[attr-defined]
    if heifs.HEIF in formats:
        heifs.register()


def open_image(content: bytes, limits: ImageLimits) -> Opened:
    """The file's header, and nothing decoded. Raises `TaskError` for what is not to be decoded."""
    image = _open(content, limits)
    width, height = image.size
    if width * height > limits.max_pixels:
        message = f"{width} x {height} pixels are more than {limits.max_pixels}"
        raise TaskError(FailureCode.IMAGE_TOO_LARGE, message)
    if image.mode not in BYTES_PER_PIXEL:
        message = f"an input image has colours of a kind that is not read: {image.mode}"
        raise TaskError(FailureCode.NOT_AN_IMAGE, message)
    header = Header(
        form=_form(image),
        mode=image.mode,
        width=width,
        height=height,
        num_bytes=len(content),
        num_coefficients=_num_coefficients(image, content),
    )
    return Opened(header, content, image)


def rgb_part(image: Image.Image, box: tuple[int, int, int, int]) -> Image.Image:
    """Of a decoded picture, the part from (left, top) up to (right, bottom). Raises `TaskError`.

    A palette that contradicts itself is not noticed before.
    """
    try:
        return flat_rgb(image.crop(box))
    except _DAMAGE as exc:
        raise _damaged() from exc


def turn(image: Image.Image) -> Image.Transpose | None:
    """What makes it upright, as its EXIF says.

    Only a JPEG knows it before it is decoded: PNG has its EXIF behind the pixels, and TIFF has
    turned itself by then.
    """
    try:
        orientation = image.getexif().get(ExifTags.Base.Orientation, UPRIGHT)
    except (SyntaxError, ValueError, struct.error):
        return None  # the pixels are good, whatever the EXIF block is
    return _TO_UPRIGHT.get(orientation)


def _open(content: bytes, limits: ImageLimits) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=list(limits.formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        message = "an input image has too many pixels"
        raise TaskError(FailureCode.IMAGE_TOO_LARGE, message) from exc
    except UnidentifiedImageError as exc:
        kinds = sorted([*limits.formats, PDF] if limits.pdf else limits.formats)
        message = f"an input is no image of these kinds: {', '.join(kinds)}"
        raise TaskError(FailureCode.NOT_AN_IMAGE, message) from exc
    except _DAMAGE as exc:  # of a known kind, but its header breaks off
        raise _damaged() from exc


def _form(image: Image.Image) -> str:
    """Its format. A JPEG with further pictures behind it is an MPO to Pillow."""
    if isinstance(image, JpegImagePlugin.JpegImageFile):
        return "JPEG"
    assert image.format is not None
    return image.format


def _num_coefficients(image: Image.Image, content: bytes) -> int:
    """One for each sample, where a JPEG spreads them over several scans; else they are not kept."""
    if not isinstance(image, JpegImagePlugin.JpegImageFile):
        return 0
    if "progressive" not in image.info and _num_in_first_scan(content) == len(image.layer):
        return 0
    samples = [across * down for _, across, down, _ in image.layer]
    return image.width * image.height * sum(samples) // max(1, *samples)


def _num_in_first_scan(content: bytes) -> int | None:
    """Components; None if that cannot be seen at first glance."""
    at = 2
    while content[at : at + 1] == b"\xff" and content[at : at + 2] != _SCAN:
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return content[at + 4] if content[at : at + 2] == _SCAN else None


def _damaged() -> TaskError:
    return TaskError(FailureCode.IMAGE_TRUNCATED, "an input image is damaged or incomplete")
