"""Bar charts with a name, labelled bars and their values."""

from __future__ import annotations

from random import Random

from visionq_worker.pocket.world.canvas import PALE, Canvas, ink_on
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
MIN_BARS, MAX_BARS = 2, 5
LABELS = ("Q1", "Q2", "Q3", "Q4", "2021", "2022", "2023", "2024", "2025", "A", "B", "C", "D", "E")

QUESTIONS = (
    None,
    "Could you please introduce this stock to me?",
    "Which bar is the largest, and what is its value?",
)


def draw_chart(choose: Random, level: Level) -> Drawn:
    ground = choose.choice(PALE)
    canvas, ink = Canvas.blank(WIDTH_PX, HEIGHT_PX, ground), ink_on(ground, choose)
    face = face_of(choose, level)
    head = title(choose, min(level.max_words, 2), level.max_syllables)
    head_px = fitting_px([head], face, letter_px(choose, level, 40.0), WIDTH_PX - 2 * MARGIN_PX)
    canvas.text((MARGIN_PX, MARGIN_PX), head, face, head_px, ink)
    labels, values = _bars(choose)
    fill = any_colour(choose)
    label_px = letter_px(choose, level, MAX_LABEL_PX)
    step = (WIDTH_PX - 2 * MARGIN_PX) / len(labels)
    highest = FLOOR_PX - MARGIN_PX - 1.7 * head_px - 2 * label_px
    for number, (label, value) in enumerate(zip(labels, values, strict=True)):
        centre = MARGIN_PX + (number + 0.5) * step
        height = highest * value / max(values)
        bar = (centre - 0.3 * step, FLOOR_PX - height, centre + 0.3 * step, FLOOR_PX)
        canvas.shape("bar", bar, fill)
        _centred(canvas, str(value), centre, bar[1] - 1.6 * label_px, face, label_px, ink, step)
        _centred(canvas, label, centre, FLOOR_PX + 8, face, label_px, ink, step)
    largest = values.index(max(values))
    listed = ", ".join(f"{label} {value}" for label, value in zip(labels, values, strict=True))
    said = f"{head}. {listed}. The largest is {labels[largest]} with {values[largest]}."
    told = {"title": head, "largest": labels[largest], "value": values[largest]}
    asked = tuple(Asked("analyze", question, said, told) for question in QUESTIONS)
    return Drawn((canvas,), asked)


def _bars(choose: Random) -> tuple[list[str], list[int]]:
    """Labels in their usual order, and values of which one is the largest by far enough."""
    chosen = sorted(choose.sample(range(len(LABELS)), choose.randint(MIN_BARS, MAX_BARS)))
    values = choose.sample(range(8, 99, 3), len(chosen))
    return [LABELS[index] for index in chosen], values


def _centred(
    canvas: Canvas,
    text: str,
    centre: float,
    top: float,
    face: str,
    capital_px: int,
    ink: tuple[int, int, int],
    room: float,
) -> None:
    capital_px = fitting_px([text], face, capital_px, 0.95 * room)
    canvas.text((centre - width(text, face, capital_px) / 2, top), text, face, capital_px, ink)
