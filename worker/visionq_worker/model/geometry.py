"""What an image costs, from its width and height alone: tile grid, padded size, tokens.

Plain integers, no pixels, no torch: usable on a header before anything is decoded. The rule is the
one of the model's published image processor ("HD transform"): enlarge or shrink the image until it
fills as many 336 pixel tiles as `num_crops` allows, then pad the shorter side.
"""

import math
from typing import NamedTuple

from visionq_worker.model.errors import ImageShapeError

TILE_PX = 336  # CLIP ViT-L/14-336 sees squares of this side
PATCH_PX = 14
TILE_SIDE_TOKENS = TILE_PX // PATCH_PX // 2  # 12: patches are merged two by two
TILE_TOKENS = TILE_SIDE_TOKENS * TILE_SIDE_TOKENS


class Grid(NamedTuple):
    """How many tiles an image is cut into, beside its global view."""

    rows: int
    columns: int

    @property
    def num_tiles(self) -> int:
        """Tiles the vision tower sees: the grid and the global view."""
        return self.rows * self.columns + 1

    @property
    def num_tokens(self) -> int:
        """Embeddings the decoder sees: tiles, a separator per row of tokens, one between views."""
        row_separators = (self.rows + 1) * TILE_SIDE_TOKENS
        return self.num_tiles * TILE_TOKENS + row_separators + 1


class Size(NamedTuple):
    """Pixels, in the order of PIL."""

    width: int
    height: int


def resized_size(width: int, height: int, num_crops: int) -> Size:
    """Size to resize an image to, before padding; raises ImageShapeError.

    The longer side becomes a multiple of 336, the other one follows the aspect ratio (truncated).
    """
    if width < 1 or height < 1:
        raise ImageShapeError(f"an image of {width} x {height} pixels has no content")
    if num_crops < 1:
        raise ImageShapeError(f"num_crops must be at least 1, not {num_crops}")
    if width < height:
        turned = resized_size(height, width, num_crops)
        return Size(turned.height, turned.width)
    ratio = width / height
    longer = TILE_PX * _tiles_along(ratio, num_crops)
    shorter = int(longer / ratio)
    if shorter == 0:
        raise ImageShapeError(f"an image of {width} x {height} pixels is too narrow to be tiled")
    return Size(longer, shorter)


def padded_size(width: int, height: int, num_crops: int) -> Size:
    """Size after resizing and padding, both sides multiples of 336; raises ImageShapeError."""
    resized = resized_size(width, height, num_crops)
    return Size(*(math.ceil(side / TILE_PX) * TILE_PX for side in resized))


def tile_grid(width: int, height: int, num_crops: int) -> Grid:
    """Rows and columns of tiles the image is cut into; raises ImageShapeError."""
    padded = padded_size(width, height, num_crops)
    return Grid(rows=padded.height // TILE_PX, columns=padded.width // TILE_PX)


def num_image_tokens(width: int, height: int, num_crops: int) -> int:
    """Tokens the image takes in a prompt; raises ImageShapeError."""
    return tile_grid(width, height, num_crops).num_tokens


def _tiles_along(ratio: float, num_crops: int) -> int:
    """Most tiles the longer side can have so that the whole grid stays within num_crops."""
    tiles = 1
    while (tiles + 1) * math.ceil((tiles + 1) / ratio) <= num_crops:
        tiles += 1
    return tiles
