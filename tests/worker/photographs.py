"""Photographs that no camera took: soft ground, hard shapes, writing, and a sensor's noise."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from tests.worker.picture_bytes import encoded

LENS_PX = 0.7
"""How far one point of what is seen spreads: less than any camera reaches at full resolution."""


def photograph(size: tuple[int, int], *, grain: float = 4.0, seed: int = 7) -> Image.Image:
    """`grain` is the standard deviation of its noise, in steps of 256; colours have some more."""
    width, height = size
    rng = np.random.default_rng(seed)
    ground = Image.fromarray(rng.integers(0, 256, (18, 24, 3)).astype(np.uint8))
    scene = ground.resize(size, Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(scene)
    for shape in (draw.rectangle, draw.ellipse) * 60:
        left, top = (int(rng.integers(0, side)) for side in size)
        across = int(rng.integers(width // 60 + 1, width // 12 + 2))
        colour = tuple(int(value) for value in rng.integers(0, 256, 3))
        shape([left, top, left + across, top + across], fill=colour)
    for _ in range(60):
        place = (int(rng.integers(0, width)), int(rng.integers(0, height)))
        draw.text(place, "Invoice 2041: 31.90 EUR", fill=(0, 0, 0), font_size=max(8, width // 40))
    seen = np.asarray(scene.filter(ImageFilter.GaussianBlur(LENS_PX)), dtype=np.float32)
    noise = rng.normal(0, grain, (height, width, 1)) + rng.normal(0, 0.6 * grain, seen.shape)
    return Image.fromarray(np.clip(seen + noise, 0, 255).astype(np.uint8))


def jpeg(image: Image.Image, **options: object) -> bytes:
    return encoded(image, "JPEG", **{"quality": 90, **options})
