"""The engine's door: refuses what cannot be run, before it is a neighbour's trouble.

Runs in the thread that submits.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from itertools import count

import torch

from visionq_worker.engine.errors import RequestInvalid, RequestTooLong
from visionq_worker.engine.loops import LoopWatch
from visionq_worker.engine.request import Handle, Request
from visionq_worker.engine.runner import Runner
from visionq_worker.engine.sequence import Placement, Sequence
from visionq_worker.model.processor import ModelInputs, Phi3VProcessor


class Intake:
    """Makes sequences of requests. Any thread."""

    def __init__(
        self,
        runner: Runner,
        processor: Phi3VProcessor,
        *,
        max_context_tokens: int,
        num_vocabulary: int,
    ) -> None:
        self._runner = runner
        self._processor = processor
        self._max_context_tokens = max_context_tokens
        self._num_vocabulary = num_vocabulary
        self._numbers = count()

    def sequence(self, request: Request, on_cancel: Callable[[Sequence], None]) -> Sequence:
        """The request on its way, with a handle. Raises a `RequestRefused`."""
        self._check(request)
        inputs = request.inputs
        stop_token_ids = request.stop_token_ids
        if stop_token_ids is None:
            stop_token_ids = self._processor.stop_token_ids
        sequence = Sequence(
            number=next(self._numbers),
            request=request,
            handle=Handle(on_cancel=lambda: on_cancel(sequence)),
            token_ids=inputs.input_ids[0].tolist(),
            num_prompt=inputs.num_tokens,
            placements=tuple(
                Placement(picture, start, start + picture.grid.num_tokens)
                for start, picture in zip(inputs.image_starts, inputs.pictures, strict=True)
            ),
            stop_token_ids=stop_token_ids,
            seed=secrets.randbits(64) if request.seed is None else request.seed,
            is_long=inputs.num_tokens > self._runner.num_short,
            loop_watch=LoopWatch(request.loop_tokens) if request.loop_tokens else None,
            page_tokens=self._runner.page_tokens,
        )
        return sequence

    def _check(self, request: Request) -> None:
        inputs, context = request.inputs, self._max_context_tokens
        if request.max_new_tokens < 1 or not inputs.num_tokens:
            raise RequestInvalid("a request has a prompt and asks for at least one token")
        # Written so that NaN is refused as well.
        if not 0 <= request.temperature < math.inf or not 0 < request.top_p <= 1:
            raise RequestInvalid("temperature is at least 0, top_p is above 0 and at most 1")
        most = inputs.num_tokens + request.max_new_tokens
        if most > context:
            raise RequestTooLong(f"{most} tokens do not fit into a context of {context}")
        # The last token is never computed, so it needs no place.
        room = self._runner.num_pages * self._runner.page_tokens
        if most - 1 > room:
            raise RequestTooLong(f"{most} tokens do not fit into a cache of {room}")
        smallest, largest = inputs.input_ids.aminmax()
        if smallest < 0 or largest >= self._num_vocabulary:
            raise RequestInvalid(f"token ids lie between 0 and {self._num_vocabulary - 1}")
        self._check_placeholders(inputs)

    def _check_placeholders(self, inputs: ModelInputs) -> None:
        is_image = inputs.input_ids[0] == self._runner.image_token_id
        filled = torch.zeros_like(is_image)
        for start, picture in zip(inputs.image_starts, inputs.pictures, strict=True):
            filled[start : start + picture.grid.num_tokens] = True
        if not torch.equal(is_image, filled):
            raise RequestInvalid("the prompt's placeholders are not where its images are")
