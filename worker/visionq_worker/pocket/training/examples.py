"""Drawn pictures as batches of tensors: pixels, tokens, and what each patch shows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import IterableDataset, get_worker_info

from visionq.kinds import BUILTIN_KINDS
from visionq_worker.kinds import chat
from visionq_worker.model.geometry import PATCH_PX, TILE_PX
from visionq_worker.model.small import special_id
from visionq_worker.pocket.network import GRID, NUM_CROPS, SIDE_PX, processor
from visionq_worker.pocket.text import CHARACTERS, answer_ids, is_digit
from visionq_worker.pocket.world.level import LEVELS
from visionq_worker.pocket.world.samples import Sample, sample
from visionq_worker.pocket.world.scenes import COLOURS, SHAPES

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

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
LENGTH_STEP = 128
"""Sequences are padded to a multiple of this: few shapes, so that little is compiled anew."""

FIRST_TRAINING_SEED = 1_000_000
"""Seeds below are for evaluation and are never trained on."""

SINGLE_SORTS: Mapping[str, float] = {
    "cover": 0.25,
    "chart": 0.05,
    "table": 0.15,
    "scene": 0.4,
    "document": 0.15,
}
"""How often each sort of one picture comes. A document's prompt has its schema in it, 600 tokens
where the others have up to 200, and the whole batch is padded to that."""
PAIRS: Mapping[str, float] = {"pair": 1.0}
EASIER = 0.3
"""How many pictures are of a level that has been passed, where nothing else is said."""

BOX_WEIGHT = 0.005
"""Of a digit of a box beside any other token. Edges are hardly ever known to the thousandth: at
full weight they were nine tenths of the loss of a batch, and what else it had to say was lost."""


@dataclass(frozen=True, slots=True)
class Example:
    """One task. pixels (pictures, 672, 672, 3); shown (pictures, 5, 576): a class per patch."""

    sort: str
    kind: str
    level: int
    pixels: NDArray[np.uint8]
    shown: NDArray[np.int64]
    prompt: list[int]
    answer: list[int]
    weights: list[float]
    """Of the answer's tokens in the loss."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Tasks with as many pictures each, and all tokens of their answers.

    pixels (pictures, 672, 672, 3) uint8; shown (pictures, 5, 576); ids (tasks, tokens). Per token
    of an answer: `answers`, what it is; `asked`, which of all the ids comes before it; `tasks`,
    whose it is; `weights`, how much it counts.
    """

    sorts: list[str]
    kinds: list[str]
    levels: list[int]
    pixels: torch.Tensor
    shown: torch.Tensor
    ids: torch.Tensor
    answers: torch.Tensor
    asked: torch.Tensor
    tasks: torch.Tensor
    weights: torch.Tensor

    @property
    def is_judged(self) -> torch.Tensor:
        """Per token of an answer: all but the edges of boxes."""
        return self.weights == 1

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        of_answers = (self.answers, self.asked, self.tasks, self.weights)
        return (self.pixels, self.shown, self.ids, *of_answers)

    def to(self, device: torch.device) -> Batch:
        tensors = (one.to(device) for one in self.tensors)
        return Batch(self.sorts, self.kinds, self.levels, *tensors)


def example(sort: str, seed: int, level: int) -> Example:
    """The picture of that seed as the service would put it to the model."""
    return _example(sample(sort, seed, LEVELS[level]), level)


def batch(examples: Sequence[Example]) -> Batch:
    longest = max(len(one.prompt) + len(one.answer) for one in examples)
    length = -(-longest // LENGTH_STEP) * LENGTH_STEP
    ids = torch.full((len(examples), length), special_id("endoftext"))
    answers: list[int] = []
    asked: list[int] = []
    tasks: list[int] = []
    for row, one in enumerate(examples):
        begin, end = len(one.prompt), len(one.prompt) + len(one.answer)
        ids[row, :end] = torch.tensor([*one.prompt, *one.answer])
        answers += one.answer
        asked += range(row * length + begin - 1, row * length + end - 1)
        tasks += [row] * len(one.answer)
    return Batch(
        sorts=[one.sort for one in examples],
        kinds=[one.kind for one in examples],
        levels=[one.level for one in examples],
        pixels=torch.from_numpy(np.concatenate([one.pixels for one in examples])),
        shown=torch.from_numpy(np.concatenate([one.shown for one in examples])),
        ids=ids,
        answers=torch.tensor(answers),
        asked=torch.tensor(asked),
        tasks=torch.tensor(tasks),
        weights=torch.tensor([weight for one in examples for weight in one.weights]),
    )


class Batches(IterableDataset[Batch]):
    """Endless batches of fresh pictures, of the level that is reached and of easier ones.

    Each process that draws takes every n-th seed. `level` is read by all of them, set by the
    trainer.
    """

    def __init__(
        self,
        sorts: Mapping[str, float],
        size: int,
        first_seed: int,
        level: Synchronized[int],
        easier: float,
    ) -> None:
        self._easier = easier
        self._sorts = sorts
        self._size = size
        self._first_seed = first_seed
        self._level = level

    def __iter__(self) -> Iterator[Batch]:
        worker: Any = get_worker_info()
        number, count = (worker.id, worker.num_workers) if worker else (0, 1)
        if worker:
            torch.set_num_threads(1)
        seed = self._first_seed + number
        while True:
            examples = []
            for _ in range(self._size):
                examples.append(self._next(seed))
                seed += count
            yield batch(examples)

    def _next(self, seed: int) -> Example:
        choose = Random(f"batches/{seed}")  # noqa: S311  # to be the same again
        (sort,) = choose.choices([*self._sorts], [*self._sorts.values()])
        level: int = self._level.value
        if level and choose.random() < self._easier:
            level = choose.randrange(level)
        return example(sort, seed, level)


def _example(drawn: Sample, level: int) -> Example:
    kind = BUILTIN_KINDS[drawn.kind]
    prompt = chat(len(drawn.canvases), kind.words(drawn.question, drawn.schema))
    inputs = processor()(prompt, [canvas.image for canvas in drawn.canvases], NUM_CROPS)
    answer = [*answer_ids(drawn.answer), special_id("end")]
    return Example(
        sort=drawn.sort,
        kind=drawn.kind,
        level=level,
        pixels=np.stack([picture.pixels for picture in inputs.pictures]),
        shown=np.stack([shown(canvas) for canvas in drawn.canvases]),
        prompt=inputs.input_ids[0].tolist(),
        answer=answer,
        weights=[_weight(drawn.kind, token) for token in answer],
    )


def _weight(kind: str, token: int) -> float:
    """No label has a digit."""
    return BOX_WEIGHT if kind == "detect" and is_digit(token) else 1.0


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
