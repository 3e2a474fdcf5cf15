"""Tile grids and token counts. The table was worked out from the published rule, by hand."""

from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionq_worker.model.errors import ImageShapeError
from visionq_worker.model.geometry import (
    Grid,
    Size,
    num_image_tokens,
    padded_size,
    resized_size,
    tile_grid,
)

SIDES = st.integers(1, 20_000)
CROPS = st.integers(1, 40)


@pytest.mark.parametrize(
    ("num_crops", "width", "height", "grid", "num_tokens"),
    [
        (4, 336, 336, (2, 2), 757),
        (4, 640, 480, (2, 2), 757),
        (4, 1920, 1080, (2, 2), 757),
        (4, 1240, 1754, (2, 2), 757),  # A4, upright
        (4, 800, 200, (1, 4), 745),
        (4, 50, 8000, (4, 1), 781),
        (16, 336, 336, (4, 4), 2509),
        (16, 640, 480, (3, 4), 1921),
        (16, 1024, 768, (3, 4), 1921),
        (16, 1920, 1080, (3, 5), 2353),
        (16, 1240, 1754, (4, 3), 1933),
        (16, 50, 8000, (16, 1), 2653),
    ],
)
def test_known_images_cost_what_the_published_rule_says(
    num_crops: int, width: int, height: int, grid: tuple[int, int], num_tokens: int
) -> None:
    assert tile_grid(width, height, num_crops) == Grid(*grid)
    assert num_image_tokens(width, height, num_crops) == num_tokens


def test_height_is_truncated_before_it_is_padded() -> None:
    # 1344 / (500/400) is 1075.2; four rows of tiles hold it.
    assert resized_size(500, 400, 16) == Size(1344, 1075)
    assert padded_size(500, 400, 16) == Size(1344, 1344)


@given(SIDES, SIDES, CROPS)
def test_longer_side_takes_as_many_tiles_as_the_crops_allow(
    width: int, height: int, num_crops: int
) -> None:
    ratio = max(width, height) / min(width, height)
    allowed = [
        tiles for tiles in range(1, num_crops + 1) if tiles * ceil(tiles / ratio) <= num_crops
    ]
    try:
        grid = tile_grid(width, height, num_crops)
    except ImageShapeError:
        assert ratio > 336 * max(allowed)
        return
    assert max(grid) == max(allowed)
    assert grid.rows * grid.columns <= num_crops


@given(SIDES, SIDES, CROPS)
def test_turning_an_image_turns_its_grid(width: int, height: int, num_crops: int) -> None:
    try:
        rows, columns = tile_grid(width, height, num_crops)
    except ImageShapeError:
        with pytest.raises(ImageShapeError):
            tile_grid(height, width, num_crops)
        return
    assert tile_grid(height, width, num_crops) == Grid(columns, rows)


@pytest.mark.parametrize(
    ("width", "height", "num_crops"),
    [(0, 10, 4), (10, 0, 4), (-1, 10, 4), (10, 10, 0), (6000, 1, 16), (1, 6000, 16), (337, 1, 1)],
)
def test_image_without_a_grid_is_refused(width: int, height: int, num_crops: int) -> None:
    with pytest.raises(ImageShapeError):
        num_image_tokens(width, height, num_crops)
