"""How hard the pictures are: what a curriculum moves along."""

from __future__ import annotations

from dataclasses import dataclass

LONGER_SIDE_PX = 672
"""Of every picture: two tiles, so that nothing is resized before the model sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Level:
    """Bounds that each picture stays within. Heights are of capital letters, in pixels."""

    name: str
    min_letter_px: float
    max_letter_px: float
    max_words: int
    max_syllables: int
    num_faces: int
    max_shapes: int
    """In a scene, and in the fuller one of a pair."""
    max_turn_degrees: float = 0.0
    max_noise: float = 0.0
    """Standard deviation of what is added to each channel, of 255."""


LEVELS = (
    Level(
        name="letters",
        min_letter_px=40,
        max_letter_px=60,
        max_words=1,
        max_syllables=1,
        num_faces=1,
        max_shapes=3,
    ),
    Level(
        name="words",
        min_letter_px=30,
        max_letter_px=56,
        max_words=1,
        max_syllables=2,
        num_faces=3,
        max_shapes=3,
    ),
    Level(
        name="lines",
        min_letter_px=24,
        max_letter_px=52,
        max_words=2,
        max_syllables=2,
        num_faces=8,
        max_shapes=3,
        max_turn_degrees=1.0,
        max_noise=4.0,
    ),
    Level(
        name="pages",
        min_letter_px=20,
        max_letter_px=52,
        max_words=3,
        max_syllables=3,
        num_faces=100,
        max_shapes=5,
        max_turn_degrees=3.0,
        max_noise=8.0,
    ),
)
"""From the easiest to all of the world."""
HARDEST = LEVELS[-1]
