"""An engine that answers from a script: what surrounds the model can be tested and timed alone.

It keeps the interface of `visionq_worker.engine.request.Engine` and runs the same tests as the
reference engine where those do not look at the text.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any

import torch
from PIL.Image import Image

from visionq_worker.engine.errors import EngineError
from visionq_worker.engine.request import (
    Completion,
    EngineInfo,
    FinishReason,
    Handle,
    LogitMask,
    Request,
)
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs

TOKENS_PER_IMAGE = 10


@dataclass(frozen=True)
class Unmasked:
    schema: Mapping[str, Any]

    def allowed(self, token_ids: Sequence[int]) -> None:
        return None


class ScriptedEngine:
    """Gives `answer` word by word, one per `seconds_per_token`; raises `error` when it is set."""

    def __init__(
        self,
        answer: str = "a scripted answer",
        *,
        seconds_per_token: float = 0.0,
        error: EngineError | None = None,
        max_context_tokens: int = 4096,
    ) -> None:
        self.info = EngineInfo(
            model="scripted",
            revision="1",
            dtype="none",
            device="none",
            attention="none",
            max_context_tokens=max_context_tokens,
        )
        self.words = answer.split()
        self.seconds_per_token = seconds_per_token
        self.error = error
        self.requests: list[Request] = []
        self.is_closed = False

    def encode(
        self, prompt: str, images: Sequence[Image | Picture], _num_crops: int
    ) -> ModelInputs:
        num_image_tokens = TOKENS_PER_IMAGE * len(images)
        return ModelInputs(
            input_ids=torch.zeros((1, len(prompt.split()) + num_image_tokens), dtype=torch.long),
            num_image_tokens=num_image_tokens,
            image_order=tuple(range(len(images))),
        )

    def mask(self, schema: Mapping[str, Any]) -> LogitMask:
        """One that forbids nothing: what is said stands in the script. Its schema is kept."""
        return Unmasked(schema)

    def submit(self, request: Request) -> Handle:
        self.requests.append(request)
        handle = Handle()
        if self.error is not None:
            handle.fail(self.error)
        elif self.seconds_per_token:
            threading.Thread(target=self._answer_slowly, args=(request, handle)).start()
        else:
            handle.complete(self._completion(request, handle, len(self.words), 0.0))
        return handle

    def decode(self, token_ids: Iterable[int]) -> str:
        return " ".join(self.words[token % len(self.words)] for token in token_ids)

    def stalled_seconds(self) -> float:
        return 0.0

    def close(self) -> None:
        self.is_closed = True

    def _answer_slowly(self, request: Request, handle: Handle) -> None:
        began = perf_counter()
        pause = threading.Event()
        for token_id in range(min(len(self.words), request.max_new_tokens)):
            if handle.is_cancelled or is_late(request):
                break
            pause.wait(self.seconds_per_token)
            handle.push(token_id)
        seconds = perf_counter() - began
        handle.complete(self._completion(request, handle, handle.num_tokens, seconds))

    def _completion(
        self, request: Request, handle: Handle, num_words: int, seconds: float
    ) -> Completion:
        num_tokens = min(num_words, request.max_new_tokens)
        return Completion(
            token_ids=tuple(range(num_tokens)),
            finish_reason=self._finish_reason(request, handle, num_tokens),
            prefill_seconds=0.0,
            decode_seconds=seconds,
        )

    def _finish_reason(self, request: Request, handle: Handle, num_tokens: int) -> FinishReason:
        if handle.is_cancelled:
            return "cancelled"
        if is_late(request):
            return "expired"
        return "stop" if num_tokens == len(self.words) else "length"


def is_late(request: Request) -> bool:
    return request.deadline is not None and monotonic() >= request.deadline
