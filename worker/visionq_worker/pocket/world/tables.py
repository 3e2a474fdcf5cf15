"""Tables of short cells under a header, with or without rules."""

from __future__ import annotations

from random import Random

from visionq_worker.pocket.world.canvas import PALE, Canvas, ink_on
from visionq_worker.pocket.world.fonts import fitting_px
from visionq_worker.pocket.world.level import LONGER_SIDE_PX, Level
from visionq_worker.pocket.world.sorts import Asked, Drawn, face_of, letter_px
from visionq_worker.pocket.world.words import number, word

WIDTH_PX, HEIGHT_PX = LONGER_SIDE_PX, 504
MARGIN_PX = 20
MIN_SIDE, MAX_SIDE = 2, 4
"""Rows with the header, and columns."""
MAX_LETTER_PX = 34.0
MAX_ROW_PX = 110.0
ROOM = 0.86
"""Of a cell's width, for its text."""


def draw_table(choose: Random, level: Level) -> Drawn:
    ground = choose.choice(PALE)
    canvas, ink = Canvas.blank(WIDTH_PX, HEIGHT_PX, ground), ink_on(ground, choose)
    rows = _cells(choose, choose.randint(MIN_SIDE, MAX_SIDE), choose.randint(MIN_SIDE, MAX_SIDE))
    face = face_of(choose, level)
    cell_width = (WIDTH_PX - 2 * MARGIN_PX) / len(rows[0])
    height = min(MAX_ROW_PX, (HEIGHT_PX - 2 * MARGIN_PX) / len(rows))
    texts = [text for row in rows for text in row]
    letters = letter_px(choose, level, MAX_LETTER_PX)
    letters = fitting_px(texts, face, letters, ROOM * cell_width)
    has_rules = choose.random() < 0.6
    for down, row in enumerate(rows):
        top = MARGIN_PX + down * height
        if has_rules or down == 1:
            canvas.draw.line((MARGIN_PX, top, WIDTH_PX - MARGIN_PX, top), ink, 2)
        for across, text in enumerate(row):
            left = MARGIN_PX + (across + (1 - ROOM) / 2) * cell_width
            canvas.text((left, top + 0.3 * height), text, face, letters, ink)
    written = "\n".join(",".join(row) for row in rows)
    value = {"header": rows[0], "rows": rows[1:]}
    return Drawn((canvas,), (Asked("table", None, written, value),))


def _cells(choose: Random, num_rows: int, num_columns: int) -> list[list[str]]:
    """Words above, and in each column words or numbers."""
    columns = []
    for _ in range(num_columns):
        is_numbers = choose.random() < 0.6
        body = [number(choose) if is_numbers else word(choose, 1) for _ in range(num_rows - 1)]
        columns.append([word(choose, 1).capitalize(), *body])
    return [list(row) for row in zip(*columns, strict=True)]
