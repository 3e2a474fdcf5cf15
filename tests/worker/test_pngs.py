"""PNGs: what stands beside the pixels decides nothing, what makes them does, at its own depth."""

from __future__ import annotations

import struct
import zlib
from time import process_time

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin

from tests.worker.picture_bytes import GREY, PALETTE, TRUE_COLOUR, encoded, exif, png, png_chunk
from visionq.contract import FailureCode
from visionq_worker.developing import Upright, develop_exactly, develop_fast
from visionq_worker.errors import TaskError
from visionq_worker.images import ImageLimits, open_image

LIMITS = ImageLimits(max_pixels=1_000_000, formats=("PNG",))
MEGABYTE = 1_000_000

ROWS = b"".join(b"\0" + bytes((x * 31 + y * 7) % 256 for x in range(24)) for y in range(8))
DATA = zlib.compress(ROWS)
GOOD = png(8, 8, ROWS)
AFTER_HEADER = 8 + 25
BEFORE_END = len(GOOD) - 12


def pixels(content: bytes) -> NDArray[np.uint8]:
    """(rows, columns, 3)."""
    upright = Upright(open_image(content, LIMITS).load())
    return np.asarray(upright.crop((0, 0, *upright.size)))


def is_truncated(content: bytes) -> bool:
    with pytest.raises(TaskError) as caught:
        pixels(content)
    return caught.value.code is FailureCode.IMAGE_TRUNCATED


def with_wrong_checksum(chunk: bytes) -> bytes:
    return chunk[:-1] + bytes([chunk[-1] ^ 1])


def packed_text(name: bytes, num_bytes: int) -> bytes:
    text = zlib.compress(bytes(num_bytes))
    return png_chunk(b"zTXt", name + b"\0\0" + text)


BESIDE: dict[str, bytes] = {
    "a long packed text": packed_text(b"workflow", 1_200_000),
    "a longer packed text": packed_text(b"workflow", 30 * MEGABYTE),
    "a long text": png_chunk(b"tEXt", b"prompt\0" + b"a" * (5 * MEGABYTE)),
    "many texts": png_chunk(b"tEXt", b"a\0" + b"b" * 60_000) * 80,
    "a long international text": png_chunk(
        b"iTXt", b"xml\0\1\0\0\0" + zlib.compress(bytes(3 * MEGABYTE))
    ),
    "a text that does not unpack": png_chunk(b"zTXt", b"a\0\0nonsense"),
    "a text of an unknown packing": png_chunk(b"zTXt", b"a\0\7nonsense"),
    "a text without a keyword": png_chunk(b"iTXt", b"nonsense"),
    "an orientation that unpacks to a lot": packed_text(b"Raw profile type exif", 2 * MEGABYTE),
    "an orientation that does not unpack": png_chunk(b"zTXt", b"Raw profile type exif\0\0nonsense"),
    "an orientation that is no number": png_chunk(b"tEXt", b"Raw profile type exif\0nonsense"),
    "an orientation with a wrong checksum": png_chunk(b"eXIf", exif(6)[6:])[:-4] + bytes(4),
    "an empty EXIF": png_chunk(b"eXIf", b""),
    "a profile that does not unpack": png_chunk(b"iCCP", b"x\0\0nonsense"),
    "a profile that unpacks to a lot": png_chunk(
        b"iCCP", b"x\0\0" + zlib.compress(bytes(5 * MEGABYTE))
    ),
    "an empty profile": png_chunk(b"iCCP", b""),
    "a gamma that is too short": png_chunk(b"gAMA", b"\0\0"),
    "a gamma of zero": png_chunk(b"gAMA", bytes(4)),
    "a resolution that is too short": png_chunk(b"pHYs", b"\0"),
    "colours that are too short": png_chunk(b"cHRM", bytes(7)),
    "an intent that is too short": png_chunk(b"sRGB", b""),
    "a time that is too short": png_chunk(b"tIME", b"\0"),
    "a histogram": png_chunk(b"hIST", bytes(3)),
    "a background": png_chunk(b"bKGD", bytes(1)),
    "a private chunk": png_chunk(b"vpAg", bytes(99)),
    "an animation without frames": png_chunk(b"acTL", bytes(8)),
    "half an animation": png_chunk(b"acTL", b"\0"),
    "a frame control that is too short": png_chunk(b"fcTL", bytes(5)),
    "a frame without a number": png_chunk(b"fdAT", b"\0"),
}


@pytest.mark.parametrize("has_checksum", [True, False], ids=["", "wrong checksum"])
@pytest.mark.parametrize("place", [AFTER_HEADER, BEFORE_END], ids=["before", "behind"])
@pytest.mark.parametrize("chunk", BESIDE)
def test_chunk_beside_the_pixels_decides_nothing(
    chunk: str, place: int, has_checksum: bool
) -> None:
    extra = BESIDE[chunk] if has_checksum else with_wrong_checksum(BESIDE[chunk])
    content = GOOD[:place] + extra + GOOD[place:]
    opened = open_image(content, LIMITS)
    assert develop_fast(opened, 1, has_fast_decoder=True)[1] == (8, 8)
    assert np.array_equal(pixels(content), pixels(GOOD))
    assert pixels(GOOD)[7, 0].tolist() == [49, 80, 111]


def test_text_between_the_parts_of_the_data_decides_nothing() -> None:
    text = png_chunk(b"tEXt", b"a\0b")
    parts = [png_chunk(b"IDAT", DATA[at : at + 20]) for at in range(0, len(DATA), 20)]
    content = GOOD[:AFTER_HEADER] + text.join(parts) + GOOD[BEFORE_END:]
    assert np.array_equal(pixels(content), pixels(GOOD))


def test_many_chunks_are_passed_over_in_little_time_and_more_are_refused() -> None:
    """Each of 12 bytes, the smallest."""
    for num, is_read in ((49_000, True), (200_000, False)):
        many = png_chunk(b"tEXt", b"") * num + png_chunk(b"IDAT", b"") * num
        content = GOOD[:AFTER_HEADER] + many + GOOD[AFTER_HEADER:]
        began = process_time()
        assert np.array_equal(pixels(content), pixels(GOOD)) if is_read else is_truncated(content)
        assert process_time() - began < 1


def test_many_packed_texts_are_not_all_unpacked() -> None:
    for name, keyword in (
        (b"zTXt", b"Raw profile type exif\0\0"),
        (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0"),
    ):
        text = png_chunk(name, keyword + zlib.compress(bytes(MEGABYTE)))
        content = altered(before=text * 1000)
        began = process_time()
        assert np.array_equal(pixels(content), pixels(GOOD))
        assert process_time() - began < 0.3


def test_sound_text_behind_damaged_ones_counts() -> None:
    damaged = png_chunk(b"zTXt", b"Raw profile type exif\0\0nonsense")
    good = png_chunk(b"eXIf", exif(6)[6:])
    text = png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP)
    packed = png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile(6)))
    for chunk in (good, text, packed):
        content = altered(before=damaged + chunk + damaged * 2)
        assert np.array_equal(pixels(content), np.rot90(pixels(GOOD), -1))


def wrong_in(content: bytes, name: bytes) -> bytes:
    begin = content.index(name) - 4
    end = begin + 12 + int.from_bytes(content[begin : begin + 4])
    return content[:begin] + with_wrong_checksum(content[begin:end]) + content[end:]


PALETTED = png(
    2,
    1,
    b"\0\0\1",
    colour=PALETTE,
    extra=png_chunk(b"PLTE", bytes(range(6))) + png_chunk(b"tRNS", b"\0"),
)


@pytest.mark.parametrize("name", [b"PLTE", b"tRNS", b"IDAT", b"IEND"])
def test_wrong_checksum_of_what_makes_the_pixels_is_damage(name: bytes) -> None:
    assert is_truncated(wrong_in(PALETTED, name))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(wrong_in(GOOD, b"IHDR"), id="wrong checksum"),
        pytest.param(GOOD[:30], id="cut off"),
        pytest.param(GOOD[:8], id="none"),
        pytest.param(GOOD[:8] + GOOD[AFTER_HEADER:], id="another chunk"),
        pytest.param(GOOD[:8] + png_chunk(b"IHDR", bytes(14)) + GOOD[AFTER_HEADER:], id="longer"),
    ],
)
def test_what_has_no_header_is_not_an_image(content: bytes) -> None:
    with pytest.raises(TaskError) as caught:
        open_image(content, LIMITS)
    assert caught.value.code is FailureCode.NOT_AN_IMAGE


def altered(body: bytes = DATA, *, before: bytes = b"", behind: bytes = b"") -> bytes:
    data = png_chunk(b"IDAT", body)
    return GOOD[:AFTER_HEADER] + before + data + behind + GOOD[BEFORE_END:]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(altered(DATA[: len(DATA) // 2]), id="half of the data"),
        pytest.param(altered(DATA[:-1] + bytes([DATA[-1] ^ 1])), id="data with a wrong sum"),
        pytest.param(altered(b""), id="no data"),
        pytest.param(GOOD[:AFTER_HEADER] + GOOD[BEFORE_END:], id="no chunk of data"),
        pytest.param(altered(before=GOOD[8:AFTER_HEADER]), id="two headers"),
        pytest.param(altered(before=png_chunk(b"tRNS", bytes(3))), id="half a transparent colour"),
        pytest.param(altered(behind=png_chunk(b"ABCD", b"")), id="an unknown chunk that matters"),
        pytest.param(GOOD[:BEFORE_END], id="no end"),
        pytest.param(GOOD[:-1], id="the end breaks off"),
        pytest.param(altered(behind=b"\xff\xff\xff\xfftEXt"), id="a length beyond the file"),
        pytest.param(altered(behind=b"\0\0\0\0\1\2\3\4\0\0\0\0"), id="a chunk without a name"),
    ],
)
def test_damage_to_what_makes_the_pixels_is_image_truncated(content: bytes) -> None:
    assert is_truncated(content)


def test_bytes_behind_the_end_are_not_looked_at() -> None:
    assert np.array_equal(pixels(GOOD + b"\0" * 999), pixels(GOOD))


def profile(orientation: int) -> bytes:
    """EXIF as ImageMagick writes it into a text."""
    block = exif(orientation)
    return b"\nexif\n%8d\n%s\n" % (len(block), block.hex().encode())


XMP = b'<rdf:Description tiff:Orientation="6"/>'


@pytest.mark.parametrize("place", [AFTER_HEADER, BEFORE_END], ids=["before", "behind"])
@pytest.mark.parametrize(
    "chunk",
    [
        pytest.param(png_chunk(b"eXIf", exif(6)[6:]), id="eXIf"),
        pytest.param(png_chunk(b"tEXt", b"Raw profile type exif\0" + profile(6)), id="tEXt"),
        pytest.param(
            png_chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(profile(6))), id="zTXt"
        ),
        pytest.param(png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP), id="iTXt"),
        pytest.param(
            png_chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)),
            id="packed iTXt",
        ),
    ],
)
def test_orientation_in_any_chunk_still_counts(chunk: bytes, place: int) -> None:
    content = GOOD[:place] + chunk + GOOD[place:]
    assert np.array_equal(pixels(content), np.rot90(pixels(GOOD), -1))


def test_animation_gives_its_first_frame_and_one_beside_it_its_own() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    plain = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:])
    assert pixels(plain)[0, 0].tolist() == [255, 0, 0]
    beside = encoded(frames[0], "PNG", save_all=True, append_images=frames[1:], default_image=True)
    assert pixels(beside)[0, 0].tolist() == [255, 0, 0]


GREY_CASES = [(1, 0), (1, 1), (1, 2), (2, 0), (2, 2), (2, 3), (2, 7), (4, 0), (4, 9), (4, 15)]
GREY_CASES += [(8, 0), (8, 77), (8, 255), (8, 256 + 77)]


@pytest.mark.parametrize(("bits", "key"), GREY_CASES)
def test_grey_is_compared_at_the_depth_of_the_file(bits: int, key: int) -> None:
    """Every shade once; of the key, the low-order bits count (PNG specification, tRNS)."""
    count = 1 << bits
    packed = np.packbits(
        np.unpackbits(np.arange(count, dtype=np.uint8)[:, None], axis=1)[:, 8 - bits :]
    )
    extra = png_chunk(b"tRNS", struct.pack(">H", key))
    content = png(count, 1, b"\0" + packed.tobytes(), bits=bits, colour=GREY, extra=extra)
    expected = [
        255 if shade == key % count else shade * 255 // (count - 1) for shade in range(count)
    ]
    assert pixels(content)[0, :, 0].tolist() == expected


@pytest.mark.parametrize("key", [0, 1, 0x55, 0xFF, 0x100, 0x1234, 0xFF00, 0xFFFF])
def test_grey_of_16_bits_is_compared_in_all_of_them(key: int) -> None:
    shades = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in shades)
    extra = png_chunk(b"tRNS", struct.pack(">H", key))
    content = png(256, 256, rows, bits=16, colour=GREY, extra=extra)
    expected = np.where(shades == key, 255, shades >> 8)
    assert np.array_equal(pixels(content)[:, :, 0], expected)


@pytest.mark.parametrize("is_interlaced", [False, True])
def test_colour_of_16_bits_is_compared_in_all_of_them(is_interlaced: bool) -> None:
    rng = np.random.default_rng(3)
    key = (0x1234, 0x5678, 0x9ABC)
    samples = np.array(key, np.uint16) ^ rng.integers(0, 2, (40, 30, 3), np.uint16)
    samples[::7] ^= np.uint16(0x0100)
    extra = png_chunk(b"tRNS", struct.pack(">3H", *key))
    write = interlaced if is_interlaced else straight
    content = write(samples, extra)
    is_key = (samples == key).all(axis=2)
    assert 50 < is_key.sum() < 400
    expected = np.where(is_key[:, :, None], 255, samples >> 8)
    assert np.array_equal(pixels(content), expected)
    # The decoding that is the default, in which transparency goes another way.
    exact, _ = develop_exactly(open_image(content, LIMITS), 1)
    fast, _ = develop_fast(open_image(content, LIMITS), 1, has_fast_decoder=True)
    assert np.abs(fast.pixels.astype(int) - exact.pixels).max() <= 2


def straight(samples: NDArray[np.uint16], extra: bytes) -> bytes:
    height, width, _ = samples.shape
    return png(width, height, unfiltered(samples), bits=16, colour=TRUE_COLOUR, extra=extra)


def interlaced(samples: NDArray[np.uint16], extra: bytes) -> bytes:
    """In the seven passes of Adam7: first column and row of each, and their steps."""
    height, width, _ = samples.shape
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    passes.append((0, 1, 1, 2))
    rows = b"".join(unfiltered(samples[y::dy, x::dx]) for x, y, dx, dy in passes)
    header = struct.pack(">IIBBBBB", width, height, 16, TRUE_COLOUR, 0, 0, 1)
    plain = png(1, 1, rows, extra=extra)
    return plain[:8] + png_chunk(b"IHDR", header) + plain[AFTER_HEADER:]


def unfiltered(samples: NDArray[np.uint16]) -> bytes:
    return b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)


@pytest.mark.parametrize(
    ("key", "is_there"), [((1, 2, 3), True), ((257, 2, 3), True), ((1, 2, 4), False)]
)
def test_colour_of_8_bits_is_compared_by_its_low_order_bits(
    key: tuple[int, int, int], is_there: bool
) -> None:
    extra = png_chunk(b"tRNS", struct.pack(">3H", *key))
    content = png(1, 1, b"\0" + bytes([1, 2, 3]), extra=extra)
    assert pixels(content)[0, 0].tolist() == ([255] * 3 if is_there else [1, 2, 3])


def test_transparency_behind_the_data_or_beside_an_alpha_is_none() -> None:
    """libpng says of both that they are out of place, and goes on."""
    key = png_chunk(b"tRNS", struct.pack(">3H", 0, 31, 62))
    assert np.array_equal(pixels(altered(behind=key)), pixels(GOOD))
    image = Image.new("RGBA", (2, 2), (0, 31, 62, 255))
    content = encoded(image, "PNG")
    content = content[:AFTER_HEADER] + key + content[AFTER_HEADER:]
    assert (pixels(content) == (0, 31, 62)).all()


def test_texts_of_pillow_s_own_making_are_passed_over() -> None:
    texts = PngImagePlugin.PngInfo()
    texts.add_text("workflow", "x" * 3_000_000, zip=True)
    texts.add_itxt("description", "y" * 3_000_000, zip=True)
    content = encoded(Image.new("RGB", (8, 8), "red"), "PNG", pnginfo=texts)
    assert (pixels(content) == (255, 0, 0)).all()
