"""TIFFs as bytes, written by hand, for kinds of grey that Pillow does not write."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from typing import Literal

Order = Literal["<", ">"]

WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, ORIENTATION, SAMPLES, ROWS, COUNTS, FORMAT = 273, 274, 277, 278, 279, 339
WHITE_IS_ZERO, BLACK_IS_ZERO = 0, 1
DEFLATE = 8
UNSIGNED, SIGNED, FLOAT = 1, 2, 3


def tiff(
    width: int,
    height: int,
    rows: bytes,
    *,
    bits: int,
    photometric: int = BLACK_IS_ZERO,
    sample_format: int = UNSIGNED,
    order: Order = "<",
    is_packed: bool = False,
    more: Mapping[int, int] | None = None,
) -> bytes:
    """One strip of one sample a pixel; `rows` in the order of bytes that is given."""
    data = zlib.compress(rows) if is_packed else rows
    entries = {
        WIDTH: width,
        HEIGHT: height,
        BITS: bits,
        COMPRESSION: DEFLATE if is_packed else 1,
        PHOTOMETRIC: photometric,
        OFFSETS: 8,
        SAMPLES: 1,
        ROWS: height,
        COUNTS: len(data),
        FORMAT: sample_format,
        **(more or {}),
    }
    head = b"II*\0" if order == "<" else b"MM\0*"
    padding = b"\0" * (len(data) % 2)
    directory = struct.pack(f"{order}I", 8 + len(data) + len(padding))
    listed = struct.pack(f"{order}H", len(entries))
    for tag, value in sorted(entries.items()):
        listed += struct.pack(f"{order}HHII", tag, 4, 1, value)
    return head + directory + data + padding + listed + bytes(4)
