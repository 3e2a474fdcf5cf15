"""TIFFs of grey: black to white whichever of them is zero, or refused, and never clipped."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.worker.picture_bytes import encoded
from tests.worker.tiff_bytes import (
    BLACK_IS_ZERO,
    FLOAT,
    ORIENTATION,
    SIGNED,
    WHITE_IS_ZERO,
    Order,
    tiff,
)
from visionq.contract import FailureCode
from visionq_worker.developing import Upright, develop_exactly, develop_fast
from visionq_worker.errors import TaskError
from visionq_worker.images import ImageLimits, open_image, set_up_pillow

LIMITS = ImageLimits(max_pixels=1_000_000, formats=("TIFF",))
SHADES = np.array([0, 0x00FF, 0x1234, 0x4000, 0x8000, 0xFEFF, 0xFFFF], np.uint16)
GREY = [0, 0, 0x12, 0x40, 0x80, 0xFE, 0xFF]


@pytest.fixture(autouse=True, scope="module")
def _pillow() -> None:
    set_up_pillow(LIMITS.formats)


def shades(content: bytes) -> list[int]:
    upright = Upright(open_image(content, LIMITS).load())
    pixels = np.asarray(upright.crop((0, 0, *upright.size)))
    assert (pixels == pixels[:, :, :1]).all()
    return [int(value) for value in pixels[:, :, 0].ravel()]


def refusal(content: bytes) -> TaskError:
    with pytest.raises(TaskError) as caught:
        open_image(content, LIMITS)
    return caught.value


@pytest.mark.parametrize("is_packed", [False, True])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_16_bits_go_from_black_to_white(photometric: int, order: Order, is_packed: bool) -> None:
    stored = SHADES if photometric == BLACK_IS_ZERO else ~SHADES
    rows = stored.astype(f"{order}u2").tobytes()
    content = tiff(7, 1, rows, bits=16, photometric=photometric, order=order, is_packed=is_packed)
    assert shades(content) == GREY


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_of_which_white_is_zero_are_turned_and_read_by_both_decodings(
    order: Order,
) -> None:
    ramp = np.linspace(0, 65535, 64 * 48).astype(np.uint16).reshape(48, 64)
    rows = (~ramp).astype(f"{order}u2").tobytes()
    content = tiff(64, 48, rows, bits=16, photometric=WHITE_IS_ZERO, order=order)
    exact, size = develop_exactly(open_image(content, LIMITS), 1)
    fast, _ = develop_fast(open_image(content, LIMITS), 1, has_fast_decoder=True)
    assert size == (64, 48)
    assert exact.pixels[60, 5].max() < 40
    assert exact.pixels[-60, -5].min() > 215
    assert np.abs(fast.pixels.astype(int) - exact.pixels).max() <= 2
    turned = tiff(
        64, 48, rows, bits=16, photometric=WHITE_IS_ZERO, order=order, more={ORIENTATION: 6}
    )
    assert develop_exactly(open_image(turned, LIMITS), 1)[1] == (48, 64)
    assert shades(turned)[:2] == [int(ramp[47, 0] >> 8), int(ramp[46, 0] >> 8)]


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_fewer_bits_go_from_black_to_white(bits: int, photometric: int, order: Order) -> None:
    count = 1 << bits
    values = np.arange(count, dtype=np.uint8)
    stored = values if photometric == BLACK_IS_ZERO else values[::-1]
    rows = np.packbits(np.unpackbits(stored[:, None], axis=1)[:, 8 - bits :]).tobytes()
    content = tiff(count, 1, rows, bits=bits, photometric=photometric, order=order)
    assert shades(content) == [value * 255 // (count - 1) for value in range(count)]


def test_12_bits_go_from_black_to_white() -> None:
    """Two samples in three bytes, the high bits first. They were nearly black before."""
    content = tiff(4, 1, bytes.fromhex("000 7ff 800 fff".replace(" ", "")), bits=12)
    assert shades(content) == [0, 0x7F, 0x80, 0xFF]


UINT32 = np.linspace(0, 2**32 - 1, 8).astype(np.uint32)
INT16 = np.linspace(-30_000, 30_000, 8).astype(np.int16)
FLOATS = np.linspace(0, 1, 8).astype(np.float32)


@pytest.mark.parametrize(
    ("values", "sample_format", "sentence"),
    [
        (UINT32, 1, "integers with a sign, or of 32 bits"),
        (UINT32.astype(np.int32), SIGNED, "integers with a sign, or of 32 bits"),
        (INT16, SIGNED, "integers with a sign, or of 32 bits"),
        ((INT16 // 256).astype(np.int8), SIGNED, "integers with a sign, or of 32 bits"),
        (FLOATS, FLOAT, "floating-point numbers"),
    ],
    ids=["uint32", "int32", "int16", "int8", "float32"],
)
def test_numbers_of_which_none_is_white_are_refused_by_name(
    values: np.typing.NDArray[np.generic], sample_format: int, sentence: str
) -> None:
    bits = 8 * values.dtype.itemsize
    error = refusal(tiff(8, 1, values.tobytes(), bits=bits, sample_format=sample_format))
    assert error.code is FailureCode.NOT_AN_IMAGE
    assert error.message.endswith(f"of a kind that is not read: {sentence}")


@pytest.mark.parametrize(
    ("values", "sample_format"),
    [(UINT32, 1), (INT16, SIGNED), (FLOATS, FLOAT), (FLOATS.astype(np.float64), FLOAT)],
)
@pytest.mark.parametrize("photometric", [BLACK_IS_ZERO, WHITE_IS_ZERO])
def test_the_same_with_the_high_byte_first_is_refused_too(
    values: np.typing.NDArray[np.generic], sample_format: int, photometric: int
) -> None:
    rows = values.byteswap().tobytes()
    bits = 8 * values.dtype.itemsize
    content = tiff(
        8, 1, rows, bits=bits, photometric=photometric, sample_format=sample_format, order=">"
    )
    assert refusal(content).code is FailureCode.NOT_AN_IMAGE


@pytest.mark.parametrize("mode", ["I", "F"])
@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_what_pillow_writes_of_these_kinds_is_refused(mode: str, compression: str | None) -> None:
    image = Image.linear_gradient("L").convert(mode)
    error = refusal(encoded(image, "TIFF", compression=compression))
    assert error.code is FailureCode.NOT_AN_IMAGE
