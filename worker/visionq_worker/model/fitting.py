"""A picture resized for its tiles, with the very pixels of the published processor.

It is taken in bands of half a megabyte, so that what has been decoded is never there a second time
in another form. Left out: how large it is to be (`geometry`), the padding (`pixels`).
"""

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionq_worker.model.geometry import Size

BAND_PX = 1 << 17
"""Pixels in a band: half a megabyte in PIL's memory, which fits a core's cache."""


class Raster(Protocol):
    """A picture that gives any part of itself as RGB. An RGB image of PIL is one."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        ...

    def crop(self, box: tuple[int, int, int, int]) -> Image.Image:
        """The part from (left, top) up to (right, bottom)."""
        ...


def fit_exactly(raster: Raster, size: Size) -> NDArray[np.uint8]:
    """The picture in that size, (height, width, 3), as PIL's bilinear filter makes it.

    PIL rounds to bytes between its two passes, so their order shows: along the longer side first,
    because the published processor resizes a portrait lying down.
    """
    width, height = raster.size
    if width < height:
        halfway = Image.new("RGB", (width, size.height))
        for left, right in spans(width, height):
            band = raster.crop((left, 0, right, height))
            halfway.paste(_pil_resized(band, right - left, size.height), (left, 0))
    else:
        halfway = Image.new("RGB", (size.width, height))
        for top, bottom in spans(height, width):
            band = raster.crop((0, top, width, bottom))
            halfway.paste(_pil_resized(band, size.width, bottom - top), (0, top))
    return np.asarray(_pil_resized(halfway, *size))


def spans(length: int, breadth: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each band of a picture that is cut along `length`."""
    step = max(1, BAND_PX // breadth)
    for begin in range(0, length, step):
        yield begin, min(length, begin + step)


def _pil_resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR)
