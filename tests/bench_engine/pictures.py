"""The bench's pictures: noise that no cache has seen, and photographs as files."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from PIL import Image, ImageFilter

GRAIN = {"JPEG": 3.7, "PNG": 1.9}
"""Standard deviation of a photograph's noise, in steps of 256: chosen so that the files are about
as large as a camera's (0.2, 0.6 and 1.7 MB for 1, 4 and 12 megapixels, 5 MB for a PNG of 4)."""


def noise(seed: int, side_px: int) -> Image.Image:
    """A square of random colours in blocks of 8 pixels, another one for each seed."""
    blocks = np.random.default_rng(seed).integers(0, 256, (side_px // 8, side_px // 8, 3))
    return Image.fromarray(blocks.astype(np.uint8)).resize((side_px, side_px), Image.Resampling.BOX)


def as_file(picture: Image.Image, file_format: str) -> bytes:
    content = io.BytesIO()
    picture.save(content, format=file_format, quality=85)
    return content.getvalue()


@cache
def photograph(megapixels: float, file_format: str) -> bytes:
    """A file with a lying 4:3 picture of soft shapes under a little noise."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    size = (height * 4 // 3, height)
    rng = np.random.default_rng(7)
    shapes = Image.fromarray(rng.integers(0, 256, (18, 24, 3)).astype(np.uint8))
    soft = shapes.resize(size, Image.Resampling.BICUBIC).filter(ImageFilter.GaussianBlur(2))
    grain = rng.normal(0, GRAIN[file_format], (size[1], size[0], 1)).astype(np.float32)
    pixels = np.clip(np.asarray(soft, dtype=np.float32) + grain, 0, 255).astype(np.uint8)
    return as_file(Image.fromarray(pixels), file_format)
