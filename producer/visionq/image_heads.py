"""Whether bytes begin as an image does, of any kind that workers read. Nothing is decoded.

What passes may still be no image: that is found out by a worker, who also knows which kinds its
settings allow.
"""

from __future__ import annotations

from visionq.errors import InvalidImage

_PDF_HEADER = b"%PDF-"
HEAD_BYTES = 1024 + len(_PDF_HEADER)
"""Enough to tell: PDFium, Acrobat and browsers look for a PDF's header behind up to 1024 bytes."""

_SIGNS = (
    b"\xff\xd8",  # JPEG
    b"\x89PNG\r\n\x1a\n",
    b"GIF8",
    *(b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+"),  # TIFF, and the one beyond 4 GB
)
_BMP = b"BM"


def check_head(head: bytes) -> None:
    """Raise `InvalidImage` unless an image, or a PDF, may begin so."""
    if not (is_sized(head) or _is_heif(head) or is_pdf(head)):
        raise InvalidImage(
            "the bytes are no image: they begin as no JPEG, PNG, WEBP, GIF, TIFF, BMP, HEIF or PDF"
        )


def is_sized(head: bytes) -> bool:
    """Whether an image begins so whose width and height stand in its header, HEIF aside."""
    is_webp = head[:4] == b"RIFF" and head[8:12] == b"WEBP"
    return head.startswith((*_SIGNS, _BMP)) or is_webp


def is_pdf(start: bytes) -> bool:
    """Whether content that begins so is a PDF: `HEAD_BYTES` are enough to tell.

    Its header need not be at the very beginning: mail, printers and servers leave their own before
    it. An image may hold such a header in its metadata, and stays an image.
    """
    if start.startswith(_PDF_HEADER):
        return True
    is_image = start.startswith((*_SIGNS, b"RIFF")) or _is_heif(start) or _is_bmp(start)
    return not is_image and start.find(_PDF_HEADER, 0, HEAD_BYTES) >= 0


def _is_heif(head: bytes) -> bool:
    return head[4:8] == b"ftyp"


def _is_bmp(head: bytes) -> bool:
    """More than its two letters, with which a mail may begin."""
    return head.startswith(_BMP) and head[6:10] == bytes(4)
