"""Whether bytes begin as an image does, of any kind that workers read. Nothing is decoded.

What passes may still be no image: that is found out by a worker, who also knows which kinds its
settings allow.
"""

from __future__ import annotations

from visionq.errors import InvalidImage

HEAD_BYTES = 1024 + 8
"""Enough to tell: a PDF's header may stand this far behind what mail or printers have put first."""

_SIGNS = (
    b"\xff\xd8",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    b"BM",
    *(b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+"),  # TIFF, and the one beyond 4 GB
)
_PDF = b"%PDF-"


def check_head(head: bytes) -> None:
    """Raise `InvalidImage` unless an image, or a PDF, may begin so."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    is_heif = head[4:8] == b"ftyp"
    if not (head.startswith(_SIGNS) or is_webp or is_heif or _PDF in head[:HEAD_BYTES]):
        raise InvalidImage(
            "the bytes are no image: they begin as no JPEG, PNG, WEBP, GIF, TIFF, BMP, HEIF or PDF"
        )
