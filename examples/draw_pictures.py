"""Draws the pictures that the demo sends: a revenue chart, a book cover, a shelf before and after.

Pillow and its built-in font only, no randomness: the files in `pictures/` are what this script
writes. Company, author, title and figures are invented. Coordinates are pixels of the finished
picture; everything is drawn SCALE times too large and averaged down, which smooths every edge.
"""

import cmath
import itertools
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

SCALE = 4
PICTURES = Path(__file__).parent / "pictures"

Point = tuple[float, float]
Box = tuple[float, float, float, float]

INK = "#1c2733"
GREY = "#66727f"

QUARTERS = ("Q1", "Q2", "Q3", "Q4", "Q1", "Q2", "Q3", "Q4")
REVENUE_MILLION_EUR = (41.2, 44.8, 43.1, 57.3, 49.6, 53.9, 52.4, 71.4)
SHARE_PRICE_EUR = (18.2, 19.6, 18.9, 23.4, 22.1, 25.8, 24.7, 29.3)


def main() -> None:
    """Write the four pictures into the folder named on the command line, or into `pictures/`."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else PICTURES
    folder.mkdir(parents=True, exist_ok=True)
    for name, draw in DRAWINGS.items():
        draw().save(folder / name, optimize=True, quality=90, subsampling=0)


class Canvas:
    """A surface addressed in finished pixels; `finish` averages it down to them."""

    def __init__(self, width: int, height: int, background: str) -> None:
        self.image = Image.new("RGB", (width * SCALE, height * SCALE), background)
        self.draw = ImageDraw.Draw(self.image)

    def finish(self) -> Image.Image:
        return self.image.reduce(SCALE)

    def box(self, box: Box, fill: str, radius: float = 0, top_only: bool = False) -> None:
        corners = (True, True, not top_only, not top_only)
        self.draw.rounded_rectangle(_scaled_box(box), radius * SCALE, fill, corners=corners)

    def disc(self, centre: Point, radius: float, fill: str, flatness: float = 1) -> None:
        """`flatness` is height over width: 1 is a circle, 0.2 a puddle."""
        self.draw.ellipse(_scaled_box(_around(centre, radius, radius * flatness)), fill)

    def shape(self, points: Sequence[Point], fill: str) -> None:
        self.draw.polygon([(x * SCALE, y * SCALE) for x, y in points], fill)

    def line(self, points: Sequence[Point], fill: str, width: float) -> None:
        scaled = [(x * SCALE, y * SCALE) for x, y in points]
        self.draw.line(scaled, fill, round(width * SCALE), joint="curve")

    def text(
        self,
        at: Point,
        text: str,
        size: float,
        fill: str,
        anchor: str = "ls",
        bold: float = 0,
        spacing: float = 0,
    ) -> None:
        """`bold` thickens the strokes and `spacing` parts the letters, both in pixels."""
        font = ImageFont.load_default(size * SCALE)
        x, y = at[0] * SCALE, at[1] * SCALE
        if spacing == 0:
            self.draw.text((x, y), text, fill, font, anchor, stroke_width=bold * SCALE)
            return
        steps = [font.getlength(letter) + spacing * SCALE for letter in text]
        if anchor[0] == "m":
            x -= (sum(steps) - spacing * SCALE) / 2
        for letter, step in zip(text, steps, strict=True):
            self.draw.text((x, y), letter, fill, font, "l" + anchor[1], stroke_width=bold * SCALE)
            x += step

    def arc(self, centre: Point, radius: float, degrees: Point, fill: str, width: float) -> None:
        box = _scaled_box(_around(centre, radius, radius))
        self.draw.arc(box, *degrees, fill, round(width * SCALE))

    def glow(self, box: Box, fill: str, strength: float) -> None:
        """A light that fades from `strength` (0 to 1) in the middle to nothing at the sides."""
        left, top, right, bottom = (round(edge * SCALE) for edge in box)
        fade = Image.radial_gradient("L").point([_faded(level, strength) for level in range(256)])
        self.image.paste(fill, (left, top), fade.resize((right - left, bottom - top)))

    def fade(self, stops: Sequence[tuple[int, str]]) -> None:
        """Blend from one stop (y, colour) to the next, over the whole width."""
        mask = Image.linear_gradient("L").point([_eased(level) for level in range(256)])
        for (top, colour), (bottom, next_colour) in itertools.pairwise(stops):
            box = (0, top * SCALE, self.image.width, bottom * SCALE)
            self.image.paste(colour, box)
            self.image.paste(next_colour, box, mask.resize((box[2], box[3] - box[1])))


def _around(centre: Point, half_width: float, half_height: float) -> Box:
    x, y = centre
    return x - half_width, y - half_height, x + half_width, y + half_height


def _scaled_box(box: Box) -> Box:
    left, top, right, bottom = (round(edge * SCALE) for edge in box)
    return left, top, right - 1, bottom - 1


def _faded(level: int, strength: float) -> int:
    nearness = max(0.0, 1 - level / 179)  # Pillow's radial gradient is 179 where a side begins
    return round(255 * strength * nearness**2)


def _eased(level: int) -> int:
    """Level at both ends, so that no crease shows where two blends meet."""
    share = level / 255
    return round(255 * share * share * (3 - 2 * share))


def draw_stock_chart() -> Image.Image:
    """Eight quarters of revenue as bars, the share price as a line below them; 1024 x 768."""
    canvas = Canvas(1024, 768, "#ffffff")
    canvas.text((56, 76), "Orrinvale Optics (ORVL)", 36, INK, bold=0.6)
    canvas.text((56, 110), "Revenue by quarter, 2024 and 2025, in million euros", 19, GREY)
    canvas.text((968, 76), "71.4 million", 30, "#1f5fa8", "rs", bold=0.4)
    canvas.text((968, 106), "Q4 2025: +25% on Q4 2024", 17, GREY, "rs")
    _draw_revenue_bars(canvas, top=178, bottom=498)
    _draw_share_price(canvas, top=634, bottom=706)
    canvas.text((56, 748), "Invented company and figures, for demonstration only.", 13, "#98a2ac")
    return canvas.finish()


def _column_x(quarter: int) -> float:
    return 154 + quarter * 106 + (14 if quarter >= 4 else 0)


def _draw_revenue_bars(canvas: Canvas, top: float, bottom: float) -> None:
    per_million = (bottom - top) / 80
    canvas.text((56, top - 22), "Revenue (EUR m)", 15, GREY)
    for tick in range(0, 81, 20):
        y = bottom - tick * per_million
        canvas.line([(100, y), (968, y)], "#aab4be" if tick == 0 else "#e6eaee", 1)
        canvas.text((88, y), str(tick), 15, GREY, "rm")
    for quarter, revenue in enumerate(REVENUE_MILLION_EUR):
        x, y = _column_x(quarter), bottom - revenue * per_million
        fill = "#a9c3e2" if quarter < 4 else "#2f70b7"
        canvas.box((x - 33, y, x + 33, bottom), fill, radius=5, top_only=True)
        canvas.box((x - 24, y - 26, x + 24, y - 6), "#ffffff")  # hides a grid line behind the value
        canvas.text((x, y - 9), f"{revenue:.1f}", 18, INK, "ms", bold=0.2)
        canvas.text((x, bottom + 26), QUARTERS[quarter], 17, INK, "ms")
    canvas.text((56, bottom + 26), "Quarter", 15, GREY)
    for year, first in (("2024", 0), ("2025", 4)):
        left, right = _column_x(first) - 33, _column_x(first + 3) + 33
        canvas.line([(left, bottom + 40), (right, bottom + 40)], "#c6ced6", 1.5)
        canvas.text(((left + right) / 2, bottom + 62), year, 17, INK, "ms", bold=0.2)


def _draw_share_price(canvas: Canvas, top: float, bottom: float) -> None:
    orange = "#d9662b"
    canvas.line([(56, top - 40), (968, top - 40)], "#e6eaee", 1)
    canvas.text((56, top - 14), "Share price at the end of the quarter (EUR)", 15, GREY)
    points = [
        (_column_x(quarter), bottom - (price - 15) / 15 * (bottom - top))
        for quarter, price in enumerate(SHARE_PRICE_EUR)
    ]
    canvas.line(points, orange, 3)
    for (x, y), price in zip(points, SHARE_PRICE_EUR, strict=True):
        canvas.disc((x, y), 5.5, orange)
        canvas.disc((x, y), 2.8, "#ffffff")
        canvas.text((x, y - 12), f"{price:.1f}", 15, orange, "ms", bold=0.2)


# The lamps stand on a curve that runs away from the reader; sizes are shares of the nearest one.
LAMP_X = (478, 346, 232, 142, 188, 268, 308, 398, 428)
LAMP_SIZE = (1.00, 0.79, 0.63, 0.50, 0.40, 0.32, 0.26, 0.21, 0.17)
DUSK = (
    (0, "#0c1230"),
    (300, "#2a3163"),
    (440, "#7a4f78"),
    (520, "#d8806a"),
    (562, "#f6c485"),
    (563, "#c88a70"),
    (640, "#5f4768"),
    (760, "#262f57"),
    (900, "#0b1129"),
)


def draw_book_cover() -> Image.Image:
    """Nine lamps on a tidal flat at dusk, a title and an author; 600 x 900."""
    canvas = Canvas(600, 900, "#000000")
    canvas.fade(DUSK)
    _draw_stars(canvas)
    _draw_shore(canvas)
    for x, size in zip(reversed(LAMP_X), reversed(LAMP_SIZE), strict=True):
        _draw_lamp(canvas, x, size)
    cream = "#fbeed6"
    canvas.text((300, 150), "NINE LAMPS", 72, cream, "ms", bold=0.9, spacing=5)
    canvas.text((300, 214), "AT LOW TIDE", 40, cream, "ms", bold=0.3, spacing=10)
    canvas.line([(262, 248), (338, 248)], "#f0a868", 2)
    canvas.text((300, 284), "a novel", 22, "#dcc9c4", "ms", spacing=2)
    canvas.text((300, 866), "ILKA MARENHOLT", 30, cream, "ms", bold=0.2, spacing=7)
    return canvas.finish()


def _draw_stars(canvas: Canvas) -> None:
    for star in range(90):
        x, y = (star * 0.618034 + 0.13) % 1 * 600, (star * 0.754878 + 0.41) % 1 * 420
        behind_title = 40 < x < 560 and 70 < y < 300
        if not behind_title:
            canvas.disc((x, y), 1.3 if star % 5 == 0 else 0.7, "#b9b4d2")


def _draw_shore(canvas: Canvas) -> None:
    canvas.glow((-60, 380, 660, 746), "#ffdf9e", 0.5)
    far = [(x, 552 - 15 * math.sin(x / 97) ** 2 - x / 60) for x in range(0, 601, 4)]
    near = [(x, 560 - 9 * math.sin(x / 61 + 1) ** 2) for x in range(0, 601, 4)]
    canvas.shape([(0, 563), *far, (600, 563)], "#9a5a66")
    canvas.shape([(0, 563), *near, (600, 563)], "#4f3558")
    for pool in range(22):
        depth = (pool + 1) / 22
        x, y = (pool * 0.618034 + 0.37) % 1 * 640 - 20, 566 + 320 * depth**1.6
        width, height = 40 + 190 * depth, 2 + 9 * depth
        canvas.glow((x - width, y - height, x + width, y + height), "#f3b690", 0.5 - 0.3 * depth)


def _draw_lamp(canvas: Canvas, x: float, size: float) -> None:
    """A pole with a globe of light, its halo, and its shimmer in the wet sand below."""
    foot, head = 566 + 190 * size, 566 - 26 * size
    reach, halo = 92 * size, 14 + 86 * size
    canvas.glow((x - 13 * size, foot - 10, x + 13 * size, foot + reach), "#ffcf86", 0.55)
    for dash in range(5):
        y, half = foot + reach * (0.12 + 0.16 * dash), (9 - 1.4 * dash) * size
        canvas.disc((x + (3 if dash % 2 else -3) * size, y), half, "#f0bd83", flatness=0.16)
    canvas.glow((x - halo, head - halo, x + halo, head + halo), "#ffdf94", 0.85)
    canvas.line([(x, foot), (x, head)], "#14172e", max(1.2, 5 * size))
    canvas.disc((x, foot), 8 * size, "#14172e", flatness=0.28)
    canvas.disc((x, head), 2 + 11 * size, "#fff6d8")


WALL, SHADE = "#ebe2d2", "#d9cdb8"
WOOD, WOOD_EDGE = "#b98552", "#94653a"
UPPER_BOARD, LOWER_BOARD = 208, 398


def draw_shelf(with_mug: bool) -> Image.Image:
    """Two boards with books, a clock, a plant, a globe, a radio and perhaps a mug; 640 x 480."""
    canvas = Canvas(640, 480, WALL)
    for board in (UPPER_BOARD, LOWER_BOARD):
        canvas.box((60, board + 18, 600, board + 32), SHADE)
        canvas.box((44, board, 596, board + 18), WOOD_EDGE, radius=3)
        canvas.box((44, board, 596, board + 11), WOOD, radius=3)
    _draw_books(canvas)
    _draw_clock(canvas, (338, UPPER_BOARD - 56))
    _draw_plant(canvas, 506)
    _draw_globe(canvas, (128, LOWER_BOARD - 76))
    _draw_stack(canvas, 214)
    if with_mug:
        _draw_mug(canvas, 372)
    _draw_radio(canvas, 460)
    return canvas.finish()


def _draw_books(canvas: Canvas) -> None:
    x = 74.0
    for width, height, colour in (
        (30, 122, "#a9443a"),
        (22, 138, "#dca846"),
        (34, 112, "#2f6065"),
        (24, 132, "#4b5b8c"),
        (20, 104, "#87506e"),
    ):
        top = UPPER_BOARD - height
        canvas.box((x + width, top + 8, x + width + 9, UPPER_BOARD), SHADE)
        canvas.box((x, top, x + width - 1, UPPER_BOARD), colour, radius=3)
        for band in (16, 22, height - 24):
            canvas.box((x, top + band, x + width - 1, top + band + 3), "#f2e3bd")
        x += width
    lean = [(222, UPPER_BOARD), (246, UPPER_BOARD), (230, 100), (206, 104)]
    canvas.shape([(px + 9, py) for px, py in lean], SHADE)
    canvas.shape(lean, "#d2794c")


def _draw_clock(canvas: Canvas, centre: Point) -> None:
    x, y = centre
    canvas.disc((x + 9, y + 3), 50, SHADE)
    for side in (-1, 1):
        foot = [(30, 40), (40, 56), (28, 56), (16, 44)]
        canvas.shape([(x + side * dx, y + dy) for dx, dy in foot], "#4a3a30")
    canvas.disc(centre, 50, "#4a3a30")
    canvas.disc(centre, 42, "#fbf8f1")
    for hour in range(12):
        turn = math.radians(hour * 30)
        inner, outer = (32 if hour % 3 == 0 else 35), 38
        tick = [(x + r * math.sin(turn), y - r * math.cos(turn)) for r in (inner, outer)]
        canvas.line(tick, "#4a3a30", 3 if hour % 3 == 0 else 1.5)
    canvas.line([(x - 17, y - 11), (x, y)], "#2b2521", 4.5)
    canvas.line([(x + 24, y - 16), (x, y)], "#2b2521", 3)
    canvas.disc(centre, 4, "#c0483a")


def _draw_plant(canvas: Canvas, x: float) -> None:
    top = UPPER_BOARD - 52
    for turn, length, colour in (
        (-58, 74, "#3f7a52"),
        (58, 74, "#356a48"),
        (-32, 96, "#4f9163"),
        (34, 94, "#3f7a52"),
        (2, 104, "#5aa06d"),
    ):
        canvas.shape(_leaf((x, top + 6), turn, length), colour)
    shadow = [(x + 30, top + 12), (x + 42, top + 12), (x + 34, UPPER_BOARD), (x, UPPER_BOARD)]
    canvas.shape(shadow, SHADE)
    pot = [(x - 34, top), (x + 34, top), (x + 25, UPPER_BOARD), (x - 25, UPPER_BOARD)]
    canvas.shape(pot, "#c4694a")
    canvas.box((x - 39, top - 6, x + 39, top + 11), "#d47c5a", radius=3)


def _leaf(root: Point, turn_degrees: float, length: float) -> list[Point]:
    """A leaf that points up from its root, turned clockwise."""
    along = cmath.rect(1, math.radians(turn_degrees - 90))
    steps = [step / 16 for step in range(17)]
    side = [along * complex(t * length, 13 * math.sin(math.pi * t**0.8)) for t in steps]
    other = [along * (edge / along).conjugate() for edge in reversed(side)]
    return [(root[0] + edge.real, root[1] + edge.imag) for edge in side + other]


def _draw_globe(canvas: Canvas, centre: Point) -> None:
    x, y = centre
    canvas.disc((x + 10, y + 4), 46, SHADE)
    canvas.box((x - 4, y + 44, x + 4, y + 70), "#6b4a2f")
    canvas.box((x - 30, y + 66, x + 30, LOWER_BOARD), "#6b4a2f", radius=5)
    canvas.arc(centre, 54, (300, 120), "#8a6340", 5)
    canvas.disc(centre, 46, "#5b9bc0")
    for outline in (
        [(-30, -28), (-8, -36), (4, -24), (-6, -10), (-18, -2), (-26, -10)],
        [(-14, 6), (0, 4), (8, 16), (-2, 36), (-12, 26)],
        [(16, -26), (34, -22), (40, -4), (26, 6), (30, 20), (20, 14), (14, -6)],
    ):
        canvas.shape([(x + dx, y + dy) for dx, dy in outline], "#86b06a")


def _draw_stack(canvas: Canvas, left: float) -> None:
    bottom = float(LOWER_BOARD)
    for inset, width, height, colour in (
        (0, 122, 24, "#355a7c"),
        (8, 108, 18, "#c9973f"),
        (2, 112, 22, "#7a8f5a"),
    ):
        x = left + inset
        canvas.box((x + width, bottom - height + 4, x + width + 9, bottom), SHADE)
        canvas.box((x, bottom - height, x + width, bottom - 1), colour, radius=3)
        canvas.box((x + width - 10, bottom - height + 4, x + width, bottom - 5), "#f6efdf")
        canvas.box((x + 14, bottom - height, x + 19, bottom - 1), "#f2e3bd")
        bottom -= height


def _draw_mug(canvas: Canvas, left: float) -> None:
    top, red = LOWER_BOARD - 54, "#cf3f36"
    canvas.box((left + 30, top + 6, left + 56, LOWER_BOARD), SHADE, radius=4)
    canvas.arc((left + 46, top + 26), 17, (270, 90), red, 7)
    canvas.box((left, top, left + 46, LOWER_BOARD), red, radius=6)
    canvas.box((left + 36, top, left + 46, LOWER_BOARD), "#b3332c", radius=5)
    canvas.disc((left + 23, top + 2), 23, "#8f2722", flatness=0.22)


def _draw_radio(canvas: Canvas, left: float) -> None:
    top, right = LOWER_BOARD - 84, left + 118
    canvas.line([(right - 12, top), (right + 6, top - 46)], "#8b8f94", 2.5)
    canvas.box((right, top + 10, right + 9, LOWER_BOARD), SHADE)
    canvas.box((left, top, right, LOWER_BOARD), "#3c8c86", radius=10)
    canvas.box((left + 10, top + 12, left + 66, LOWER_BOARD - 12), "#2c6f6a", radius=6)
    for slot in range(6):
        y = top + 20 + slot * 9
        canvas.line([(left + 18, y), (left + 58, y)], "#dfeee6", 2.5)
    canvas.disc((right - 27, top + 30), 17, "#f5ecd6")
    canvas.line([(right - 27, top + 30), (right - 18, top + 20)], "#c0483a", 2.5)
    for knob in (right - 38, right - 16):
        canvas.disc((knob, top + 64), 7, "#f5ecd6")


DRAWINGS: dict[str, Callable[[], Image.Image]] = {
    "stock_chart.png": draw_stock_chart,
    "book_cover.jpg": draw_book_cover,
    "shelf_before.png": lambda: draw_shelf(with_mug=True),
    "shelf_after.png": lambda: draw_shelf(with_mug=False),
}

if __name__ == "__main__":
    main()
