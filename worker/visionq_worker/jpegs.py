"""The fast decoder of JPEGs, where it is installed: simplejpeg, the extra `fast`. Its only door."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FAST_DECODER = "simplejpeg"


def has_fast_decoder() -> bool:
    """Whether the package is there."""
    return importlib.util.find_spec(FAST_DECODER) is not None


def decode_rgb(content: bytes, size: tuple[int, int], reduction: int) -> NDArray[np.uint8] | None:
    """A JPEG of that width and height as (rows, columns, 3), so many times smaller, rounded up.

    None for what is damaged, or odd in any way: Pillow has the last word on those.
    """
    import simplejpeg

    width, height = (-(-side // reduction) for side in size)
    try:
        stored_height, stored_width, *_ = simplejpeg.decode_jpeg_header(content)
        if (stored_width, stored_height) != size:  # then nobody has looked at how much it takes
            return None
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(
            content, min_width=width, min_height=height
        )
    except ValueError:
        return None
    return pixels if pixels.shape == (height, width, 3) else None
