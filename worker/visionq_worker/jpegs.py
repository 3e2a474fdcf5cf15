"""JPEGs by simplejpeg, which reports what Pillow passes over in silence. Its only door.

libjpeg goes on after damage: what is missing of the compressed data becomes grey, and the rest may
be shifted. It warns of that, but Pillow does not pass its warnings on. simplejpeg stops at the
first one, so every JPEG is read by it: as the decoder, or before Pillow decodes.
"""

from __future__ import annotations

import importlib.util
import re
from typing import TYPE_CHECKING

from visionq_worker.errors import StartError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FAST_DECODER = "simplejpeg"

MAX_SEGMENTS = 10_000
"""Of a file that is read a second time. Those of cameras have some dozens."""

_NOT_READ = re.compile("subsampling level|Unsupported color|size")
"""Of the messages, those about a kind of JPEG that simplejpeg does not read, or not at an eighth,
and Pillow may."""
_GREY = "GRAY"
_SMALLEST = 8
"""The least a JPEG can be reduced to is an eighth: all of its data is read, little computed."""

_MARKER = re.compile(rb"\xff[\x01-\xfe]")
_FRAMES = frozenset({*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC})
_SEQUENTIAL = frozenset({0xC0, 0xC1, 0xC9})
_START, _SCAN, _METADATA, _COMMENT = 0xD8, 0xDA, 0xE0, 0xFE
_WHOLE_BLOCK = b"\x00\x3f\x00"
"""A scan's first and last coefficient, and that no bits of them come later."""


def has_fast_decoder() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec(FAST_DECODER) is not None


def require_decoder() -> None:
    """Raises `StartError` where the package is missing: damage would go unnoticed."""
    if not has_fast_decoder():
        raise StartError("JPEGs take simplejpeg; pip install simplejpeg")


def decode(
    content: bytes, size: tuple[int, int], reduction: int, *, is_grey: bool
) -> NDArray[np.uint8] | None:
    """A JPEG of that width and height as RGB or grey, so many times smaller, rounded up.

    (rows, columns, 3 or 1). None for what is damaged, or odd in any way: `is_whole` tells which,
    and Pillow decodes the rest.
    """
    try:
        return _decoded(content, size, reduction, _GREY if is_grey else "RGB")
    except ValueError:
        return None


def is_whole(content: bytes, size: tuple[int, int]) -> bool:
    """Whether none of its compressed data is missing, damaged or left over.

    What is odd elsewhere is no damage. Of what simplejpeg does not read (unusual sampling), nothing
    is known: Pillow has the last word there.
    """
    if _warning(content, size) is None:
        return True
    plain = _pixels_alone(content)
    warning = None if plain is None else _warning(plain, size)
    return plain is not None and (warning is None or _NOT_READ.search(warning) is not None)


def _warning(content: bytes, size: tuple[int, int]) -> str | None:
    """The first thing that libjpeg says of it."""
    try:
        _decoded(content, size, _SMALLEST, _GREY)
    except ValueError as exc:
        return str(exc)
    return None


def _decoded(
    content: bytes, size: tuple[int, int], reduction: int, colours: str
) -> NDArray[np.uint8]:
    """Raises `ValueError`, with libjpeg's message, at the first warning."""
    import numpy as np
    import simplejpeg

    width, height = (-(-side // reduction) for side in size)
    # No more memory than has been expected, whatever the decoder makes of the header.
    pixels = np.empty((height, width, 1 if colours == _GREY else 3), np.uint8)
    decoded: NDArray[np.uint8] = simplejpeg.decode_jpeg(
        content, colours, min_width=width, min_height=height, buffer=pixels
    )
    if decoded.shape != pixels.shape:
        raise ValueError("of another size than its header says")
    return decoded


def _pixels_alone(content: bytes) -> bytes | None:
    """The file without what is odd in its head; None where that has no end, or too many segments.

    Left out: stray bytes between segments, comments and metadata. A first scan that claims a range
    of coefficients in a sequential file, which has none, is corrected. What follows is left as it
    is: there, stray bytes are compressed data that nobody has asked for.
    """
    parts = [bytes([0xFF, _START])]
    is_sequential = False
    at = 2
    for _ in range(MAX_SEGMENTS):
        found = _MARKER.search(content, at)
        if found is None:
            return None
        begin, marker = found.end() - 2, content[found.end() - 1]
        at = begin + 2 + int.from_bytes(content[begin + 2 : begin + 4])
        if marker == _SCAN:
            end = at - len(_WHOLE_BLOCK) if is_sequential else at
            parts += (content[begin:end], _WHOLE_BLOCK[: at - end], content[at:])
            return b"".join(parts)
        if marker != _COMMENT and marker & 0xF0 != _METADATA:
            parts.append(content[begin:at])
        if marker in _FRAMES:
            is_sequential = marker in _SEQUENTIAL
    return None
