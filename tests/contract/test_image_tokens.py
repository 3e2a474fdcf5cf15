"""What an image costs, on both sides of the queue the same."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from visionq.errors import ImageTooNarrow
from visionq.image_tokens import MIN_IMAGE_TOKENS, max_image_tokens, num_image_tokens
from visionq.kinds import MAX_CROPS
from visionq_worker.model import geometry
from visionq_worker.model.errors import ImageShapeError

SIDES = st.integers(1, 8000)
CROPS = st.integers(1, MAX_CROPS)


@given(SIDES, SIDES, CROPS)
def test_an_image_costs_what_the_model_says(width: int, height: int, num_crops: int) -> None:
    try:
        expected = geometry.num_image_tokens(width, height, num_crops)
    except ImageShapeError:
        with pytest.raises(ImageTooNarrow):
            num_image_tokens(width, height, num_crops)
        return
    assert num_image_tokens(width, height, num_crops) == expected
    assert MIN_IMAGE_TOKENS <= expected <= max_image_tokens(num_crops)


@pytest.mark.parametrize("num_crops", range(1, MAX_CROPS + 1))
def test_every_size_of_a_coarse_grid_costs_the_same(num_crops: int) -> None:
    """Where rounding turns: about multiples of the tile, and shapes at the limit."""
    sides = [*range(1, 40), 335, 336, 337, 671, 672, 673, 1343, 1344, 1345, 5375, 5376, 7999, 8000]
    for width in sides:
        for height in sides:
            try:
                expected = geometry.num_image_tokens(width, height, num_crops)
            except ImageShapeError:
                continue
            assert num_image_tokens(width, height, num_crops) == expected


@pytest.mark.parametrize(
    ("width", "height", "num_crops", "num_tokens"),
    [(336, 336, 16, 2509), (640, 480, 16, 1921), (1240, 1754, 16, 1933), (50, 8000, 16, 2653)],
)
def test_known_images_cost_what_the_published_rule_says(
    width: int, height: int, num_crops: int, num_tokens: int
) -> None:
    assert num_image_tokens(width, height, num_crops) == num_tokens


def test_bounds_are_reached() -> None:
    assert num_image_tokens(100, 100, 1) == MIN_IMAGE_TOKENS
    assert num_image_tokens(50, 8000, 16) == max_image_tokens(16)


@pytest.mark.parametrize(("width", "height"), [(0, 10), (10, 0), (6000, 1), (1, 6000)])
def test_an_image_without_a_grid_is_refused(width: int, height: int) -> None:
    with pytest.raises(ImageTooNarrow):
        num_image_tokens(width, height, 16)
