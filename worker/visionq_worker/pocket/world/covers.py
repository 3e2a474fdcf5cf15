"""Book covers: a title, an author, and something in between."""

from __future__ import annotations

from random import Random

from visionq_worker.pocket.world.canvas import DARK, PALE, Canvas, Colour, ink_on
from visionq_worker.pocket.world.fonts import fitting_px, width
from visionq_worker.pocket.world.level import LONGER_SIDE_PX, Level
from visionq_worker.pocket.world.scenes import SHAPES, any_colour
from visionq_worker.pocket.world.sorts import Asked, Drawn, face_of, letter_px
from visionq_worker.pocket.world.words import name, title

WIDTH_PX, HEIGHT_PX = 480, LONGER_SIDE_PX
MARGIN_PX = 28
LINE_STEP = 1.7
"""From line to line, in heights of capitals."""

QUESTIONS = (
    "Help me get the title and author information of this book?",
    "Title and author?",
    "What are the title and the author of this book?",
    "Which book is this?",
)


def draw_cover(choose: Random, level: Level) -> Drawn:
    ground = choose.choice((*DARK, *PALE))
    canvas = Canvas.blank(WIDTH_PX, HEIGHT_PX, ground)
    ink = ink_on(ground, choose)
    lines = title(choose, level.max_words, level.max_syllables).split(" ")
    author = name(choose, level.max_syllables)
    _ornament(canvas, choose)
    is_author_first = choose.random() < 0.3
    top = choose.uniform(MARGIN_PX, 120)
    if is_author_first:
        top = _lines(canvas, [author], top, face_of(choose, level), choose, level, ink) + 40
    bottom = _lines(canvas, lines, top, face_of(choose, level), choose, level, ink)
    if not is_author_first:
        lowest = HEIGHT_PX - MARGIN_PX - 2 * level.max_letter_px
        at = choose.uniform(min(bottom + 40, lowest), lowest)
        _lines(canvas, [author], at, face_of(choose, level), choose, level, ink)
    said = " ".join(lines)
    in_order = [author, *lines] if is_author_first else [*lines, author]
    value = {"title": said, "author": author}
    return Drawn(
        (canvas,),
        (
            Asked("ocr", choose.choice(QUESTIONS), f"Title: {said}\nAuthor: {author}", value),
            Asked("ocr", None, "\n".join(in_order), in_order),
        ),
    )


def _lines(
    canvas: Canvas,
    lines: list[str],
    top: float,
    face: str,
    choose: Random,
    level: Level,
    ink: Colour,
) -> float:
    """Write them one below the other, each in the middle. Returns where the last one ends."""
    height = fitting_px(lines, face, letter_px(choose, level), WIDTH_PX - 2 * MARGIN_PX)
    for line in lines:
        canvas.text(((WIDTH_PX - width(line, face, height)) / 2, top), line, face, height, ink)
        top += LINE_STEP * height
    return top


def _ornament(canvas: Canvas, choose: Random) -> None:
    """A shape in the lower half, where no title reaches; the author may stand on it."""
    if choose.random() < 0.5:
        return
    side = choose.uniform(60, 140)
    left = choose.uniform(MARGIN_PX, WIDTH_PX - MARGIN_PX - side)
    top = choose.uniform(300, 420)
    canvas.shape(choose.choice(SHAPES), (left, top, left + side, top + side), any_colour(choose))
    canvas.marks.clear()  # nobody is asked about it
