"""What an image costs in a prompt, from its width and height alone.

The worker has the same rule in `model.geometry`, where the model's published processor stands
behind it. Neither side may import the other there: the model knows nothing of visionq, and a web
backend has no model. So it is written twice, and a test holds both to the same numbers.
"""

from __future__ import annotations

import math

from visionq.errors import ImageTooNarrow

TILE_PX = 336
TILE_SIDE_TOKENS = 12

MIN_IMAGE_TOKENS = 313
"""Of any image: one tile, its row of separators, and the global view."""


def num_image_tokens(width: int, height: int, num_crops: int) -> int:
    """Tokens of an image of so many pixels, upright, in at most `num_crops` tiles.

    Raises `ImageTooNarrow` for one that cannot be tiled.
    """
    if width < 1 or height < 1:
        raise ImageTooNarrow(f"an image of {width} x {height} pixels has no content")
    ratio = max(width, height) / min(width, height)
    along = _tiles_along(ratio, num_crops)
    shorter_px = int(TILE_PX * along / ratio)
    if shorter_px == 0:
        raise ImageTooNarrow(f"an image of {width} x {height} pixels is too narrow to be tiled")
    across = math.ceil(shorter_px / TILE_PX)
    return _num_tokens(along * across, rows=along if width < height else across)


def max_image_tokens(num_crops: int) -> int:
    """Tokens of the most expensive image: all its tiles in one column."""
    return _num_tokens(num_crops, rows=num_crops)


def _tiles_along(ratio: float, num_crops: int) -> int:
    """Most tiles along the longer side with which the whole grid keeps to `num_crops`."""
    tiles = 1
    while (tiles + 1) * math.ceil((tiles + 1) / ratio) <= num_crops:
        tiles += 1
    return tiles


def _num_tokens(num_tiles: int, rows: int) -> int:
    """Of the tiles and the global view, a separator for each of their rows, and one between."""
    separators = (rows + 1) * TILE_SIDE_TOKENS + 1
    return (num_tiles + 1) * TILE_SIDE_TOKENS**2 + separators
