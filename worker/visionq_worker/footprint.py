"""What preparing a picture takes of the memory, from its header: an upper bound, in bytes.

The numbers are measured, Pillow 13 by the kernel's count of resident pages, and held against it by
a test for each format. Bytes per pixel are of a whole picture, and while it is decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from visionq_worker.colours import BYTES_PER_PIXEL
from visionq_worker.images import Header
from visionq_worker.model.geometry import Size, padded_size, resized_size

Decoding = Literal["exact", "fast"]

REDUCTIONS = (4, 2)
"""A JPEG can come in by an eighth as well, but then it is far from what the filter makes."""

HEADROOM = 1.45
"""How many times larger than wanted a reduced JPEG must still be, so that it keeps 44 dB."""

REDUCED_FROM_PX = 4_000_000
"""Smaller ones gain little, and screenshots are among them, whose edges would keep 39 dB."""

COEFFICIENT_BYTES = 2
NARROWED_BYTES = 4
"""A pixel of the picture halfway, when one of its sides has its final length."""
FITTED_BYTES = 4 + 3 + 3 + 3
"""A pixel of the resized picture: Pillow's, on its way to bytes, as bytes, and padded."""
WORKING_BYTES = 4_000_000
"""Of bands, buffers and what is small, whatever the picture."""


@dataclass(frozen=True, slots=True)
class _Copies:
    """How often a decoder has the picture's memory beside the picture itself."""

    decoding: int
    kept: int = 0  # until the picture has been resized
    least: int = 1  # bytes of a pixel, even if the picture has fewer


_COPIES = MappingProxyType(
    {
        "JPEG": _Copies(0),
        "PNG": _Copies(0),
        "GIF": _Copies(0),
        "WEBP": _Copies(3, kept=2),  # two canvases, and one of them as bytes
        "HEIF": _Copies(3, least=2),  # planes of the decoder, RGB of it, and RGB as bytes
        "TIFF": _Copies(2),  # a strip of all there is in 16 bits, or the copy that is upright
        "BMP": _Copies(3),  # bytes unpacked in Python
    }
)


def reduction(header: Header, num_crops: int, decoding: Decoding) -> int:
    """By how much a picture may be smaller when it comes out of the decoder; 1: not at all."""
    num_pixels = header.width * header.height
    if decoding == "exact" or header.form != "JPEG" or num_pixels < REDUCED_FROM_PX:
        return 1
    wanted = resized_size(header.width, header.height, num_crops)
    for factor in REDUCTIONS:
        least = factor * HEADROOM
        if header.width >= least * wanted.width and header.height >= least * wanted.height:
            return factor
    return 1


def peak_bytes(header: Header, num_crops: int, decoding: Decoding) -> int:
    """The most that is taken at once, from the file to the padded picture; raises ImageShapeError.

    The file itself is not counted, but Pillow may keep all of it again as metadata.
    """
    size = Size(header.width, header.height)
    factor = reduction(header, num_crops, decoding)
    num_pixels = -(-size.width // factor) * -(-size.height // factor)
    copies = _COPIES[header.form]
    picture_bytes = num_pixels * max(BYTES_PER_PIXEL[header.mode], copies.least)
    while_decoded = (
        picture_bytes * (1 + copies.decoding)
        + num_pixels * header.extra_pixel_bytes
        + COEFFICIENT_BYTES * header.num_coefficients
    )
    while_resized = picture_bytes * (1 + copies.kept) + _resizing_bytes(size, num_crops)
    return max(while_decoded, while_resized) + header.num_bytes + WORKING_BYTES


def _resizing_bytes(size: Size, num_crops: int) -> int:
    narrowed = max(resized_size(*size, num_crops)) * min(size)
    padded = padded_size(*size, num_crops)
    return NARROWED_BYTES * narrowed + FITTED_BYTES * padded.width * padded.height
