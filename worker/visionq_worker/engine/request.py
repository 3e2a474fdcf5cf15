"""What goes into an engine and what comes out: the interface every engine keeps.

`Request` -> `engine.submit` -> `Handle` -> `Completion`. Engines differ in how they run requests;
callers see only this file.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

if TYPE_CHECKING:
    from PIL.Image import Image

    from visionq_worker.model.processor import ModelInputs

FinishReason = Literal["stop", "length", "cancelled"]


class EngineError(Exception):
    """The engine could not answer this request. `is_transient`: another try may succeed."""

    def __init__(self, message: str, *, is_transient: bool = False) -> None:
        super().__init__(message)
        self.is_transient = is_transient


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation. Temperature 0 is greedy; `seed` makes a sampled answer repeatable."""

    inputs: ModelInputs
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The generated ids, without the prompt; a stop id, if one ended it, is the last."""

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prefill_seconds: float
    decode_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What answers: goes into every result's provenance."""

    model: str
    revision: str | None
    dtype: str
    device: str
    attention: str
    max_context_tokens: int


class Handle:
    """A submitted request. The engine's thread writes, any thread reads."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self._cancelled = threading.Event()
        self._completion: Completion | None = None
        self._error: EngineError | None = None
        self.num_tokens = 0

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Whether the request has ended, within the time given."""
        return self._done.wait(timeout_seconds)

    def result(self) -> Completion:
        """The completion, waiting for it. Raises `EngineError`."""
        self._done.wait()
        if self._error is not None:
            raise self._error
        assert self._completion is not None, "a handle that is done has a completion or an error"
        return self._completion

    def cancel(self) -> None:
        """Ask for the end; the engine lets go after the step it is in."""
        self._cancelled.set()

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def complete(self, completion: Completion) -> None:
        """For engines: the end of the request."""
        self._completion = completion
        self._done.set()

    def fail(self, error: EngineError) -> None:
        """For engines: the request has no completion."""
        self._error = error
        self._done.set()


class Engine(Protocol):
    """A model that answers requests. Every method may be called from any thread."""

    info: EngineInfo

    def encode(self, prompt: str, images: Sequence[Image], num_crops: int) -> ModelInputs:
        """Prompt and pictures as the model takes them. Runs in the caller's thread.

        Raises `visionq_worker.model.errors.InputError`.
        """
        ...

    def submit(self, request: Request) -> Handle: ...

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of generated ids."""
        ...

    def close(self) -> None:
        """Finish what was submitted, then let the device go. Handles all end."""
        ...
