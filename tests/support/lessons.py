"""A model and batches for the trainer's tests: of the pocket model's tokens, and much quicker."""

from __future__ import annotations

import torch

from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.tiny import tiny_config
from visionq_worker.pocket.network import new_model
from visionq_worker.pocket.training.examples import Batch, batch, example
from visionq_worker.pocket.world.level import HARDEST, LEVELS

CPU = torch.device("cpu")
HARD = LEVELS.index(HARDEST)


def small_model() -> Phi3VForCausalLM:
    """Of the tokens that the pocket model has, and much quicker."""
    return new_model(0, tiny_config())


def singles() -> Batch:
    return batch([example("cover", 1, 0), example("table", 2, 0)])


def pairs() -> Batch:
    return batch([example("pair", 3, 0)])
