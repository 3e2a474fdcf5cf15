"""A picture resized for its tiles: with the very pixels of the published processor, or faster.

Both ways take the picture in bands of half a megabyte, so that what has been decoded is never there
a second time in another form. Left out: how large it is to be (`geometry`), the padding (`pixels`).
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn import functional

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


def fit_fast(
    bands: Iterable[NDArray[np.uint8]],
    shape: tuple[int, int],
    covered: tuple[float, float],
    size: Size,
) -> NDArray[np.uint8]:
    """The picture in that size, (height, width, 3), by torch's filter: 1 of 255 off here and there.

    `bands` are its rows, (rows, columns, 3) each and together of that shape. The picture covers so
    much of them, width and height: a JPEG reduced while decoding may end within its last pixels.
    """
    rows, _ = shape
    covered_width, covered_height = covered
    halfway = np.empty((rows, size.width, 3), np.uint8)
    top = 0
    for band in bands:
        height = len(band)
        halfway[top : top + height] = _torch_resized(
            band, (height, size.width), (height, covered_width)
        )
        top += height
    assert top == rows, "the bands are the whole picture"
    return _torch_resized(halfway, (size.height, size.width), (covered_height, size.width))


def spans(length: int, breadth: int) -> Iterator[tuple[int, int]]:
    """Begin and end of each band of a picture that is cut along `length`."""
    step = max(1, BAND_PX // breadth)
    for begin in range(0, length, step):
        yield begin, min(length, begin + step)


def _pil_resized(image: Image.Image, width: int, height: int) -> Image.Image:
    return image.resize((width, height), Image.Resampling.BILINEAR)


def _torch_resized(
    pixels: NDArray[np.uint8], shape: tuple[int, int], covered: tuple[float, float]
) -> NDArray[np.uint8]:
    """To (rows, columns), from the first pixels that are covered, rows and columns of them.

    torch resizes bytes laid out as these are in the caller's thread alone. Other layouts give each
    thread that prepares pictures a team of helpers, which the engine's own pays for (`loading`).
    """
    # (1, 3, H, W), in memory (1, H, W, 3): from numpy's pixels[None] torch would not see that.
    image = torch.from_numpy(pixels).unsqueeze(0).permute(0, 3, 1, 2)
    if covered == pixels.shape[:2]:
        resized = functional.interpolate(image, size=shape, mode="bilinear", antialias=True)
    else:  # what remains at the end is less than a pixel, and left off
        factors = (shape[0] / covered[0], shape[1] / covered[1])
        resized = functional.interpolate(
            image, scale_factor=factors, mode="bilinear", antialias=True
        )
    assert resized.shape[2:] == shape
    return resized.permute(0, 2, 3, 1)[0].numpy()
