"""From a file's bytes to what the model takes: decoded, RGB, upright, resized, padded.

`develop_exactly` gives the pixels of the published processor, `develop_fast` nearly these.
Importing this brings torch.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionq_worker import jpegs
from visionq_worker.footprint import reduction
from visionq_worker.images import Opened, rgb_part, turn
from visionq_worker.model.fitting import fit_exactly, fit_fast, spans
from visionq_worker.model.geometry import Size, resized_size
from visionq_worker.model.pixels import Picture

_SWAPS_SIDES = frozenset(
    {
        Image.Transpose.TRANSPOSE,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    }
)
_STARTS_RIGHT = frozenset(
    {
        Image.Transpose.FLIP_LEFT_RIGHT,
        Image.Transpose.ROTATE_180,
        Image.Transpose.ROTATE_270,
        Image.Transpose.TRANSVERSE,
    }
)
"""The upright picture's right edge is where the stored one begins; and so its bottom."""
_STARTS_BELOW = frozenset(
    {
        Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.ROTATE_180,
        Image.Transpose.TRANSVERSE,
        Image.Transpose.ROTATE_90,
    }
)


class Upright:
    """A decoded picture as an upright RGB one (`fitting.Raster`), of which only parts are made."""

    def __init__(self, stored: Image.Image) -> None:
        self._stored = stored
        self._turn = turn(stored)
        width, height = stored.size
        self.size = Size(height, width) if self._turn in _SWAPS_SIDES else Size(width, height)

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        part = rgb_part(self._stored, self._as_stored(box))
        return part if self._turn is None else part.transpose(self._turn)

    def _as_stored(self, box: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
        left, top, right, bottom = box
        if self._turn in _STARTS_RIGHT:
            left, right = self.size.width - right, self.size.width - left
        if self._turn in _STARTS_BELOW:
            top, bottom = self.size.height - bottom, self.size.height - top
        return (
            (top, left, bottom, right) if self._turn in _SWAPS_SIDES else (left, top, right, bottom)
        )


def develop_exactly(opened: Opened, num_crops: int) -> tuple[Picture, Size]:
    """The picture for so many crops, and its upright size. Raises TaskError, ImageShapeError."""
    upright = Upright(opened.load())
    size = resized_size(*upright.size, num_crops)
    return Picture.fitted(fit_exactly(upright, size)), upright.size


def develop_fast(opened: Opened, num_crops: int, *, has_fast_decoder: bool) -> tuple[Picture, Size]:
    """The same, but that large JPEGs are reduced while decoding, and the resizing is torch's."""
    header = opened.header
    size = Size(header.width, header.height)
    factor = reduction(header, num_crops, "fast")
    pixels = None
    if has_fast_decoder and header.form == "JPEG" and header.mode in ("RGB", "L"):
        pixels = jpegs.decode(opened.content, size, factor, is_grey=header.mode == "L")
    if pixels is not None:
        bands, shape = _rgb_bands(pixels), pixels.shape[:2]
    else:
        image = opened.load(reduction=factor)
        bands, shape = _bands(image), image.size[::-1]
    covered = (size.width / factor, size.height / factor)
    fitted = fit_fast(bands, shape, covered, resized_size(*size, num_crops))
    transposed = turn(opened.image)
    if transposed is None:
        return Picture.fitted(fitted), size
    turned = np.asarray(Image.fromarray(fitted).transpose(transposed))
    swaps = transposed in _SWAPS_SIDES
    return Picture.fitted(turned), Size(size.height, size.width) if swaps else size


def _bands(stored: Image.Image) -> Iterator[NDArray[np.uint8]]:
    """Its rows as RGB, a band at a time: (rows, width, 3)."""
    for top, bottom in spans(stored.height, stored.width):
        # A copy: torch complains of arrays it could not write to.
        yield np.array(rgb_part(stored, (0, top, stored.width, bottom)))


def _rgb_bands(pixels: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The same of decoded pixels: (rows, columns, 3 or 1)."""
    height, width, channels = pixels.shape
    if channels == 3:
        yield pixels
        return
    for top, bottom in spans(height, width):
        yield np.repeat(pixels[top:bottom], 3, axis=2)
