"""Drawn pictures as the service puts them to the model: pixels, tokens, what each patch shows."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from visionq.kinds import BUILTIN_KINDS
from visionq_worker.kinds import chat
from visionq_worker.model.geometry import PATCH_PX, TILE_PX
from visionq_worker.model.pixels import Picture
from visionq_worker.model.small import special_id
from visionq_worker.pocket.network import GRID, NUM_CROPS, SIDE_PX, processor
from visionq_worker.pocket.text import CHARACTERS, answer_ids, answer_parts, is_digit
from visionq_worker.pocket.world.level import LEVELS
from visionq_worker.pocket.world.samples import Sample, samples
from visionq_worker.pocket.world.scenes import COLOURS, SHAPES

if TYPE_CHECKING:
    from visionq_worker.pocket.world.canvas import Canvas

NOTHING = 0
THINGS = (
    *(character for character in CHARACTERS if character.isascii()),
    "bar",
    *(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES),
)
"""What a patch may show; its class is its place here, and one more."""
NUM_CLASSES = len(THINGS) + 1
_CLASS = {thing: number for number, thing in enumerate(THINGS, 1)}

SIDE_PATCHES = TILE_PX // PATCH_PX
NUM_VIEWS = GRID.num_tiles

BOX_WEIGHT = 0.005
"""Of a digit of a box beside any other token. Edges are hardly ever known to the thousandth: at
full weight they were nine tenths of the loss of a batch, and what else it had to say was lost."""

FORM_WEIGHT = 0.1
"""Of a token of a document that its schema holds the model to, beside those of its values. Not
zero: a key may be written letter by letter, too, and its phrase should be taken."""


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked about an example's pictures: the tokens after them, and those of the answer."""

    kind: str
    prompt: list[int]
    answer: list[int]
    weights: list[float]
    """Of the answer's tokens in the loss."""


@dataclass(frozen=True, slots=True)
class Example:
    """Pictures and what is asked about them.

    pixels (pictures, 672, 672, 3); shown (pictures, 5, 576): a class per patch. `prefix`: tokens up
    to the last of the pictures, with which every prompt begins.
    """

    sort: str
    level: int
    pixels: NDArray[np.uint8]
    shown: NDArray[np.int64]
    prefix: list[int]
    questions: list[Question]


def example(sort: str, seed: int, level: int) -> Example:
    """The picture of that seed as the service would put it to the model."""
    drawn = samples(sort, seed, LEVELS[level])
    canvases = drawn[0].canvases
    pictures = [Picture.of(canvas.image, NUM_CROPS) for canvas in canvases]
    ids = []
    for one in drawn:
        words = BUILTIN_KINDS[one.kind].words(one.question, one.schema)
        inputs = processor()(chat(len(pictures), words), pictures, NUM_CROPS)
        ids.append(inputs.input_ids[0].tolist())
    length = len(ids[0]) - ids[0][::-1].index(special_id("image"))
    return Example(
        sort=sort,
        level=level,
        pixels=np.stack([picture.pixels for picture in pictures]),
        shown=np.stack([shown(canvas) for canvas in canvases]),
        prefix=ids[0][:length],
        questions=[_question(one, prompt[length:]) for one, prompt in zip(drawn, ids, strict=True)],
    )


def _question(drawn: Sample, prompt: list[int]) -> Question:
    answer = [*answer_ids(drawn.answer), special_id("end")]
    if drawn.schema is None:
        weights = [_weight(drawn.kind, token) for token in answer]
    else:
        weights = [*_weights_of_document(drawn), FORM_WEIGHT]
        assert len(weights) == len(answer), "JSON is ASCII: one token is one part"
    return Question(drawn.kind, prompt, answer, weights)


def _weight(kind: str, token: int) -> float:
    """No label has a digit."""
    return BOX_WEIGHT if kind == "detect" and is_digit(token) else 1.0


def _weights_of_document(drawn: Sample) -> list[float]:
    """Per token of its answer, without the end."""
    assert drawn.schema is not None
    keys, required = [*drawn.value], drawn.schema.get("required", [])
    counts = [False]
    for number, key in enumerate(keys, 1):
        written = json.dumps(drawn.value[key])
        opening = written.startswith('"')
        # A key's token says whether there is a value, where there may be none; else it is form.
        may_be_null = "anyOf" in drawn.schema["properties"][key]
        counts += [False] * len(f"{json.dumps(key)}:") + [may_be_null] * (1 + opening)
        counts += [True] * (len(written) - opening)
        may_end = not any(other in required for other in keys[number:])
        counts += [may_end] * len(", ") if number < len(keys) else [False]
    assert len(counts) == len(drawn.answer)
    ends = accumulate(len(part) for part in answer_parts(drawn.answer))
    return [1.0 if counts[end - 1] else FORM_WEIGHT for end in ends]


def shown(canvas: Canvas) -> NDArray[np.int64]:
    """What stands in the middle of each patch of each view, the global one first: (5, 576)."""
    left, top = (SIDE_PX - canvas.image.width) // 2, (SIDE_PX - canvas.image.height) // 2
    fine = np.full((2 * SIDE_PATCHES, 2 * SIDE_PATCHES), NOTHING)
    coarse = np.full((SIDE_PATCHES, SIDE_PATCHES), NOTHING)
    for mark in canvas.marks:
        box = (mark.box[0] + left, mark.box[1] + top, mark.box[2] + left, mark.box[3] + top)
        for classes, step in ((fine, PATCH_PX), (coarse, 2 * PATCH_PX)):
            # Patch i has its middle at (i + 1/2) steps.
            begin_x, begin_y, end_x, end_y = (max(0, round(edge / step)) for edge in box)
            classes[begin_y:end_y, begin_x:end_x] = _CLASS[mark.what]
    tiles = fine.reshape(GRID.rows, SIDE_PATCHES, GRID.columns, SIDE_PATCHES).swapaxes(1, 2)
    return np.concatenate([coarse[None], tiles.reshape(-1, SIDE_PATCHES, SIDE_PATCHES)]).reshape(
        NUM_VIEWS, -1
    )
