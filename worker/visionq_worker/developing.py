"""From a file's bytes to what the model takes: decoded, RGB, upright, resized, padded.

The pixels are those of the published processor. Importing this brings torch.
"""

from __future__ import annotations

from PIL import Image

from visionq_worker.images import Opened, rgb_part, turn
from visionq_worker.model.fitting import fit_exactly
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
