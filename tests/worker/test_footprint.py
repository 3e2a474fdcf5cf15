"""What a picture will take is known from its header: held against what it does take."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.bench.children import REPOSITORY
from visionq_worker.footprint import peak_bytes
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
    assert len(lines) >= 22
    wrong = [line for line in lines if not _share(line) <= line["took"] <= line["expected"]]
    assert wrong == []


def _share(line: dict[str, int | str]) -> float:
    """Of what is expected, the least that a picture is to take: else others wait for nothing.

    Formats that are off by default are expected to do their worst, which most files do not.
    """
    is_default = str(line["name"]).startswith(("JPEG", "PNG", "WEBP"))
    return (0.4 if is_default else 0.2) * int(line["expected"]) - 8 * MEGABYTE


@pytest.mark.parametrize(
    ("picture", "fits"),
    [
        (header("JPEG", "RGB", (7300, 5475)), True),
        (header("PNG", "RGBA", (6300, 6300)), True),
        (header("JPEG", "CMYK", (6300, 6300)), True),
        (header("JPEG", "RGB", (7300, 5475), num_coefficients=60_000_000), False),
        (header("WEBP", "RGB", (4500, 3375)), True),
        (header("WEBP", "RGB", (6300, 6300)), False),
    ],
    ids=lambda value: f"{value.form} {value.mode}" if isinstance(value, Header) else str(value),
)
def test_what_fits_into_the_default_limit(picture: Header, fits: bool) -> None:
    assert (peak_bytes(picture, 16) <= DEFAULT_BYTES) is fits


def test_small_picture_takes_little() -> None:
    assert peak_bytes(header(size=(1154, 866)), 4) < 20 * MEGABYTE


def test_picture_without_tiles_takes_nothing_but_an_error() -> None:
    with pytest.raises(ImageShapeError):
        peak_bytes(header(size=(40_000, 1)), 16)
