"""Prepares pictures of every sort in processes of their own, and prints what each took beside what
was expected: one JSON object a line. Linux only."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from tests.worker.picture_bytes import encoded, exif, png, png_chunk, rle_bmp
from visionq_worker.developing import develop_exactly, develop_fast
from visionq_worker.footprint import Decoding, peak_bytes
from visionq_worker.heifs import HEIF, has_heif
from visionq_worker.images import ImageLimits, open_image, set_up_pillow
from visionq_worker.jpegs import has_fast_decoder
from visionq_worker.malloc import give_back, set_up_malloc

SIZE = (2400, 1800)
NUM_CROPS = 4
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", *([HEIF] if has_heif() else []))
DECODINGS: tuple[Decoding, ...] = ("exact", "fast")


def main() -> None:
    set_up_malloc()
    set_up_pillow(FORMATS)
    limits = ImageLimits(max_pixels=40_000_000, formats=FORMATS)
    for name, content in files():
        for decoding in DECODINGS:
            print(in_a_child(partial(measured, name, content, limits, decoding)), flush=True)


def files() -> Iterator[tuple[str, bytes]]:
    rng = np.random.default_rng(1)
    blocks = rng.integers(0, 256, (SIZE[1] // 30, SIZE[0] // 30, 3)).astype(np.uint8)
    rgb = Image.fromarray(blocks).resize(SIZE)
    grey = rgb.convert("L")
    rgba = Image.merge("RGBA", (*rgb.split(), grey))
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 256)
    yield "JPEG", encoded(rgb, "JPEG")
    yield "JPEG, turned", encoded(rgb, "JPEG", exif=exif(6))
    yield "JPEG, progressive", encoded(rgb, "JPEG", progressive=True)
    yield "JPEG, progressive, 4:4:4", encoded(rgb, "JPEG", progressive=True, subsampling=0)
    yield "JPEG, CMYK", encoded(rgb.convert("CMYK"), "JPEG")
    yield "JPEG, grey", encoded(grey, "JPEG")
    yield "PNG", encoded(rgb, "PNG", compress_level=1)
    yield "PNG, transparent, turned", encoded(rgba, "PNG", compress_level=1, exif=exif(3))
    yield "PNG, grey and alpha", encoded(rgba.convert("LA"), "PNG", compress_level=1)
    yield "PNG, palette", encoded(rgb.convert("P"), "PNG", transparency=3)
    yield "PNG, 1 bit", encoded(rgb.convert("1"), "PNG")
    yield "PNG, 16 bits", encoded(deep, "PNG", compress_level=1)
    yield "PNG, 16 bits of colour, one transparent", deep_and_keyed(rgb)
    yield "PNG, a long text", encoded(rgb, "PNG", compress_level=1, pnginfo=long_text())
    yield "WEBP", encoded(rgb, "WEBP", method=0)
    yield "WEBP, transparent", encoded(rgba, "WEBP", method=0)
    yield "WEBP, lossless", encoded(rgba, "WEBP", method=0, lossless=True)
    if has_heif():
        yield "HEIF", encoded(rgb, HEIF)
        yield "HEIF, transparent", encoded(rgba, HEIF)
        yield "HEIF, grey", encoded(grey, HEIF)
        yield "HEIF, turned", encoded(rgb, HEIF, exif=exif(6))
        yield "HEIF, two pictures", encoded(rgb, HEIF, save_all=True, append_images=[rgb])
    yield "GIF", encoded(rgb.convert("P"), "GIF")
    yield "BMP", encoded(rgb, "BMP")
    yield "BMP, packed", rle_bmp(*SIZE)
    yield "TIFF", encoded(rgb, "TIFF", compression="tiff_lzw")
    yield "TIFF, turned", encoded(rgb, "TIFF", compression="tiff_lzw", exif=exif(6))
    yield "TIFF, one strip", encoded(rgb, "TIFF", compression="tiff_lzw", tiffinfo={278: SIZE[1]})
    yield "TIFF, grey, 16 bits", encoded(deep, "TIFF", compression="tiff_lzw")


def deep_and_keyed(rgb: Image.Image) -> bytes:
    samples = np.asarray(rgb).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in samples)
    return png(*SIZE, rows, bits=16, extra=png_chunk(b"tRNS", samples[0, 0].tobytes()))


def long_text() -> PngImagePlugin.PngInfo:
    text = PngImagePlugin.PngInfo()
    text.add_text("workflow", "x" * 8_000_000)
    return text


def in_a_child(work: Callable[[], str]) -> str:
    """What it returns, worked out by a copy of this process that has done nothing else."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        os.write(writing, work().encode())
        os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as pipe:
        answer = pipe.read()
    os.wait()
    return answer


def measured(name: str, content: bytes, limits: ImageLimits, decoding: Decoding) -> str:
    develop(encoded(Image.new("RGB", (900, 700)), "JPEG"), limits, decoding)
    Image.core.clear_cache()  # type: ignore[attr-defined]  # what the files' making has left would be taken first, and not count
    give_back()
    Path("/proc/self/clear_refs").write_text("5")  # forgets the most that was resident
    before = peak()
    expected = develop(content, limits, decoding)
    line = {"name": name, "decoding": decoding, "took": peak() - before, "expected": expected}
    return json.dumps(line)


def develop(content: bytes, limits: ImageLimits, decoding: Decoding) -> int:
    """Returns what it was expected to take."""
    opened = open_image(content, limits)
    expected = peak_bytes(opened.header, NUM_CROPS, decoding)
    if decoding == "exact":
        develop_exactly(opened, NUM_CROPS)
    else:
        develop_fast(opened, NUM_CROPS, has_fast_decoder=has_fast_decoder())
    return expected


def peak() -> int:
    """The most bytes that were resident."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("the kernel does not say what is resident")


if __name__ == "__main__":
    main()
