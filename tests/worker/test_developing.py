"""From files to pictures: exactly as the published processor would."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.worker.picture_bytes import encoded, exif, png
from visionq_worker.colours import flat_rgb
from visionq_worker.developing import develop_exactly
from visionq_worker.images import ImageLimits, open_image
from visionq_worker.model.geometry import TILE_PX, resized_size
from visionq_worker.model.pixels import Picture

LIMITS = ImageLimits(max_pixels=40_000_000, formats=("JPEG", "PNG", "WEBP", "TIFF"))
KINDS = (
    ("RGB", "PNG"),
    ("RGBA", "PNG"),
    ("LA", "PNG"),
    ("L", "PNG"),
    ("P", "PNG"),
    ("1", "PNG"),
    ("I;16", "PNG"),
    ("RGB", "JPEG"),
    ("CMYK", "JPEG"),
    ("RGBA", "WEBP"),
    ("RGB", "TIFF"),
)
WHITE = 255


def noise(mode: str, size: tuple[int, int]) -> Image.Image:
    channels = [Image.effect_noise(size, 90) for _ in range(4)]
    if mode == "I;16":
        return Image.fromarray(np.asarray(channels[0]).astype(np.uint16) * 257)
    if mode == "LA":
        return Image.merge("LA", channels[:2])
    return Image.merge("RGBA", channels).convert(mode)


def plainly(content: bytes, num_crops: int) -> NDArray[np.uint8]:
    """The whole picture upright, then RGB, then resized as the published processor does it."""
    with Image.open(io.BytesIO(content)) as stored:
        whole = flat_rgb(ImageOps.exif_transpose(stored))
    is_tall = whole.width < whole.height
    lying = whole.transpose(Image.Transpose.TRANSPOSE) if is_tall else whole
    width, height = resized_size(*lying.size, num_crops)
    resized = np.asarray(lying.resize((width, height), Image.Resampling.BILINEAR))
    gap = -height % TILE_PX
    white = ((gap // 2, gap - gap // 2), (0, 0), (0, 0))
    padded = np.pad(resized, white, constant_values=WHITE)
    return padded.transpose(1, 0, 2) if is_tall else padded


def exactly(content: bytes, num_crops: int) -> Picture:
    return develop_exactly(open_image(content, LIMITS), num_crops)[0]


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    size=st.tuples(st.integers(1, 700), st.integers(1, 700)).filter(
        lambda size: max(size) < 100 * min(size)
    ),
    orientation=st.integers(1, 8),
    num_crops=st.integers(1, 16),
)
def test_exact_pixels_are_those_of_the_whole_picture_whatever_its_kind(
    kind: tuple[str, str], size: tuple[int, int], orientation: int, num_crops: int
) -> None:
    mode, form = kind
    content = encoded(noise(mode, size), form, exif=exif(orientation))
    developed = exactly(content, num_crops)
    assert np.array_equal(developed.pixels, plainly(content, num_crops))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exact_pixels_of_a_large_picture_are_those_of_the_whole(orientation: int) -> None:
    content = encoded(noise("RGB", (2400, 1700)), "JPEG", exif=exif(orientation))
    assert np.array_equal(exactly(content, 4).pixels, plainly(content, 4))


def test_size_is_that_of_the_upright_picture_before_it_is_resized() -> None:
    content = encoded(Image.new("RGB", (2600, 1800)), "JPEG", exif=exif(6))
    _, size = develop_exactly(open_image(content, LIMITS), 1)
    assert size == (1800, 2600)


def test_animation_of_many_frames_is_one_picture() -> None:
    frames = [Image.new("RGB", (64, 64), (value, 0, 0)) for value in range(50)]
    content = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert exactly(content, 1).pixels.max() == 0


def test_picture_of_one_pixel_fills_its_tiles() -> None:
    content = png(1, 1, b"\0" + bytes([10, 20, 30]))
    picture = exactly(content, 1)
    assert picture.pixels.shape == (TILE_PX, TILE_PX, 3)
    assert (picture.pixels == (10, 20, 30)).all()
