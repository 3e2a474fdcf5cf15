"""From files to pictures: exactly as the published processor would, or fast and nearly so."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tests.worker.photographs import jpeg, photograph
from tests.worker.picture_bytes import encoded, exif, png
from visionq_worker.colours import flat_rgb
from visionq_worker.developing import develop_exactly, develop_fast
from visionq_worker.footprint import reduction
from visionq_worker.images import ImageLimits, open_image
from visionq_worker.jpegs import has_fast_decoder
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

needs_simplejpeg = pytest.mark.skipif(
    not has_fast_decoder(), reason="simplejpeg, the extra `fast`, is not installed"
)


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


def fast(content: bytes, num_crops: int, *, by_simplejpeg: bool = False) -> Picture:
    opened = open_image(content, LIMITS)
    return develop_fast(opened, num_crops, has_fast_decoder=by_simplejpeg)[0]


def decibels(one: Picture, other: Picture) -> float:
    """The peak signal-to-noise ratio of one as a copy of the other."""
    difference = one.pixels.astype(np.float64) - other.pixels
    return 10 * math.log10(255**2 / max(1e-9, float(np.square(difference).mean())))


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
    # The same, but for the last bits of the resizing.
    by_torch = fast(content, num_crops).pixels.astype(int)
    assert np.abs(by_torch - developed.pixels).max() <= 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exact_pixels_of_a_large_photograph_are_those_of_the_whole(orientation: int) -> None:
    content = jpeg(photograph((2400, 1700)), exif=exif(orientation))
    assert np.array_equal(exactly(content, 4).pixels, plainly(content, 4))


@pytest.mark.parametrize("by_simplejpeg", [False, pytest.param(True, marks=needs_simplejpeg)])
@pytest.mark.parametrize(
    ("size", "num_crops", "factor"),
    [((2311, 1733), 1, 4), ((2311, 1733), 4, 2), ((3901, 2925), 16, 2), ((1733, 2311), 4, 2)],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_reduced_photograph_keeps_44_decibels(
    size: tuple[int, int], num_crops: int, factor: int, orientation: int, by_simplejpeg: bool
) -> None:
    """Odd sizes, so that the last pixels of the reduced picture are half empty."""
    content = jpeg(photograph(size, grain=6), exif=exif(orientation))
    assert reduction(open_image(content, LIMITS).header, num_crops, "fast") == factor
    reduced = fast(content, num_crops, by_simplejpeg=by_simplejpeg)
    assert decibels(reduced, exactly(content, num_crops)) >= 44


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_photograph_that_is_decoded_whole_keeps_70_decibels(form: str) -> None:
    content = encoded(photograph((1600, 1200)), form)
    assert reduction(open_image(content, LIMITS).header, 16, "fast") == 1
    assert decibels(fast(content, 16), exactly(content, 16)) >= 70


def test_size_is_that_of_the_upright_picture_before_it_is_resized() -> None:
    content = jpeg(photograph((2600, 1800)), exif=exif(6))
    _, exact_size = develop_exactly(open_image(content, LIMITS), 1)
    _, fast_size = develop_fast(open_image(content, LIMITS), 1, has_fast_decoder=False)
    assert exact_size == fast_size == (1800, 2600)


@needs_simplejpeg
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}])
def test_simplejpeg_gives_what_pillow_gives(options: dict[str, object]) -> None:
    for size in ((301, 200), (2311, 1733)):
        content = jpeg(photograph(size), **options)
        by_pillow, by_simplejpeg = fast(content, 4), fast(content, 4, by_simplejpeg=True)
        assert decibels(by_simplejpeg, by_pillow) >= 60


@needs_simplejpeg
def test_what_is_not_for_simplejpeg_is_left_to_pillow() -> None:
    content = jpeg(photograph((301, 200)))
    padded = content[:2] + b"\xff\xff" + content[2:]  # a filler that some cameras write
    others = [jpeg(noise(mode, (301, 200))) for mode in ("CMYK", "L")]
    for odd in (padded, *others):
        assert fast(odd, 4, by_simplejpeg=True).digest == fast(odd, 4).digest


def test_animation_of_many_frames_is_one_picture() -> None:
    frames = [Image.new("RGB", (64, 64), (value, 0, 0)) for value in range(50)]
    content = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert exactly(content, 1).pixels.max() == 0


def test_picture_of_one_pixel_fills_its_tiles() -> None:
    content = png(1, 1, b"\0" + bytes([10, 20, 30]))
    for picture in (exactly(content, 1), fast(content, 1)):
        assert picture.pixels.shape == (TILE_PX, TILE_PX, 3)
        assert (picture.pixels == (10, 20, 30)).all()
