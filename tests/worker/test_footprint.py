"""What a picture will take is known from its header: held against what it does take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.children import REPOSITORY
from visionq_worker.footprint import Decoding, peak_bytes, reduction
from visionq_worker.images import Header
from visionq_worker.model.errors import ImageShapeError

MEGABYTE = 1_000_000
DEFAULT_BYTES = 240 * 1024 * 1024
"""`limits.max_decode_bytes`."""


def header(
    form: str = "JPEG",
    mode: str = "RGB",
    size: tuple[int, int] = (4000, 3000),
    *,
    num_coefficients: int = 0,
) -> Header:
    width, height = size
    return Header(
        form=form, mode=mode, width=width, height=height, num_coefficients=num_coefficients
    )


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted by Linux")
def test_no_picture_takes_more_than_expected_nor_far_less() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.worker.footprint_main"],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) >= 2 * 22
    wrong = [line for line in lines if not _share(line) <= line["took"] <= line["expected"]]
    assert wrong == []


def _share(line: dict[str, int | str]) -> float:
    """Of what is expected, the least that a picture is to take: else others wait for nothing.

    Formats that are off by default are expected to do their worst, which most files do not.
    """
    is_default = str(line["name"]).startswith(("JPEG", "PNG", "WEBP"))
    return (0.4 if is_default else 0.2) * int(line["expected"]) - 8 * MEGABYTE


@pytest.mark.parametrize(
    ("size", "num_crops", "expected"),
    [
        ((4000, 3000), 16, 2),  # 1344 x 1008 is wanted: 2000 is 1.49 times as much
        ((3000, 4000), 16, 2),
        ((3890, 2918), 16, 1),  # 1945 is 1.447 times as much
        ((4000, 3000), 4, 4),  # 672 x 504
        ((4000, 3000), 1, 4),  # 336 x 252, but never by eight
        ((2300, 1725), 1, 1),  # 3.97 megapixels
        ((2320, 1740), 1, 4),
        ((6000, 700), 16, 1),  # 2352 wide: the longer side counts, and the shorter one
        ((336, 252), 1, 1),
    ],
)
def test_jpeg_is_reduced_when_it_is_large_and_far_larger_than_wanted(
    size: tuple[int, int], num_crops: int, expected: int
) -> None:
    assert reduction(header(size=size), num_crops, "fast") == expected


def test_nothing_is_reduced_in_exact_mode_nor_anything_but_a_jpeg() -> None:
    assert reduction(header(), 1, "exact") == 1
    assert reduction(header("PNG"), 1, "fast") == 1


@pytest.mark.parametrize(
    ("picture", "decoding", "fits"),
    [
        (header("JPEG", "RGB", (7300, 5475)), "exact", True),
        (header("PNG", "RGBA", (6300, 6300)), "exact", True),
        (header("JPEG", "CMYK", (6300, 6300)), "exact", True),
        (header("JPEG", "RGB", (7300, 5475), num_coefficients=60_000_000), "exact", False),
        (header("JPEG", "RGB", (7300, 5475), num_coefficients=60_000_000), "fast", True),
        (header("WEBP", "RGB", (4500, 3375)), "fast", True),
        (header("WEBP", "RGB", (6300, 6300)), "fast", False),
    ],
    ids=lambda value: f"{value.form} {value.mode}" if isinstance(value, Header) else str(value),
)
def test_what_fits_into_the_default_limit(picture: Header, decoding: Decoding, fits: bool) -> None:
    assert (peak_bytes(picture, 16, decoding) <= DEFAULT_BYTES) is fits


def test_small_picture_takes_little() -> None:
    assert peak_bytes(header(size=(1154, 866)), 4, "fast") < 20 * MEGABYTE


def test_picture_without_tiles_takes_nothing_but_an_error() -> None:
    with pytest.raises(ImageShapeError):
        peak_bytes(header(size=(40_000, 1)), 16, "fast")
