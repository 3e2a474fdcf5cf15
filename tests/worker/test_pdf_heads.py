"""A PDF is one with something before its header, too; an image that speaks of PDFs is none."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from tests.worker.pdf_bytes import A4, filled, pdf
from tests.worker.picture_bytes import encoded, png, png_chunk
from visionq.errors import InvalidImage
from visionq.image_sizes import size_in_hand
from visionq_worker.errors import TaskError
from visionq_worker.pdf_pages import MAX_PAGE_BYTES, render_page
from visionq_worker.sources import page_meant

RED_PAGE = pdf(filled((1, 0, 0), (0, 0, *A4)))
HEADS = {
    "a line break": b"\r\n",
    "a byte order mark": b"\xef\xbb\xbf",
    "blanks and a null": b" \t\0",
    "a printer's job": b"\x1b%-12345X@PJL JOB\r\n@PJL ENTER LANGUAGE=PDF\r\n",
    "mail": b"MIME-Version: 1.0\r\nContent-Type: application/pdf; name=a.pdf\r\n\r\n",
    "a server's answer": b"HTTP/1.1 200 OK\r\nContent-Length: 3318\r\n\r\n",
    "a word that begins as a BMP does": b"BMW AG, invoice 2041\r\n",
    "as much as there may be": b"x" * 1024,
}


@pytest.mark.parametrize("head", HEADS)
def test_bytes_before_the_header_are_passed_over(head: str) -> None:
    content = HEADS[head] + RED_PAGE
    assert page_meant(content, None) == 1
    assert page_meant(content, 3) == 3
    page = render_page(content, 1, 1, max_bytes=MAX_PAGE_BYTES)
    assert (page.pixels == (255, 0, 0)).all()
    with pytest.raises(InvalidImage, match="a page of a PDF"):
        size_in_hand(content)


def test_header_that_comes_later_is_none() -> None:
    content = b"x" * 1025 + RED_PAGE
    assert page_meant(content, None) is None
    with pytest.raises(TaskError, match="no PDF"):
        page_meant(content, 1)
    with pytest.raises(InvalidImage, match="no width and height"):
        size_in_hand(content)


SCENE = Image.fromarray(np.zeros((4, 6, 3), np.uint8))
IMAGES = {
    "PNG": png(6, 4, (b"\0" + bytes(18)) * 4, extra=png_chunk(b"tEXt", b"Source\0%PDF-1.7 page 3")),
    "JPEG": encoded(SCENE, "JPEG", comment=b"made of %PDF-1.7"),
    "GIF": encoded(SCENE, "GIF", comment=b"made of %PDF-1.7"),
    "WEBP": encoded(SCENE, "WEBP", exif=b"%PDF-1.7"),
    "TIFF": encoded(SCENE, "TIFF", description="made of %PDF-1.7"),
    "BMP": encoded(SCENE, "BMP") + b"%PDF-1.7",
}


@pytest.mark.parametrize("form", IMAGES)
def test_image_that_speaks_of_a_pdf_stays_an_image(form: str) -> None:
    assert b"%PDF-" in IMAGES[form][:1024]
    assert page_meant(IMAGES[form], None) is None
    assert size_in_hand(IMAGES[form]) == (6, 4)
