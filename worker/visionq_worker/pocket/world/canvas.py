"""A surface that remembers what was drawn where.

What it remembers is for training alone: which glyph or shape each place shows, as the model's
features are asked about it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from visionq_worker.pocket.world.fonts import font, size_for

Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in pixels."""
Colour = tuple[int, int, int]

DARK: tuple[Colour, ...] = ((24, 28, 36), (30, 50, 90), (90, 24, 30), (20, 70, 50), (70, 40, 90))
PALE: tuple[Colour, ...] = (
    (250, 250, 248),
    (244, 236, 220),
    (226, 236, 246),
    (232, 244, 228),
    (248, 228, 228),
)
NUM_NORMAL = 1 << 22
"""Three of the largest pictures, so that hardly ever two have the same noise at the same place."""
MIN_CONTRAST = 110
"""Between the lightness of letters and ground, of 255."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Something drawn: a letter, a bar, or a shape with its colour."""

    what: str
    box: Box


@dataclass(slots=True)
class Canvas:
    """An RGB picture in the making, with its marks."""

    image: Image.Image
    ground: Colour
    marks: list[Mark] = field(default_factory=list)

    @classmethod
    def blank(cls, width: int, height: int, ground: Colour) -> Canvas:
        return cls(Image.new("RGB", (width, height), ground), ground)

    @property
    def draw(self) -> ImageDraw.ImageDraw:
        return ImageDraw.Draw(self.image)

    def text(
        self, at: tuple[float, float], text: str, face: str, capital_px: int, ink: Colour
    ) -> Box:
        """Draw a line whose top left corner is there, each letter with a mark. Returns its box."""
        letters = font(face, size_for(face, capital_px))
        left, top = at
        self.draw.text(at, text, ink, letters, anchor="la")
        for index, letter in enumerate(text):
            if letter == " ":
                continue
            # Up to and without the letter: kerning is part of the distance.
            begin = left + letters.getlength(text[: index + 1]) - letters.getlength(letter)
            box = letters.getbbox(letter, anchor="la")
            self.marks.append(
                Mark(letter, (begin + box[0], top + box[1], begin + box[2], top + box[3]))
            )
        whole = letters.getbbox(text, anchor="la")
        return (left + whole[0], top + whole[1], left + whole[2], top + whole[3])

    def shape(self, name: str, box: Box, fill: Colour, what: str | None = None) -> None:
        """A filled circle, square, triangle, diamond or bar; `what` it is called, if not so."""
        left, top, right, bottom = box
        match name:
            case "circle":
                self.draw.ellipse(box, fill)
            case "square" | "bar":
                self.draw.rectangle(box, fill)
            case "triangle":
                corners = [((left + right) / 2, top), (right, bottom), (left, bottom)]
                self.draw.polygon(corners, fill)
            case "diamond":
                middle, centre = (left + right) / 2, (top + bottom) / 2
                corners = [(middle, top), (right, centre), (middle, bottom), (left, centre)]
                self.draw.polygon(corners, fill)
            case _:
                raise ValueError(f"no shape {name!r}")
        self.marks.append(Mark(what or name, box))

    def turned(self, degrees: float) -> Canvas:
        """The picture turned about its middle, counterclockwise; marks keep upright boxes."""
        if not degrees:
            return self
        image = self.image.rotate(degrees, Image.Resampling.BILINEAR, fillcolor=self.ground)
        middle = (self.image.width / 2, self.image.height / 2)
        marks = [Mark(mark.what, _turned(mark.box, middle, degrees)) for mark in self.marks]
        return Canvas(image, self.ground, marks)

    def with_noise(self, deviation: float, choose: Random) -> Canvas:
        """The picture with normal noise of that standard deviation in each channel."""
        if not deviation:
            return self
        pixels = np.asarray(self.image)
        noise = _normal_numbers()
        begin = choose.randrange(noise.size - pixels.size)
        noisy = noise[begin : begin + pixels.size].reshape(pixels.shape) * np.float32(deviation)
        noisy += pixels
        np.clip(noisy, 0, 255, out=noisy)
        return Canvas(Image.fromarray(noisy.astype(np.uint8)), self.ground, self.marks)


@cache
def _normal_numbers() -> NDArray[np.float32]:
    """Each picture's noise is a stretch of these: drawing it anew took most of the time."""
    return np.random.default_rng(0).standard_normal(NUM_NORMAL, dtype=np.float32)


def ink_on(ground: Colour, choose: Random) -> Colour:
    """A colour that can be read on it."""
    inks = [ink for ink in (*DARK, *PALE) if abs(lightness(ink) - lightness(ground)) > MIN_CONTRAST]
    return choose.choice(inks)


def lightness(colour: Colour) -> float:
    """0 to 255, as the eye weighs the channels."""
    red, green, blue = colour
    return 0.299 * red + 0.587 * green + 0.114 * blue


def _turned(box: Box, middle: tuple[float, float], degrees: float) -> Box:
    """Around a box's turned middle, as large as it was: the angles are small."""
    angle = np.deg2rad(degrees)
    x, y = (box[0] + box[2]) / 2 - middle[0], (box[1] + box[3]) / 2 - middle[1]
    # The picture's second axis points down, so that counterclockwise is the other way round.
    new_x = middle[0] + x * np.cos(angle) + y * np.sin(angle)
    new_y = middle[1] - x * np.sin(angle) + y * np.cos(angle)
    half_width, half_height = (box[2] - box[0]) / 2, (box[3] - box[1]) / 2
    return (
        float(new_x - half_width),
        float(new_y - half_height),
        float(new_x + half_width),
        float(new_y + half_height),
    )
