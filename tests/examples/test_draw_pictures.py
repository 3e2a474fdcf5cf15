"""The pictures of the demo: the files beside the script are what the script draws."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageChops, ImageDraw, ImageStat

EXAMPLES = Path(__file__).parents[2] / "examples"
SCRIPT = EXAMPLES / "draw_pictures.py"
PICTURES = EXAMPLES / "pictures"

SIZES_PX = {
    "stock_chart.png": (1024, 768),
    "book_cover.jpg": (600, 900),
    "shelf_before.png": (640, 480),
    "shelf_after.png": (640, 480),
}
FORMATS = {".png": "PNG", ".jpg": "JPEG"}
LARGEST_FILE_BYTES = 120_000

# JPEG is lossy: the committed cover is 0.9 levels of 255 from the drawing on average in its worst
# channel and 38 at most. A wrong letter or a moved lamp changes pixels by more than a hundred.
JPEG_MEAN_LEVELS = 1.5
JPEG_LARGEST_LEVELS = 60


@pytest.fixture(scope="module")
def drawings() -> dict[str, Image.Image]:
    """The pictures as drawn, before any file format touches them."""
    script = runpy.run_path(str(SCRIPT))
    return {name: draw() for name, draw in script["DRAWINGS"].items()}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "pictures"
    subprocess.run([sys.executable, str(SCRIPT), str(folder)], check=True, timeout=60)
    return folder


def test_script_writes_exactly_the_committed_names(written: Path) -> None:
    assert {path.name for path in written.iterdir()} == set(SIZES_PX)
    committed = {path.name for path in PICTURES.iterdir()}
    assert {name for name in committed if not name.startswith("world_")} == set(SIZES_PX)


@pytest.mark.parametrize("name", SIZES_PX)
def test_files_have_their_size_format_and_weight(name: str, written: Path) -> None:
    for path in (written / name, PICTURES / name):
        with Image.open(path) as picture:
            assert picture.size == SIZES_PX[name]
            assert picture.format == FORMATS[path.suffix]
            assert picture.mode == "RGB"
        assert path.stat().st_size < LARGEST_FILE_BYTES


@pytest.mark.parametrize("name", [name for name in SIZES_PX if name.endswith(".png")])
def test_committed_png_is_the_drawing_pixel_for_pixel(
    name: str, drawings: dict[str, Image.Image]
) -> None:
    difference = ImageChops.difference(drawings[name], _committed(name))
    assert difference.getbbox() is None


def test_committed_jpeg_is_the_drawing_but_for_compression(
    drawings: dict[str, Image.Image],
) -> None:
    name = "book_cover.jpg"
    difference = ImageStat.Stat(ImageChops.difference(drawings[name], _committed(name)))
    assert max(difference.mean) < JPEG_MEAN_LEVELS
    assert max(largest for _, largest in difference.extrema) < JPEG_LARGEST_LEVELS


def test_shelf_pictures_differ_in_one_connected_region() -> None:
    changed = _changed_pixels(_committed("shelf_before.png"), _committed("shelf_after.png"))
    box = changed.getbbox()
    assert box is not None
    left, top, right, bottom = box
    assert right - left > 40
    assert bottom - top > 40
    seed_x = next(x for x in range(left, right) if changed.getpixel((x, top)))
    ImageDraw.floodfill(changed, (seed_x, top), 128)
    unreached = changed.histogram()[255]
    assert unreached == 0


def _committed(name: str) -> Image.Image:
    with Image.open(PICTURES / name) as picture:
        return picture.convert("RGB")


def _changed_pixels(first: Image.Image, second: Image.Image) -> Image.Image:
    """255 where any channel differs by any amount, 0 elsewhere."""
    red, green, blue = ImageChops.difference(first, second).split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return largest.point([0] + [255] * 255)
