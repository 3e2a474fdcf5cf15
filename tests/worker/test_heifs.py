"""HEIF, which phones store: read where it is allowed and the library is there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.worker.picture_bytes import encoded, exif
from visionq.contract import FailureCode
from visionq.errors import InvalidImage
from visionq.image_sizes import size_in_hand
from visionq_worker import heifs
from visionq_worker.developing import Upright, develop_exactly, develop_fast
from visionq_worker.errors import StartError, TaskError
from visionq_worker.heifs import HEIF, has_heif
from visionq_worker.images import ImageLimits, open_image, set_up_pillow

pytestmark = pytest.mark.skipif(
    not has_heif(), reason="pillow-heif, the extra `heif`, is not installed"
)
LIMITS = ImageLimits(max_pixels=1_000_000, formats=("JPEG", HEIF))
SIZE = (320, 200)


@pytest.fixture(autouse=True, scope="module")
def _registered() -> None:
    set_up_pillow(LIMITS.formats)


def halves() -> Image.Image:
    """Red on the left, blue on the right."""
    image = Image.new("RGB", SIZE, (200, 30, 30))
    ImageDraw.Draw(image).rectangle((SIZE[0] // 2, 0, *SIZE), fill=(30, 30, 200))
    return image


def opened(content: bytes) -> Upright:
    return Upright(open_image(content, LIMITS).load())


def is_near(pixel: Any, colour: tuple[int, int, int]) -> bool:
    return bool(np.abs(np.subtract(pixel, colour)).max() < 12)


def refusal(content: bytes, limits: ImageLimits = LIMITS) -> FailureCode:
    with pytest.raises(TaskError) as caught:
        open_image(content, limits).load()
    return caught.value.code


def test_photograph_is_read() -> None:
    upright = opened(encoded(halves(), HEIF, quality=90))
    assert upright.size == SIZE
    image = upright.crop((0, 0, *SIZE))
    assert is_near(image.getpixel((50, 100)), (200, 30, 30))
    assert is_near(image.getpixel((270, 100)), (30, 30, 200))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photograph_is_seen_upright(orientation: int) -> None:
    """As a JPEG with the same EXIF is."""
    as_heif = encoded(halves(), HEIF, quality=90, exif=exif(orientation))
    as_jpeg = encoded(halves(), "JPEG", quality=90, exif=exif(orientation))
    seen, expected = opened(as_heif), opened(as_jpeg)
    assert seen.size == expected.size
    box = (0, 0, *seen.size)
    pixels = [np.asarray(one.crop(box)).astype(int) for one in (seen, expected)]
    assert np.abs(pixels[0] - pixels[1]).mean() < 3


@pytest.mark.parametrize("mode", ["L", "RGBA", "LA"])
def test_other_modes_become_rgb_on_white(mode: str) -> None:
    upright = opened(encoded(Image.new(mode, SIZE), HEIF, quality=90))
    expected = (0, 0, 0) if mode == "L" else (255, 255, 255)
    assert is_near(upright.crop((10, 10, 11, 11)).getpixel((0, 0)), expected)


def test_both_decodings_agree() -> None:
    image = open_image(encoded(halves(), HEIF, quality=90), LIMITS)
    exact, _ = develop_exactly(image, 4)
    again = open_image(encoded(halves(), HEIF, quality=90), LIMITS)
    fast, size = develop_fast(again, 4, has_fast_decoder=True)
    assert size == SIZE
    assert np.abs(exact.pixels.astype(int) - fast.pixels).max() <= 2


def test_client_does_not_guess_its_size() -> None:
    with pytest.raises(InvalidImage, match="how large a HEIF is"):
        size_in_hand(encoded(halves(), HEIF))


def test_of_several_pictures_the_primary_one_is_read() -> None:
    other = Image.new("RGB", (64, 64))
    content = encoded(halves(), HEIF, save_all=True, append_images=[other], primary_index=0)
    assert opened(content).size == SIZE


def test_too_many_pixels_are_refused_by_the_header() -> None:
    content = encoded(Image.new("RGB", (2000, 1000)), HEIF, quality=10)
    assert refusal(content) is FailureCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_file_that_breaks_off_is_refused(share: float) -> None:
    content = encoded(Image.effect_noise(SIZE, 90).convert("RGB"), HEIF)
    assert refusal(content[: int(share * len(content))]) is FailureCode.IMAGE_TRUNCATED


def test_it_is_no_image_where_the_settings_do_not_name_it() -> None:
    limits = ImageLimits(max_pixels=1_000_000, formats=("JPEG", "PNG", "WEBP"))
    assert refusal(encoded(halves(), HEIF), limits) is FailureCode.NOT_AN_IMAGE


def test_worker_without_the_library_does_not_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heifs, "find_spec", lambda _name: None)
    with pytest.raises(StartError, match=r"visionq-worker\[heif\]"):
        set_up_pillow(("JPEG", HEIF))
