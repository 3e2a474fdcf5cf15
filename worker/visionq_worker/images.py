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

from PIL import (
    ExifTags,
    Image,
    ImageFile,
    JpegImagePlugin,
    TiffImagePlugin,
    UnidentifiedImageError,
)

from visionq.contract import FailureCode
from visionq_worker import heifs, jpegs, pngs
from visionq_worker.colours import (
    BYTES_PER_PIXEL,
    KEYED_BYTES,
    NUM_BITS,
    WHITE_IS_ZERO,
    flat_rgb,
    make_transparent,
)
from visionq_worker.errors import TaskError

if TYPE_CHECKING:
    from visionq.settings import LimitSettings

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

_UNREAD = MappingProxyType(
    {"I": "integers with a sign, or of 32 bits", "F": "floating-point numbers"}
)
"""By Pillow's mode. Nothing says which of their values is white."""
_PHOTOMETRIC, _BITS_PER_SAMPLE, _SAMPLE_FORMAT = 262, 258, 339
"""Tags of TIFF."""
_SIGNED = 2

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
    extra_pixel_bytes: int = 0
    """Of memory for each pixel, beside the decoded picture's own, until it is decoded."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A file of which the header has been read."""

    header: Header
    content: bytes
    image: Image.Image
    """Not decoded before `load`."""
    plain: pngs.Plain | None = None
    """Of a PNG, what the picture is read from."""

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
            if self.plain is not None and self.plain.deep_key is not None:
                make_transparent(image, _low_bytes(self.plain), self.plain.deep_key)
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
    # Of 16 bits from black to white, Pillow knows one order of bytes where white is zero.
    big_endian = (TiffImagePlugin.MM, 0, (1,), 1, (16,), ())
    TiffImagePlugin.OPEN_INFO.setdefault(big_endian, ("I;16B", "I;16B"))
    Image.core.set_blocks_max(MAX_KEPT_BLOCKS)  # type: ignore[attr-defined]
    if heifs.HEIF in formats:
        heifs.register()


def open_image(content: bytes, limits: ImageLimits) -> Opened:
    """The file's header, and nothing decoded. Raises `TaskError` for what is not to be decoded."""
    plain = _plain(content, limits)
    image = _open(io.BytesIO(content) if plain is None else plain.file, limits)
    width, height = image.size
    if width * height > limits.max_pixels:
        message = f"{width} x {height} pixels are more than {limits.max_pixels}"
        raise TaskError(FailureCode.IMAGE_TOO_LARGE, message)
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _note_kind_of_grey(image)
    if unread := _unread_kind(image):
        message = f"an input image has colours of a kind that is not read: {unread}"
        raise TaskError(FailureCode.NOT_AN_IMAGE, message)
    header = Header(
        form=_form(image),
        mode=image.mode,
        width=width,
        height=height,
        num_bytes=len(content),
        num_coefficients=_num_coefficients(image, content),
        extra_pixel_bytes=KEYED_BYTES if plain is not None and plain.deep_key else 0,
    )
    return Opened(header, content, image, plain)


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


def _plain(content: bytes, limits: ImageLimits) -> pngs.Plain | None:
    """Of a PNG, where they are read; None of all else."""
    if "PNG" not in limits.formats or not content.startswith(pngs.SIGNATURE):
        return None
    try:
        return pngs.without_extras(content)
    except pngs.Headless as exc:
        raise _unknown(limits) from exc
    except pngs.Broken as exc:
        raise _damaged() from exc


def _low_bytes(plain: pngs.Plain) -> Image.Image:
    """The lower halves of its samples, where Pillow keeps the upper ones."""
    plain.file.seek(0)
    image = Image.open(plain.file, formats=["PNG"])
    assert isinstance(image, ImageFile.ImageFile)
    # The bytes of each sample as if they were the other way round.
    image.tile = [tile._replace(args="RGB;16L") for tile in image.tile]
    image.load()
    return image


def _note_kind_of_grey(image: TiffImagePlugin.TiffImageFile) -> None:
    """What Pillow does not undo of 16 bits, or of 12 that it gives as 16."""
    if image.mode.startswith("I;16"):
        image.info[WHITE_IS_ZERO] = image.tag_v2.get(_PHOTOMETRIC) == 0
        image.info[NUM_BITS] = image.tag_v2.get(_BITS_PER_SAMPLE, (16,))[0]


def _unread_kind(image: Image.Image) -> str | None:
    """What its colours are, if they have no certain place between black and white."""
    tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
    if _SIGNED in tags.get(_SAMPLE_FORMAT, ()):
        return _UNREAD["I"]
    return _UNREAD.get(image.mode, None if image.mode in BYTES_PER_PIXEL else image.mode)


def _open(file: io.BytesIO, limits: ImageLimits) -> Image.Image:
    try:
        return Image.open(file, formats=list(limits.formats))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as exc:
        message = "an input image has too many pixels"
        raise TaskError(FailureCode.IMAGE_TOO_LARGE, message) from exc
    except UnidentifiedImageError as exc:
        raise _unknown(limits) from exc
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


def _unknown(limits: ImageLimits) -> TaskError:
    kinds = sorted([*limits.formats, PDF] if limits.pdf else limits.formats)
    message = f"an input is no image of these kinds: {', '.join(kinds)}"
    return TaskError(FailureCode.NOT_AN_IMAGE, message)


def _damaged() -> TaskError:
    return TaskError(FailureCode.IMAGE_TRUNCATED, "an input image is damaged or incomplete")
