"""A PIL image is uploaded as a worker would see its file: upright, with the shades of the file."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.worker.photographs import photograph
from tests.worker.picture_bytes import GREY, encoded, exif, png, png_chunk
from tests.worker.tiff_bytes import BLACK_IS_ZERO, WHITE_IS_ZERO, Order, tiff
from visionq.errors import InvalidImage
from visionq.image_sizes import size_in_hand
from visionq.inputs import read_content
from visionq_worker.developing import Upright
from visionq_worker.images import ImageLimits, open_image

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP")
LIMITS = ImageLimits(max_pixels=1_000_000, formats=FORMATS)
SIZE = (60, 30)
SCENE = photograph(SIZE)
XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/"'
    b' tiff:Orientation="%d"/></x:xmpmeta>'
)


def as_seen(content: bytes) -> NDArray[np.uint8]:
    """By a worker: (rows, columns, 3)."""
    upright = Upright(open_image(content, LIMITS).load())
    return np.asarray(upright.crop((0, 0, *upright.size)))


def opened(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


def assert_same(content: bytes, image: Image.Image) -> None:
    """By path, as bytes and as a PIL image, sizes of the estimate included."""
    height, width, _ = as_seen(content).shape
    assert size_in_hand(image) == (width, height)
    assert np.array_equal(as_seen(read_content(image)), as_seen(content))
    assert size_in_hand(image) == (width, height)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"),
    [
        ("JPEG", {"quality": 95}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("MPO", {"save_all": True, "append_images": [SCENE]}),
    ],
)
def test_image_that_lies_on_its_side_is_uploaded_upright(
    form: str, options: dict[str, Any], orientation: int
) -> None:
    content = encoded(SCENE, form, exif=exif(orientation), **options)
    assert_same(content, opened(content))
    loaded = opened(content)
    loaded.load()
    assert_same(content, loaded)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "WEBP"])
def test_orientation_of_the_xmp_counts_where_the_exif_has_none(form: str, orientation: int) -> None:
    lossless = {"lossless": True} if form == "WEBP" else {}
    content = encoded(SCENE, form, xmp=XMP % orientation, **lossless)
    assert_same(content, opened(content))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"])
@pytest.mark.parametrize("orientation", [1, 5, 6])
def test_image_of_any_mode_is_uploaded_upright(mode: str, orientation: int) -> None:
    grey = Image.effect_noise(SIZE, 90)
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    image = deep if mode == "I;16" else Image.merge("RGBA", [grey] * 4).convert(mode)
    form = "TIFF" if mode == "CMYK" else "PNG"
    content = encoded(image, form, exif=exif(orientation))
    assert_same(content, opened(content))


def test_image_that_was_converted_or_resized_is_still_turned() -> None:
    content = encoded(SCENE, "JPEG", quality=95, exif=exif(6))
    converted = opened(content).convert("L").resize((40, 20))
    assert size_in_hand(converted) == (20, 40)
    assert as_seen(read_content(converted)).shape == (40, 20, 3)


def test_image_that_its_owner_has_turned_is_not_turned_again() -> None:
    from PIL import ImageOps

    content = encoded(SCENE, "JPEG", quality=95, exif=exif(6))
    assert_same(content, ImageOps.exif_transpose(opened(content)))


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow's, of the EXIF
@pytest.mark.parametrize("block", [b"Exif\0\0garbage!!", b"Exif\0\0II*\0", b"nonsense"])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_odd_exif_turns_nothing(form: str, block: bytes) -> None:
    lossless = {"lossless": True} if form == "WEBP" else {}
    content = encoded(SCENE, form, exif=block, **lossless)
    assert_same(content, opened(content))


def test_upload_leaves_the_owner_s_image_as_it_is() -> None:
    image = opened(encoded(SCENE, "JPEG", exif=exif(6)))
    before = image.tobytes()
    read_content(image)
    assert (image.size, image.tobytes()) == (SIZE, before)
    assert image.getexif()[0x0112] == 6


def test_equal_pixels_give_equal_bytes_whatever_stands_beside_them() -> None:
    turned = opened(encoded(SCENE, "PNG", exif=exif(3)))
    plain = SCENE.transpose(Image.Transpose.ROTATE_180)
    profiled = opened(encoded(plain, "PNG", icc_profile=b"profile" * 30, dpi=(300, 300)))
    assert read_content(turned) == read_content(plain) == read_content(profiled)


@pytest.mark.parametrize(
    ("photometric", "order"), [(BLACK_IS_ZERO, "<"), (BLACK_IS_ZERO, ">"), (WHITE_IS_ZERO, "<")]
)
def test_16_bits_of_a_tiff_keep_their_shades(photometric: int, order: Order) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16)
    rows = ramp.astype(f"{order}u2").tobytes()
    content = tiff(8, 8, rows, bits=16, photometric=photometric, order=order)
    assert_same(content, opened(content))


def test_12_bits_of_a_tiff_keep_their_shades() -> None:
    content = tiff(4, 1, bytes.fromhex("0007ff800fff"), bits=12)
    assert_same(content, opened(content))


@pytest.mark.parametrize("values", [[-1, 5], [0, 65536], [0, 2**31 - 1]])
def test_integers_that_png_cannot_hold_are_refused_rather_than_clipped(values: list[int]) -> None:
    image = Image.fromarray(np.array([values], np.int32))
    with pytest.raises(InvalidImage, match="values outside of 0 to 65535"):
        read_content(image)


def test_transparent_colour_of_16_bits_is_not_taken_for_one_of_8() -> None:
    """Pillow keeps the upper bytes of the pixels, and the whole of the colour."""
    row = b"\0" + bytes.fromhex("3400 5600 7800 1234 5678 9abc")
    extra = png_chunk(b"tRNS", bytes.fromhex("1234 5656 7878"))
    content = png(2, 1, row, bits=16, extra=extra)
    assert_same(content, opened(content))


@pytest.mark.parametrize("bits", [1, 8, 16])
def test_transparent_grey_is_uploaded(bits: int) -> None:
    extra = png_chunk(b"tRNS", b"\0\0")
    content = png(8, 1, b"\0" + bytes(range(bits)), bits=bits, colour=GREY, extra=extra)
    assert_same(content, opened(content))
