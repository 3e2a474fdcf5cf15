"""One page of a PDF as pixels: a program of its own, and with `pdf_text` the only door to PDFium.

`pdf_pages` starts it for each page, with the file on its standard input. PDFium serves one thread
at a time, and ends its process where memory runs out or a file outwits it; here that concerns
nobody else. The program limits itself before it looks at the file, has no environment to give away,
and imports nothing that takes long.

It writes a line of JSON (`Reply`) and then the pixels, RGB, row by row; or the line alone, with
what is in the way. It exits with `EXIT_TOO_MUCH` where the page takes more memory than is allowed.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal, TypedDict

import pypdfium2_raw as pdfium

from visionq_worker.model.errors import ImageShapeError
from visionq_worker.model.geometry import Size, resized_size
from visionq_worker.pdf_text import has_undrawn_text

Refusal = Literal["damaged", "encrypted", "no page", "no shape"]


class Reply(TypedDict, total=False):
    """Sizes are width and height. Where there are no pixels, only the refusal is certain."""

    pixels: tuple[int, int]
    points: tuple[int, int]  # of the page, rounded
    shape: tuple[int, int]  # of the page in parts of a point, by which its tiles are counted
    num_pages: int
    has_undrawn_text: bool  # a font is missing
    refusal: Refusal


EXIT_TOO_MUCH = 3
LOOK_SECONDS = 0.005
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
MAX_ADDRESS_BYTES = 4 << 30
"""More than any page is allowed to use: where PDFium is refused memory it may leave out a picture
and say nothing, which must not happen. So what counts is what it uses, and the whole ends."""
MAX_OPEN_FILES = 32
"""Fonts, where a PDF brings none of its own."""
PARTS_PER_POINT = 100
"""Sides of pages are rarely whole points, and tiles are counted by integers."""
MAX_PARTS = 1e9
WHITE = 0xFFFFFFFF
BYTES_PER_PIXEL = 3


class Refused(Exception):
    """There are no pixels."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply)
        self.reply = reply


def main() -> None:
    """Arguments: the page, from 1; num_crops; the file's bytes; bytes and CPU seconds allowed."""
    number, num_crops, num_bytes, max_bytes, seconds = map(int, sys.argv[1:])
    limit(max_bytes=max_bytes, seconds=seconds)
    content = bytearray(num_bytes)
    with open(sys.stdin.fileno(), "rb") as file:
        file.readinto(content)
    pixels = bytearray()
    try:
        reply, pixels = render(content, number, num_crops)
    except Refused as refused:
        reply = refused.reply
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n")
    sys.stdout.buffer.write(pixels)


def limit(*, max_bytes: int, seconds: int) -> None:
    """For the rest of this process: memory, CPU time, no file written, no other process."""
    threading.Thread(target=_watch, args=(max_bytes,), daemon=True).start()
    limits = {
        resource.RLIMIT_AS: MAX_ADDRESS_BYTES,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_NOFILE: MAX_OPEN_FILES,
    }
    for name, most in limits.items():
        with suppress(OSError, ValueError):  # some systems do not have them all
            resource.setrlimit(name, (most, most))
    # Ended by SIGXCPU, and not by the SIGKILL that anybody may send.
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))


def _watch(max_bytes: int) -> None:
    """End the process once it has more. PDFium works without Python's lock, so there is a chance.

    Where the kernel does not tell, which is anywhere but on Linux, nothing is watched.
    """
    with suppress(OSError), Path("/proc/self/statm").open("rb", buffering=0) as statm:
        while True:
            statm.seek(0)
            if int(statm.read(100).split()[1]) * PAGE_BYTES > max_bytes:
                os._exit(EXIT_TOO_MUCH)
            time.sleep(LOOK_SECONDS)


def render(content: bytearray, number: int, num_crops: int) -> tuple[Reply, bytearray]:
    """The page on white, as large as the model sees it. Raises `Refused`."""
    pdfium.FPDF_InitLibrary()
    document = _open(content)
    num_pages = pdfium.FPDF_GetPageCount(document)
    if not 1 <= number <= num_pages:
        raise Refused({"refusal": "no page", "num_pages": num_pages})
    page = pdfium.FPDF_LoadPage(document, number - 1)
    if not page:
        raise Refused({"refusal": "damaged"})
    shape = _shape(page)
    width, height = (max(1, round(side / PARTS_PER_POINT)) for side in shape)
    reply: Reply = {"shape": shape, "points": (width, height), "num_pages": num_pages}
    try:
        size = resized_size(*shape, num_crops)
    except ImageShapeError as error:
        raise Refused({**reply, "refusal": "no shape"}) from error
    pixels = _painted(document, page, size)
    return {**reply, "pixels": size, "has_undrawn_text": has_undrawn_text(page)}, pixels


def _open(content: bytearray) -> Any:
    buffer = (ctypes.c_char * len(content)).from_buffer(content)
    document = pdfium.FPDF_LoadMemDocument64(buffer, len(content), None)
    if document:
        return document
    if pdfium.FPDF_GetLastError() in (pdfium.FPDF_ERR_PASSWORD, pdfium.FPDF_ERR_SECURITY):
        raise Refused({"refusal": "encrypted"})
    raise Refused({"refusal": "damaged"})


def _shape(page: Any) -> Size:
    """Width and height as it is shown, in parts of a point."""
    sides = (pdfium.FPDF_GetPageWidthF(page), pdfium.FPDF_GetPageHeightF(page))
    parts = [side * PARTS_PER_POINT for side in sides]
    if not all(math.isfinite(side) and side <= MAX_PARTS for side in parts):
        raise Refused({"refusal": "damaged"})
    return Size(*map(round, parts))


def _painted(document: Any, page: Any, size: Size) -> bytearray:
    stride = size.width * BYTES_PER_PIXEL
    pixels = bytearray(stride * size.height)
    buffer = (ctypes.c_ubyte * len(pixels)).from_buffer(pixels)
    bitmap = pdfium.FPDFBitmap_CreateEx(*size, pdfium.FPDFBitmap_BGR, buffer, stride)
    pdfium.FPDFBitmap_FillRect(bitmap, 0, 0, *size, WHITE)
    # In reverse order, what it calls BGR is RGB.
    flags = pdfium.FPDF_ANNOT | pdfium.FPDF_REVERSE_BYTE_ORDER
    pdfium.FPDF_RenderPageBitmap(bitmap, page, 0, 0, *size, 0, flags)
    # Fields of a form are not among a page's annotations: what has been filled in is drawn by this.
    fields = pdfium.FPDFDOC_InitFormFillEnvironment(document, pdfium.FPDF_FORMFILLINFO(version=2))
    if fields:
        pdfium.FPDF_RemoveFormFieldHighlight(fields)
        pdfium.FPDF_FFLDraw(fields, bitmap, page, 0, 0, *size, 0, flags)
    return pixels


if __name__ == "__main__":
    main()
