"""The engine's policy without a model: requests, pictures and steps as its tests write them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch

from visionq_worker.engine.pages import PagePool
from visionq_worker.engine.request import Handle, Request
from visionq_worker.engine.scheduler import Chunk, Scheduler
from visionq_worker.engine.sequence import Placement, Sequence
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs

PAGE_TOKENS = 4
IMAGE = 0
"""The placeholder: the same token for every part of every picture."""


class Part(NamedTuple):
    """What a step computes of a request: tokens [start, stop) of the one with that number."""

    number: int
    start: int
    stop: int


def placement(name: str, start: int, num_tokens: int) -> Placement:
    """A picture in a prompt. Pictures of one name are the same picture."""
    picture = Picture(np.zeros((336, 336, 3), np.uint8), digest=name.encode())
    return Placement(picture, start, start + num_tokens)


def sequence(
    prompt: Iterable[int],
    placements: Iterable[Placement] = (),
    *,
    number: int = 0,
    is_long: bool = False,
    page_tokens: int = PAGE_TOKENS,
    wants_logprobs: bool = False,
) -> Sequence:
    """A request as the engine has it after submit."""
    ids = list(prompt)
    inputs = ModelInputs(torch.tensor([ids]))
    return Sequence(
        number=number,
        request=Request(inputs=inputs, max_new_tokens=1_000, wants_logprobs=wants_logprobs),
        handle=Handle(),
        token_ids=ids,
        num_prompt=len(ids),
        placements=tuple(placements),
        stop_token_ids=frozenset(),
        seed=0,
        is_long=is_long,
        page_tokens=page_tokens,
    )


class Desk:
    """Pages and a scheduler, with a device that computes at once. Books are checked all the time.

    Requests are numbered from 0 as they come. Answers are 1001, 1002, ... for everyone.
    """

    def __init__(
        self,
        *,
        num_pages: int = 100,
        max_running: int = 8,
        step_tokens: int = 100,
        num_short: int = 1_000,
        keeps_prefixes: bool = True,
    ) -> None:
        self.pool = PagePool(num_pages, PAGE_TOKENS, keeps_prefixes=keeps_prefixes)
        self.scheduler = Scheduler(
            self.pool, max_running=max_running, step_tokens=step_tokens, num_short=num_short
        )
        self._num_submitted = 0
        self._num_short = num_short

    def submit(self, prompt: Iterable[int], placements: Iterable[Placement] = ()) -> Sequence:
        ids = list(prompt)
        submitted = sequence(
            ids, placements, number=self._num_submitted, is_long=len(ids) > self._num_short
        )
        self._num_submitted += 1
        self.scheduler.add(submitted)
        return submitted

    def step(self) -> list[Part]:
        """Plan a step and compute it."""
        chunks = self.plan()
        parts = [Part(chunk.sequence.number, chunk.start, chunk.stop) for chunk in chunks]
        self.compute(chunks)
        return parts

    def plan(self) -> list[Chunk]:
        chunks = self.scheduler.plan()
        self.scheduler.check()
        return chunks

    def compute(self, chunks: Iterable[Chunk]) -> None:
        """The device has done it: who has all tokens computed gets the next one."""
        for chunk in chunks:
            is_last = chunk.is_last
            self.scheduler.advance(chunk)
            if is_last:
                chunk.sequence.token_ids.append(1_001 + chunk.sequence.num_generated)
        self.scheduler.step_succeeded()
        self.scheduler.check()

    def run_until_length(self, followed: Sequence, num_tokens: int) -> None:
        """Steps until the request has so many tokens."""
        while len(followed) < num_tokens:
            assert self.step(), "nothing goes on"

    @property
    def waiting(self) -> list[int]:
        return [one.number for one in self.scheduler.waiting]

    @property
    def running(self) -> list[int]:
        return [one.number for one in self.scheduler.running]
