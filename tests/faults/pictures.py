"""Pictures as an enemy would send them, or a careless camera: made from a seed, none is a file.

What becomes of each one is said with it, as far as it is certain. The exact codes of failures are
`tests/worker/test_images.py`'s matter.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from PIL import Image

from tests.worker.pdf_bytes import deflated, encrypted, filled, image_entries, pdf, pictured
from tests.worker.picture_bytes import GREY, encoded, exif, png, png_chunk

BOMB_PX = 10_000
"""A side of the smallest bombs: 100 megapixels."""
FITTING_PX = 6_300
"""A side of a picture that is just allowed: 39.7 of 40 megapixels."""
HIDDEN_BYTES = 100_000_000
ALLOWED = ("JPEG", "PNG", "WEBP")
FOREIGN = ("BMP", "DDS", "EPS", "GIF", "ICO", "PCX", "PPM", "SGI", "TGA", "TIFF")
NUM_CUTS = 4
NUM_DAMAGED = 2


@dataclass(frozen=True, slots=True)
class Picture:
    """`is_good`: whether it has to be answered, or has to fail; None: either is right."""

    name: str
    content: bytes
    is_good: bool | None


def corpus(seed: int) -> list[Picture]:
    """All there are, some 80."""
    choose = random.Random(seed)
    kinds = (
        bombs(),
        hidden_bombs(),
        fitting(),
        cut_off(choose),
        damaged(choose),
        foreign(choose),
        odd(),
        pages(),
    )
    return [picture for kind in kinds for picture in kind]


def bombs() -> Iterator[Picture]:
    """Little files that say they hold a hundred megapixels or more."""
    for side in (BOMB_PX, 20_000, 65_535, 2**31 - 1):
        yield Picture(f"PNG of {side:,} squared", png(side, side, b""), is_good=False)
    rows = bytes((1 + BOMB_PX // 8) * BOMB_PX)
    content = png(BOMB_PX, BOMB_PX, rows, bits=1, colour=GREY)
    yield Picture("PNG that holds them all", content, is_good=False)
    for form in ("JPEG", "WEBP", "BMP", "GIF", "TIFF"):
        yield Picture(f"{form} of many pixels", _swollen(form), is_good=False)


def hidden_bombs() -> Iterator[Picture]:
    """One pixel, and a hundred megabytes of something else in a few kilobytes."""
    packed = zlib.compress(bytes(HIDDEN_BYTES))
    chunks = {
        "text": png_chunk(b"zTXt", b"k\0\0" + packed),
        "Unicode text": png_chunk(b"iTXt", b"k\0\1\0\0\0" + packed),
        "colour profile": png_chunk(b"iCCP", b"k\0\0" + packed),
        "image data": png_chunk(b"IDAT", packed),
    }
    for name, chunk in chunks.items():
        content = png(1, 1, b"\0\1\2\3", extra=chunk)
        yield Picture(f"PNG with much {name}", content, is_good=None)


def fitting() -> Iterator[Picture]:
    """As many pixels as are allowed, in the ways that take the most memory.

    WEBP's decoder would have the picture four times, which is more than `limits.max_decode_bytes`.
    """
    size = (FITTING_PX, FITTING_PX)
    for mode, form in (
        ("RGB", "PNG"),
        ("RGBA", "PNG"),
        ("LA", "PNG"),
        ("CMYK", "JPEG"),
        ("RGBA", "WEBP"),
    ):
        fast = {"lossless": True, "method": 0} if form == "WEBP" else {}
        content = encoded(Image.new(mode, size), form, **fast)
        yield Picture(f"{mode} {form}, just allowed", content, is_good=form != "WEBP")


def cut_off(choose: random.Random) -> Iterator[Picture]:
    for form in ALLOWED:
        whole = _noise(form, choose)
        for _ in range(NUM_CUTS):
            at = choose.randrange(1, int(0.99 * len(whole)))
            yield Picture(f"{form} cut off at {at} of {len(whole)}", whole[:at], is_good=False)


def damaged(choose: random.Random) -> Iterator[Picture]:
    """Whole, but for some bytes: decoders differ in what they forgive."""
    for form in ALLOWED:
        for number in range(NUM_DAMAGED):
            content = bytearray(_noise(form, choose))
            for _ in range(10):
                content[choose.randrange(len(content))] = choose.randrange(256)
            yield Picture(f"damaged {form} {number}", bytes(content), is_good=None)


def foreign(choose: random.Random) -> Iterator[Picture]:
    """Other formats, and what is no picture at all."""
    for form in FOREIGN:
        content = encoded(Image.new("RGB", (16, 16)), form)
        yield Picture(form, content, is_good=False)
    for name, content in {
        "nothing": b"",
        "text": b"Dear Sir or Madam,",
        "SVG": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        "zeros": bytes(10_000),
        "noise": choose.randbytes(10_000),
        "half a signature": b"\x89PNG",
        "a signature": b"\x89PNG\r\n\x1a\n",
        "ZIP": b"PK\x05\x06" + bytes(18),
    }.items():
        yield Picture(name, content, is_good=False)


def odd() -> Iterator[Picture]:
    """Rare and right, but for the thin ones: there the model's processor may have its say."""
    for mode, form in (
        ("1", "PNG"),
        ("L", "PNG"),
        ("LA", "PNG"),
        ("P", "PNG"),
        ("I;16", "PNG"),
        ("L", "JPEG"),
        ("CMYK", "JPEG"),
        ("RGBA", "WEBP"),
    ):
        yield Picture(f"{mode} {form}", encoded(Image.new(mode, (40, 30)), form), is_good=True)
    sixteen_bits = png(1, 1, b"\0" + bytes.fromhex("123456789abc"), bits=16)
    yield Picture("PNG of 16 bits", sixteen_bits, is_good=True)
    for form in ("PNG", "WEBP"):
        first, second = (Image.new("RGB", (40, 30), colour) for colour in ("red", "blue"))
        content = encoded(first, form, save_all=True, append_images=[second] * 50)
        yield Picture(f"animated {form}", content, is_good=True)
    turned = encoded(Image.new("RGB", (40, 30)), "JPEG", progressive=True, exif=exif(6))
    yield Picture("progressive JPEG on its side", turned, is_good=True)
    bad_exif = encoded(Image.new("RGB", (40, 30)), "JPEG", exif=b"Exif\0\0garbage!!")
    yield Picture("JPEG with bad EXIF", bad_exif, is_good=True)
    for size in ((1, 10_000), (10_000, 1)):
        content = encoded(Image.new("RGB", size), "PNG")
        yield Picture(f"{size[0]} x {size[1]}", content, is_good=None)


def pages() -> Iterator[Picture]:
    """PDFs."""
    half = filled((1, 0, 0), (0, 0, 595, 421))
    yield Picture("PDF", pdf(half), is_good=True)
    yield Picture("PDF of Pillow's", encoded(Image.new("RGB", (16, 16)), "PDF"), is_good=True)
    yield Picture("PDF with a password", encrypted(b"secret"), is_good=False)
    yield Picture("PDF without a page", pdf(), is_good=False)
    yield Picture("PDF's head alone", b"%PDF-1.7\n", is_good=False)
    yield Picture("PDF cut off", pdf(half)[:200], is_good=False)
    yield Picture("PDF of an endless page", pdf(half, size=(1e12, 1e12)), is_good=False)
    yield Picture("PDF that draws a million times", pdf(half * 1_000_000), is_good=False)
    packed = deflated(bytes(HIDDEN_BYTES), image_entries(100_000, 1_000))
    yield Picture("PDF with a hidden bomb", pictured(packed), is_good=None)


def _noise(form: str, choose: random.Random) -> bytes:
    return encoded(Image.frombytes("RGB", (120, 80), choose.randbytes(120 * 80 * 3)), form)


def _swollen(form: str) -> bytes:
    """A picture whose header says another size than it has."""
    width, height, side = 0x2B1, 0x2B3, 16_383  # which is all that WEBP can have
    order = ">" if form == "JPEG" else "<"
    content = encoded(Image.new("RGB", (width, height)), form)
    for small in (width, height):
        content = content.replace(struct.pack(f"{order}H", small), struct.pack(f"{order}H", side))
    return content
