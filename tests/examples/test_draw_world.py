"""The pocket model's pictures of the demo: the files are what the script draws."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"
MEAN_LEVELS = 6.0
"""Of 255: JPEG takes most of the noise away. A wrong letter or shape changes whole regions."""


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(EXAMPLES / "draw_world.py"))


@pytest.mark.parametrize("sort", ["chart", "cover", "pair"])
def test_the_committed_pictures_are_what_is_drawn(script: dict[str, Any], sort: str) -> None:
    for number, canvas in enumerate(script["drawn"](sort).canvases, 1):
        with Image.open(EXAMPLES / "pictures" / script["file_name"](sort, number)) as committed:
            found = np.asarray(committed, dtype=int)
        wanted = np.asarray(canvas.image, dtype=int)
        assert found.shape == wanted.shape
        assert np.abs(found - wanted).mean() < MEAN_LEVELS
        # In squares of 14 pixels, in which noise is nothing, none is another colour.
        assert np.abs(_coarse(found) - _coarse(wanted)).max() < 5


def test_the_demo_asks_about_these(script: dict[str, Any]) -> None:
    jobs = runpy.run_path(str(EXAMPLES / "demo.py"))["POCKET_JOBS"]
    asked = {name for job in jobs for name in job.pictures}
    drawn = {
        script["file_name"](sort, number)
        for sort in script["SEEDS"]
        for number in range(1, 1 + len(script["drawn"](sort).canvases))
    }
    assert asked == drawn
    assert asked == {path.name for path in (EXAMPLES / "pictures").glob("world_*")}


def _coarse(pixels: np.ndarray[Any, np.dtype[np.int64]]) -> np.ndarray[Any, Any]:
    rows, columns = (side // 14 for side in pixels.shape[:2])
    cut = pixels[: rows * 14, : columns * 14]
    means: np.ndarray[Any, Any] = cut.reshape(rows, 14, columns, 14, 3).mean(axis=(1, 3))
    return means
