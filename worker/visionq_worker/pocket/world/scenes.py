"""Scenes of a few coloured shapes, and pairs of scenes that differ in one thing."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from visionq_worker.pocket.world.canvas import PALE, Box, Canvas, Colour
from visionq_worker.pocket.world.level import LONGER_SIDE_PX, Level
from visionq_worker.pocket.world.sorts import Asked, Drawn

SIDE_PX = LONGER_SIDE_PX
CELLS = 3
"""Shapes stand in the cells of a grid, one in each at most."""
MIN_SHAPES = 2
BOX_SCALE = 1000

SHAPES = ("circle", "square", "triangle", "diamond")
COLOURS: dict[str, Colour] = {
    "red": (210, 40, 40),
    "green": (40, 150, 70),
    "blue": (40, 80, 200),
    "yellow": (235, 195, 30),
    "purple": (140, 60, 170),
    "black": (25, 25, 30),
}


@dataclass(frozen=True, slots=True)
class Thing:
    """A shape of the scene, at its cell."""

    shape: str
    colour: str
    row: int
    column: int
    box: Box

    @property
    def label(self) -> str:
        return f"{self.colour} {self.shape}"


def any_colour(choose: Random) -> Colour:
    return COLOURS[choose.choice(list(COLOURS))]


def draw_scene(choose: Random, level: Level) -> Drawn:
    things = _things(choose, level)
    canvas = _drawn(things, choose.choice(PALE))
    found = [{"label": thing.label, "box": _scaled(thing.box)} for thing in things]
    labels = [thing.label for thing in things]
    listed = ", ".join(f"a {label}" for label in labels)
    return Drawn(
        (canvas,),
        (
            Asked("detect", None, json.dumps(found), found),
            Asked("describe", None, f"{listed[0].upper()}{listed[1:]}.", labels),
        ),
    )


def draw_pair(choose: Random, level: Level) -> Drawn:
    before = _things(choose, level)
    at = choose.randrange(len(before))
    thing, ground = before[at], choose.choice(PALE)
    rest = [*before[:at], *before[at + 1 :]]
    match choose.choice(("gone", "new", "colour", "shape")):
        case "gone":
            after, said = rest, f"The {thing.label} is missing in the second picture."
        case "new":
            before, after = rest, before
            said = f"The {thing.label} is new in the second picture."
        case "colour":
            colour = choose.choice([name for name in COLOURS if name != thing.colour])
            after = [*rest, replace(thing, colour=colour)]
            said = f"The {thing.label} is {colour} in the second picture."
        case _:
            shape = choose.choice([name for name in SHAPES if name != thing.shape])
            after = [*rest, replace(thing, shape=shape)]
            said = f"The {thing.label} is a {shape} in the second picture."
    canvases = (_drawn(before, ground), _drawn(after, ground))
    return Drawn(canvases, (Asked("compare", None, said, {"changed": thing.label}),))


def _things(choose: Random, level: Level) -> list[Thing]:
    """In reading order. No two look alike, so that each can be named."""
    count = choose.randint(MIN_SHAPES, level.max_shapes)
    cells = sorted(choose.sample(range(CELLS * CELLS), count))
    looks = choose.sample([(shape, colour) for shape in SHAPES for colour in COLOURS], count)
    return [
        Thing(shape, colour, *divmod(cell, CELLS), _box(choose, *divmod(cell, CELLS)))
        for cell, (shape, colour) in zip(cells, looks, strict=True)
    ]


def _box(choose: Random, row: int, column: int) -> Box:
    """Somewhere in its cell."""
    cell = SIDE_PX / CELLS
    side = choose.uniform(0.4, 0.8) * cell
    left = column * cell + choose.uniform(0.05 * cell, 0.95 * cell - side)
    top = row * cell + choose.uniform(0.05 * cell, 0.95 * cell - side)
    return (left, top, left + side, top + side)


def _drawn(things: Sequence[Thing], ground: Colour) -> Canvas:
    canvas = Canvas.blank(SIDE_PX, SIDE_PX, ground)
    for thing in things:
        canvas.shape(thing.shape, thing.box, COLOURS[thing.colour], thing.label)
    return canvas


def _scaled(box: Box) -> list[int]:
    """As the kind `detect` asks for boxes: in thousandths of the picture."""
    return [round(BOX_SCALE * edge / SIDE_PX) for edge in box]
