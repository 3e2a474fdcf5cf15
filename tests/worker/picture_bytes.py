"""Pictures as bytes, made by hand or by Pillow, for the tests of what decodes them."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from typing import Any

from PIL import Image

GREY, TRUE_COLOUR, PALETTE = 0, 2, 3
"""Colour types of PNG."""

DOT = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
"""One red pixel as a PNG."""

DOT_DIGEST = "b1ff9c8ea3a780bad09b346c423d2d0e46815926879b18e841d928376a946640"
"""What `sha256sum` says of `DOT`."""


def encoded(image: Image.Image, form: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def png(
    width: int,
    height: int,
    rows: bytes,
    *,
    bits: int = 8,
    colour: int = TRUE_COLOUR,
    extra: bytes = b"",
) -> bytes:
    """A PNG written out by hand; `rows` as they stand in the file, each after its filter byte."""
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + png_chunk(b"IHDR", header)
        + extra
        + png_chunk(b"IDAT", zlib.compress(rows))
        + png_chunk(b"IEND", b"")
    )


def png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(name + content))
    return struct.pack(">I", len(content)) + name + content + checksum


def rle_bmp(width: int, height: int) -> bytes:
    """A BMP of one colour out of 256, in runs: little to read, all to unpack."""
    runs = b"".join(bytes([min(255, width - at), 7]) for at in range(0, width, 255))
    rows = (runs + b"\0\0") * height + b"\0\1"
    palette = bytes(4 * 256)
    begin = 14 + 40 + len(palette)
    file = struct.pack("<2sIxxxxI", b"BM", begin + len(rows), begin)
    picture = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    return file + picture + palette + rows


def exif(orientation: int, extra_entry: bytes = b"") -> bytes:
    """An EXIF block: the orientation, and another entry of 12 bytes if given."""
    entries = struct.pack("<HHIHxx", 0x0112, 3, 1, orientation) + extra_entry
    count = struct.pack("<H", len(entries) // 12)
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + count + entries + b"\0\0\0\0"
