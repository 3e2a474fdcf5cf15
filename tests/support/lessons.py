"""A model and batches for the trainer's tests: of the pocket model's tokens, and much quicker."""

from __future__ import annotations

from dataclasses import replace

import torch

from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.tiny import tiny_config
from visionq_worker.pocket.network import new_model
from visionq_worker.pocket.training.batches import Batch, batch
from visionq_worker.pocket.training.examples import Example, example
from visionq_worker.pocket.world.level import HARDEST, LEVELS

CPU = torch.device("cpu")
HARD = LEVELS.index(HARDEST)


def small_model() -> Phi3VForCausalLM:
    """The same each time, untrained."""
    return new_model(0, tiny_config())


def singles() -> Batch:
    return batch([example("cover", 1, 0), example("table", 2, 0)])


def pairs() -> Batch:
    return batch([example("pair", 3, 0)])


def asked_of_kind(kind: str) -> Example:
    """A scene with one question alone, of that kind: the easiest are not turned and have all."""
    one = example("scene", 0, 0)
    (question,) = (question for question in one.questions if question.kind == kind)
    return replace(one, questions=[question])


def with_one_document() -> Example:
    one = example("document", 0, 0)
    return replace(one, questions=one.questions[:1])


def answers_of(made: Batch) -> list[list[int]]:
    """The tokens of each question's answer."""
    answers: list[list[int]] = [[] for _ in made.sorts]
    for asked in made.asked:
        for task, token in zip(asked.tasks.tolist(), asked.answers.tolist(), strict=True):
            answers[task].append(token)
    return answers
