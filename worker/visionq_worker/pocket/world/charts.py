"""Bar and line charts with a name, labels and values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random

from visionq_worker.pocket.world.canvas import PALE, Canvas, Colour, ink_on
from visionq_worker.pocket.world.fonts import fitting_px, width
from visionq_worker.pocket.world.level import LONGER_SIDE_PX, Level
from visionq_worker.pocket.world.scenes import any_colour
from visionq_worker.pocket.world.sorts import Asked, Drawn, face_of, letter_px
from visionq_worker.pocket.world.words import title

WIDTH_PX, HEIGHT_PX = LONGER_SIDE_PX, 504
MARGIN_PX = 24
FLOOR_PX = HEIGHT_PX - 70
"""Where bars stand; labels are below it."""
MAX_LABEL_PX = 30.0
MIN_VALUES, MAX_VALUES = 2, 5
LINE_PX, POINT_PX = 5, 9
"""How wide the line is, and the radius of the dots on it."""
LABELS = ("Q1", "Q2", "Q3", "Q4", "2021", "2022", "2023", "2024", "2025", "A", "B", "C", "D", "E")

STOCK_QUESTION = "Could you please introduce this stock to me?"
BAR_QUESTIONS = (None, STOCK_QUESTION, "Which bar is the largest, and what is its value?")
LINE_QUESTIONS = (None, STOCK_QUESTION, "Which point is the highest, and what is its value?")

Point = tuple[float, float]


def draw_chart(choose: Random, level: Level) -> Drawn:
    """A bar for each value."""
    return _draw(choose, level, _draw_bars, BAR_QUESTIONS)


def draw_line_chart(choose: Random, level: Level) -> Drawn:
    """A point for each value, and a line from the first to the last."""
    return _draw(choose, level, _draw_line, LINE_QUESTIONS)


def _draw(
    choose: Random,
    level: Level,
    draw_values: Callable[[Canvas, Sequence[Point], Colour], float],
    questions: Sequence[str | None],
) -> Drawn:
    ground = choose.choice(PALE)
    canvas, ink = Canvas.blank(WIDTH_PX, HEIGHT_PX, ground), ink_on(ground, choose)
    face = face_of(choose, level)
    head = title(choose, min(level.max_words, 2), level.max_syllables)
    head_px = fitting_px([head], face, letter_px(choose, level, 40.0), WIDTH_PX - 2 * MARGIN_PX)
    canvas.text((MARGIN_PX, MARGIN_PX), head, face, head_px, ink)
    labels, values = _values(choose)
    fill = any_colour(choose)
    label_px = letter_px(choose, level, MAX_LABEL_PX)
    step = _step(len(values))
    highest = FLOOR_PX - MARGIN_PX - 1.7 * head_px - 2 * label_px
    points = [
        (MARGIN_PX + (number + 0.5) * step, FLOOR_PX - highest * value / max(values))
        for number, value in enumerate(values)
    ]
    # Before the letters that may meet them, so that none is painted over.
    free_px = draw_values(canvas, points, fill)
    for label, value, (x, y) in zip(labels, values, points, strict=True):
        _centred(canvas, str(value), x, y - free_px - 1.6 * label_px, face, label_px, ink, step)
        _centred(canvas, label, x, FLOOR_PX + 8, face, label_px, ink, step)
    largest = values.index(max(values))
    listed = ", ".join(f"{label} {value}" for label, value in zip(labels, values, strict=True))
    said = f"{head}. {listed}. The largest is {labels[largest]} with {values[largest]}."
    told = {"title": head, "largest": labels[largest], "value": values[largest]}
    asked = tuple(Asked("analyze", question, said, told) for question in questions)
    return Drawn((canvas,), asked)


def _step(count: int) -> float:
    """Pixels from one of so many values to the next."""
    return (WIDTH_PX - 2 * MARGIN_PX) / count


def _draw_bars(canvas: Canvas, points: Sequence[Point], fill: Colour) -> float:
    """From the floor to each point. Returns how many pixels above these are taken: none."""
    half_width = 0.3 * _step(len(points))
    for x, y in points:
        canvas.shape("bar", (x - half_width, y, x + half_width, FLOOR_PX), fill)
    return 0.0


def _draw_line(canvas: Canvas, points: Sequence[Point], fill: Colour) -> float:
    """Through all points. Returns how many pixels above these are taken."""
    # Without marks: letters, bars and shapes are all that training asks a patch about.
    canvas.draw.line(points, fill, LINE_PX)
    for x, y in points:
        canvas.draw.ellipse((x - POINT_PX, y - POINT_PX, x + POINT_PX, y + POINT_PX), fill)
    return POINT_PX


def _values(choose: Random) -> tuple[list[str], list[int]]:
    """Labels in their usual order, and values of which one is the largest by far enough."""
    chosen = sorted(choose.sample(range(len(LABELS)), choose.randint(MIN_VALUES, MAX_VALUES)))
    values = choose.sample(range(8, 99, 3), len(chosen))
    return [LABELS[index] for index in chosen], values


def _centred(
    canvas: Canvas,
    text: str,
    centre: float,
    top: float,
    face: str,
    capital_px: int,
    ink: Colour,
    room: float,
) -> None:
    capital_px = fitting_px([text], face, capital_px, 0.95 * room)
    canvas.text((centre - width(text, face, capital_px) / 2, top), text, face, capital_px, ink)
