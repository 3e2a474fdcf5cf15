"""Batches of examples as tensors.

A picture's tokens are most of a sequence. What is asked about it shares them, so that a second
question costs little.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import IterableDataset, get_worker_info

from visionq_worker.model.small import special_id
from visionq_worker.pocket.training.examples import Example, Question, example

if TYPE_CHECKING:
    from multiprocessing.sharedctypes import Synchronized

LENGTHS = (96, 192, 288, 384, 512, 768, 1024, 2048, 4096)
"""Questions with their answers are padded to the next of these, and those of one length are run
together."""

FIRST_TRAINING_SEED = 1_000_000
"""Seeds below are for evaluation and are never trained on."""

SINGLE_SORTS: Mapping[str, float] = {
    "cover": 0.25,
    "chart": 0.05,
    "line-chart": 0.1,
    "table": 0.1,
    "scene": 0.35,
    "document": 0.15,
}
"""How often each sort of one picture comes. A document's prompt has its schema in it, 600 tokens
where the others have up to 200, and there are up to three to a picture."""
PAIRS: Mapping[str, float] = {"pair": 1.0}
EASIER = 0.3
"""How many pictures are of a level that has been passed, where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Questions:
    """Questions of about the same length, with their answers.

    ids (questions, tokens): after the prefix, padded. `of` (questions,): which example's. Per token
    of an answer: `answers`, what it is; `before`, which of all the ids comes before it; `tasks`,
    which question's of the batch it is; `weights`, how much it counts.
    """

    ids: torch.Tensor
    of: torch.Tensor
    answers: torch.Tensor
    before: torch.Tensor
    tasks: torch.Tensor
    weights: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return (self.ids, self.of, self.answers, self.before, self.tasks, self.weights)


@dataclass(frozen=True, slots=True)
class Batch:
    """Examples with as many pictures each, and all that is asked about them.

    `sorts`, `kinds`, `levels`: per question, in the order of `asked`. pixels (pictures, 672, 672,
    3) uint8; shown (pictures, 5, 576); prefixes (examples, tokens). `features` (views, 576, width):
    what a frozen tower sees, instead of the pixels.
    """

    sorts: list[str]
    kinds: list[str]
    levels: list[int]
    pixels: torch.Tensor
    shown: torch.Tensor
    prefixes: torch.Tensor
    asked: list[Questions]
    features: torch.Tensor | None = None

    @property
    def num_pictures(self) -> int:
        return len(self.shown)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        of_questions = (tensor for asked in self.asked for tensor in asked.tensors)
        return (self.pixels, self.shown, self.prefixes, *of_questions)

    def to(self, device: torch.device) -> Batch:
        return replace(
            self,
            pixels=self.pixels.to(device),
            shown=self.shown.to(device),
            prefixes=self.prefixes.to(device),
            asked=[Questions(*(one.to(device) for one in asked.tensors)) for asked in self.asked],
        )

    def seen(self, features: torch.Tensor) -> Batch:
        """With what the tower sees instead of pixels."""
        return replace(self, pixels=self.pixels[:0], features=features)


def batch(examples: Sequence[Example]) -> Batch:
    sorted_out: dict[int, list[tuple[int, Question]]] = defaultdict(list)
    for number, one in enumerate(examples):
        for question in one.questions:
            length = _padded(len(question.prompt) + len(question.answer))
            sorted_out[length].append((number, question))
    asked: list[Questions] = []
    order: list[tuple[int, Question]] = []
    for length, questions in sorted(sorted_out.items()):
        asked.append(_questions(questions, length, len(order)))
        order += questions
    return Batch(
        sorts=[examples[number].sort for number, _ in order],
        kinds=[question.kind for _, question in order],
        levels=[examples[number].level for number, _ in order],
        pixels=torch.from_numpy(np.concatenate([one.pixels for one in examples])),
        shown=torch.from_numpy(np.concatenate([one.shown for one in examples])),
        prefixes=torch.tensor([one.prefix for one in examples]),
        asked=asked,
    )


def _padded(length: int) -> int:
    """To the next of few lengths: a document is many times as long as the list of a scene."""
    return next(most for most in LENGTHS if most >= length)


def _questions(questions: Sequence[tuple[int, Question]], length: int, first: int) -> Questions:
    """Each with its example's number; `first`: how many of the batch's come before them."""
    ids = torch.full((len(questions), length), special_id("endoftext"))
    answers: list[int] = []
    before: list[int] = []
    tasks: list[int] = []
    for row, (_, one) in enumerate(questions):
        begin, end = len(one.prompt), len(one.prompt) + len(one.answer)
        ids[row, :end] = torch.tensor([*one.prompt, *one.answer])
        answers += one.answer
        before += range(row * length + begin - 1, row * length + end - 1)
        tasks += [first + row] * len(one.answer)
    return Questions(
        ids=ids,
        of=torch.tensor([number for number, _ in questions]),
        answers=torch.tensor(answers),
        before=torch.tensor(before),
        tasks=torch.tensor(tasks),
        weights=torch.tensor([weight for _, one in questions for weight in one.weights]),
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
            level = easier_level(choose, level)
        return example(sort, seed, level)


def easier_level(choose: Random, level: int) -> int:
    """One below, the nearer the oftener: each comes twice as often as the one before it."""
    (easier,) = choose.choices(range(level), [2**number for number in range(level)])
    return easier
