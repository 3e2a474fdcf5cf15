"""From bytes to an upright RGB picture: every mode, every fault, and what is refused unopened."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.worker.picture_bytes import GREY, PALETTE, encoded, exif, png, png_chunk
from visionq.contract import FailureCode
from visionq_worker.developing import Upright
from visionq_worker.errors import TaskError
from visionq_worker.images import ImageLimits, open_image

LIMITS = ImageLimits(max_pixels=1_000_000, formats=("JPEG", "PNG", "WEBP"))
ALL = ImageLimits(max_pixels=1_000_000, formats=("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP"))
RED, WHITE, BLACK = (255, 0, 0), (255, 255, 255), (0, 0, 0)

GOOD_FILES = [
    encoded(Image.effect_noise((24, 16), 90).convert(mode), form, exif=exif(6))
    for mode, form in (("RGB", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGBA", "WEBP"))
]
FURTHER_FILES = [
    encoded(Image.effect_noise((24, 16), 90).convert(mode), form, **options)
    for mode, form, options in (
        ("P", "GIF", {"transparency": 3}),
        ("RGB", "BMP", {}),
        ("P", "BMP", {}),
        ("RGB", "TIFF", {}),
        ("RGBA", "TIFF", {"compression": "tiff_lzw"}),
        ("CMYK", "TIFF", {"compression": "tiff_deflate"}),
    )
]
"""The decoder of TIFF writes its complaints past Python to the standard error: few of these."""


def decode(content: bytes, limits: ImageLimits = ALL) -> Image.Image:
    """The whole picture."""
    upright = Upright(open_image(content, limits).load())
    return upright.crop((0, 0, *upright.size))


def refusal(content: bytes, limits: ImageLimits = LIMITS) -> TaskError:
    with pytest.raises(TaskError) as caught:
        decode(content, limits)
    assert not caught.value.retryable
    return caught.value


def pixels(content: bytes) -> list[tuple[int, ...]]:
    """Row by row."""
    image = decode(content)
    assert image.mode == "RGB"
    channels = image.tobytes()
    return [tuple(channels[at : at + 3]) for at in range(0, len(channels), 3)]


def two_colour_palette() -> Image.Image:
    """Two pixels: entries 0 and 1 of a palette."""
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    return image


@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("JPEG", {"quality": 100}),
        ("GIF", {}),
        ("BMP", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_each_allowed_format_is_decoded(form: str, options: dict[str, object]) -> None:
    image = decode(encoded(Image.new("RGB", (16, 8), RED), form, **options))
    assert (image.mode, image.size) == ("RGB", (16, 8))
    # JPEG keeps no colour exactly: this red comes back as (254, 0, 0).
    assert image.getpixel((7, 3)) == ((254, 0, 0) if form == "JPEG" else RED)


@pytest.mark.parametrize(
    ("orientation", "size", "corner"),
    [
        (1, (3, 2), (0, 0)),
        (2, (3, 2), (2, 0)),
        (3, (3, 2), (2, 1)),
        (4, (3, 2), (0, 1)),
        (5, (2, 3), (0, 0)),
        (6, (2, 3), (1, 0)),
        (7, (2, 3), (1, 2)),
        (8, (2, 3), (0, 2)),
        (0, (3, 2), (0, 0)),
        (9, (3, 2), (0, 0)),
    ],
)
@pytest.mark.parametrize("form", ["PNG", "WEBP", "TIFF"])
def test_picture_is_turned_as_its_exif_says(
    form: str, orientation: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    """The red pixel of the top left corner goes where the EXIF standard's table says."""
    stored = Image.new("RGB", (3, 2))
    stored.putpixel((0, 0), RED)
    lossless = {"lossless": True} if form == "WEBP" else {}
    image = decode(encoded(stored, form, exif=exif(orientation), **lossless))
    assert image.size == size
    assert image.getpixel(corner) == RED


def test_photograph_taken_on_its_side_is_turned_upright() -> None:
    stored = Image.new("RGB", (64, 32), "black")
    stored.paste(RED, (0, 0, 32, 32))
    image = decode(encoded(stored, "JPEG", quality=95, exif=exif(6)))
    assert image.size == (32, 64)
    top, bottom = image.getpixel((16, 10)), image.getpixel((16, 54))
    assert isinstance(top, tuple)
    assert isinstance(bottom, tuple)
    assert top[0] > 200
    assert bottom[0] < 50


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"Exif\0\0garbage!!", id="no TIFF header"),
        pytest.param(b"Exif\0\0II*\0", id="ends after the TIFF header"),
        # Make, "the camera's name", as a rational number: Pillow cannot write that back.
        pytest.param(
            exif(1, b"\x0f\x01\x05\0\x01\0\0\0\0\0\0\0"), id="a number where text belongs"
        ),
    ],
)
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_block_does_not_keep_the_picture_from_being_read(form: str, block: bytes) -> None:
    image = decode(encoded(Image.new("RGB", (16, 16), "white"), form, exif=block))
    assert image.getpixel((8, 8)) == WHITE


def test_picture_with_an_odd_exif_entry_is_still_turned() -> None:
    odd = exif(6, b"\x0f\x01\x05\0\x01\0\0\0\0\0\0\0")
    assert decode(encoded(Image.new("RGB", (3, 2)), "PNG", exif=odd)).size == (2, 3)


def test_transparent_pixels_become_white_and_half_transparent_ones_half_white() -> None:
    image = Image.new("RGBA", (3, 1))
    for x, alpha in enumerate((0, 51, 255)):
        image.putpixel((x, 0), (255, 0, 0, alpha))
    # 51 of 255 is a fifth of red upon white: green and blue keep four fifths of 255.
    assert pixels(encoded(image, "PNG")) == [WHITE, (255, 204, 204), RED]


def test_transparent_webp_is_put_on_white() -> None:
    image = Image.new("RGBA", (2, 2), (0, 0, 0, 0))
    assert pixels(encoded(image, "WEBP", lossless=True)) == [WHITE] * 4


def test_grey_with_alpha_is_put_on_white() -> None:
    image = Image.new("LA", (2, 1), (100, 255))
    image.putpixel((1, 0), (100, 0))
    assert pixels(encoded(image, "PNG")) == [(100, 100, 100), WHITE]


def test_palette_picture_has_the_colours_of_its_palette() -> None:
    assert pixels(encoded(two_colour_palette(), "PNG")) == [(10, 20, 30), (200, 100, 50)]


def test_transparent_palette_entry_becomes_white() -> None:
    content = encoded(two_colour_palette(), "PNG", transparency=1)
    assert pixels(content) == [(10, 20, 30), WHITE]


def test_half_transparent_palette_entry_is_mixed_with_white() -> None:
    content = encoded(two_colour_palette(), "PNG", transparency=bytes([255, 51]))
    # A fifth of (200, 100, 50) and four fifths of white.
    assert pixels(content) == [(10, 20, 30), (244, 224, 214)]


def test_colour_named_transparent_becomes_white() -> None:
    keyed = png_chunk(b"tRNS", b"\0\x01\0\x02\0\x03")
    content = png(2, 1, b"\0" + bytes([1, 2, 3, 4, 5, 6]), extra=keyed)
    assert pixels(content) == [WHITE, (4, 5, 6)]


def test_grey_picture_has_equal_channels() -> None:
    assert pixels(encoded(Image.new("L", (2, 1), 77), "PNG")) == [(77, 77, 77)] * 2


def test_black_and_white_picture_is_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert pixels(encoded(image, "PNG")) == [BLACK, WHITE]


def test_sixteen_bit_grey_keeps_its_shades() -> None:
    """The high byte counts. Pillow's own conversion would make all but the first one white."""
    row = b"\0" + bytes.fromhex("0000 00ff 4000 8000 ffff")
    shades = [pixel[0] for pixel in pixels(png(5, 1, row, bits=16, colour=GREY))]
    assert shades == [0, 0, 0x40, 0x80, 0xFF]


@pytest.mark.parametrize("order", ["<", ">"])
def test_sixteen_bit_grey_tiff_keeps_its_shades_in_either_order_of_bytes(order: str) -> None:
    shades = np.array([[0, 0x00FF, 0x4000, 0x8000, 0xFFFF]], dtype=f"{order}u2")
    content = encoded(Image.fromarray(shades), "TIFF")
    assert [pixel[0] for pixel in pixels(content)] == [0, 0, 0x40, 0x80, 0xFF]


def test_transparent_gif_is_put_on_white() -> None:
    content = encoded(two_colour_palette(), "GIF", transparency=1)
    assert pixels(content) == [(10, 20, 30), WHITE]


def test_colours_that_cannot_become_rgb_are_refused() -> None:
    error = refusal(encoded(Image.new("LAB", (2, 2)), "TIFF"), ALL)
    assert error.code is FailureCode.NOT_AN_IMAGE
    assert error.message == "an input image has colours of a kind that is not read: LAB"


def test_sixteen_bit_grey_named_transparent_becomes_white() -> None:
    keyed = png_chunk(b"tRNS", bytes.fromhex("4000"))
    row = b"\0" + bytes.fromhex("4000 8000 0000")
    content = png(3, 1, row, bits=16, colour=GREY, extra=keyed)
    assert pixels(content) == [WHITE, (128, 128, 128), BLACK]


def test_sixteen_bit_colour_keeps_its_shades() -> None:
    row = b"\0" + bytes.fromhex("1234 8000 ff00")
    assert pixels(png(1, 1, row, bits=16)) == [(0x12, 0x80, 0xFF)]


@pytest.mark.parametrize(
    ("inks", "expected"),
    [((0, 0, 0, 0), WHITE), ((0, 255, 255, 0), RED), ((0, 0, 0, 255), BLACK)],
)
def test_cmyk_jpeg_gets_the_colours_of_its_inks(
    inks: tuple[int, ...], expected: tuple[int, int, int]
) -> None:
    content = encoded(Image.new("CMYK", (8, 8), inks), "JPEG", quality=100)
    assert pixels(content)[0] == expected


@pytest.mark.parametrize("form", ["PNG", "WEBP", "GIF", "TIFF"])
def test_animation_gives_its_first_frame(form: str) -> None:
    first, second = (Image.new("RGB", (8, 8), colour) for colour in ("red", "blue"))
    lossless = {"lossless": True} if form == "WEBP" else {}
    content = encoded(first, form, save_all=True, append_images=[second], **lossless)
    assert pixels(content) == [RED] * 64


def noise(form: str) -> bytes:
    return encoded(Image.effect_noise((300, 200), 90).convert("RGB"), form)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.02, 0.5, 0.99])
def test_picture_that_breaks_off_is_image_truncated(form: str, part: float) -> None:
    content = noise(form)
    error = refusal(content[: int(len(content) * part)])
    assert error.code is FailureCode.IMAGE_TRUNCATED
    assert error.message == "an input image is damaged or incomplete"


def test_palette_with_more_transparency_than_colours_is_image_truncated() -> None:
    extra = png_chunk(b"PLTE", b"\1\2\3") + png_chunk(b"tRNS", bytes(300))
    content = png(2, 1, b"\0\0\0", colour=PALETTE, extra=extra)
    with pytest.raises(TaskError) as caught:
        decode(content)
    assert caught.value.code is FailureCode.IMAGE_TRUNCATED


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"Dear Sir or Madam,", id="text"),
        pytest.param(b"\x89PNG", id="half a signature"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="svg"),
        pytest.param(encoded(Image.new("P", (2, 2)), "GIF"), id="gif"),
        pytest.param(encoded(Image.new("RGB", (2, 2)), "TIFF"), id="tiff"),
    ],
)
def test_what_is_no_allowed_picture_is_not_an_image(content: bytes) -> None:
    error = refusal(content)
    assert error.code is FailureCode.NOT_AN_IMAGE
    assert error.message == "an input is no image of these kinds: JPEG, PNG, WEBP"


def test_format_that_is_not_allowed_here_is_refused() -> None:
    only_png = ImageLimits(max_pixels=1_000_000, formats=("PNG",))
    assert refusal(noise("JPEG"), only_png).code is FailureCode.NOT_AN_IMAGE


def test_as_many_pixels_as_allowed_are_decoded_and_one_more_is_refused() -> None:
    limits = ImageLimits(max_pixels=12, formats=("PNG",))
    assert decode(encoded(Image.new("RGB", (4, 3)), "PNG"), limits).size == (4, 3)
    error = refusal(encoded(Image.new("RGB", (13, 1)), "PNG"), limits)
    assert error.code is FailureCode.IMAGE_TOO_LARGE
    assert error.message == "13 x 1 pixels are more than 12"


@pytest.mark.parametrize("side", [1_001, 10_000, 20_000])
def test_header_with_too_many_pixels_is_refused_before_anything_is_decoded(side: int) -> None:
    """1,001 is above our limit, 10,000 above Pillow's warning, 20,000 above its error.

    The files hold no pixels: had decoding been tried, they would be called damaged.
    """
    assert refusal(png(side, side, b"")).code is FailureCode.IMAGE_TOO_LARGE


# Pillow warns of much that is odd in a damaged EXIF block.
@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_damaged_bytes_give_a_picture_or_a_task_error(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(GOOD_FILES + FURTHER_FILES)))
    place = st.integers(0, min(300, len(content) - 1))
    for at, value in data.draw(st.lists(st.tuples(place, st.integers(0, 255)), max_size=4)):
        content[at] = value
    with suppress(TaskError):
        assert decode(bytes(content)).mode == "RGB"
