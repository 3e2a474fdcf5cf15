"""What goes into an engine and what comes out: the interface every engine keeps.

`Request` -> `engine.submit` -> `Handle` -> `Completion`. Engines differ in how they run requests;
callers see only this file and `errors`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from visionq_worker.engine.errors import EngineError

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image

    from visionq_worker.model.pixels import Picture
    from visionq_worker.model.processor import ModelInputs

log = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "loop", "cancelled", "expired"]


class LogitMask(Protocol):
    """Which tokens may come next: a grammar's place in the engine."""

    def allowed(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        """(vocabulary,) bool after the answer's tokens so far, or None where all may come.

        Called in a thread beside the engine's while the device works on the step, by one thread at
        a time; again where a step is repeated. What it raises ends its request alone.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One generation. Temperature 0 is greedy.

    `seed` makes a sampled answer repeatable, whatever else runs beside it. `deadline` is a value of
    `time.monotonic`. `stop_token_ids` None: the model's own. `on_token` is called in the engine's
    thread with each token; if it raises, that is logged and it is not called again. An answer that
    has repeated itself for `loop_tokens` ends (`loops`); None: it may.
    """

    inputs: ModelInputs
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop_token_ids: frozenset[int] | None = None
    wants_logprobs: bool = False
    logit_mask: LogitMask | None = None
    deadline: float | None = None
    loop_tokens: int | None = None
    on_token: Callable[[int], None] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The generated ids, without the prompt; a stop id, if one ended it, is the last.

    Where loops were watched for, the last `num_repeated` ids stood there before.

    `logprobs`, when asked for, has one natural logarithm per id: of its probability before
    temperature and top_p, after masks.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    prefill_seconds: float  # from the first step to the first token
    decode_seconds: float  # from the first token to the last
    waiting_seconds: float = 0.0  # in the engine, before the first step
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0  # of the prompt, taken from the prefix cache
    num_preemptions: int = 0
    num_repeated: int = 0
    logprobs: tuple[float, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What answers, for every result's provenance.

    `max_num_crops`: the most that the model was trained for; None: any number.
    """

    model: str
    revision: str | None
    dtype: str
    device: str
    attention: str
    max_context_tokens: int
    max_num_crops: int | None = None


class Handle:
    """A submitted request. The engine writes, any thread reads. The first end counts."""

    def __init__(self, on_cancel: Callable[[], None] | None = None) -> None:
        self._changed = threading.Condition()
        self._done = threading.Event()
        self._cancelled = threading.Event()
        self._on_cancel = on_cancel
        self._tokens: list[int] = []
        self._num_streams = 0
        self._callbacks: list[Callable[[Handle], None]] = []
        self._completion: Completion | None = None
        self._error: EngineError | None = None

    @property
    def num_tokens(self) -> int:
        """Tokens generated so far."""
        return len(self._tokens)

    @property
    def is_cancelled(self) -> bool:
        return self._cancelled.is_set()

    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Whether the request has ended, within the time given."""
        return self._done.wait(timeout_seconds)

    def result(self) -> Completion:
        """The completion, waiting for it. Raises `EngineError`."""
        self._done.wait()
        if self._error is not None:
            raise self._error.with_traceback(None)  # else each raise would lengthen it
        assert self._completion is not None, "a handle that is done has a completion or an error"
        return self._completion

    def stream(self) -> Iterator[int]:
        """Token ids as they come, from the first one on. Raises `EngineError` where they break off.

        Several threads may stream one handle.
        """
        position = 0
        while True:
            with self._changed:
                self._num_streams += 1
                while not self._done.is_set() and self.num_tokens == position:
                    self._changed.wait()
                self._num_streams -= 1
                fresh = self._tokens[position:]
            yield from fresh
            position += len(fresh)
            if not fresh:
                break
        if self._error is not None:
            raise self._error.with_traceback(None)

    def add_done_callback(self, callback: Callable[[Handle], None]) -> None:
        """Call it once the request has ended, in the thread that ends it, or now if it has.

        What it raises is logged and goes no further.
        """
        with self._changed:
            if not self._done.is_set():
                self._callbacks.append(callback)
                return
        self._call(callback)

    def cancel(self) -> None:
        """Ask for the end; the engine lets go after the step it is in."""
        self._cancelled.set()
        if self._on_cancel is not None:
            self._on_cancel()

    def push(self, token_id: int) -> None:
        """For engines: one more token."""
        self._tokens.append(token_id)
        if self._num_streams:
            with self._changed:
                self._changed.notify_all()

    def complete(self, completion: Completion) -> None:
        """For engines: the end of the request."""
        self._end(completion, None)

    def fail(self, error: EngineError) -> None:
        """For engines: the request has no completion."""
        self._end(None, error)

    def _end(self, completion: Completion | None, error: EngineError | None) -> None:
        with self._changed:
            if self._done.is_set():
                return
            self._completion, self._error = completion, error
            self._done.set()
            self._changed.notify_all()
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            self._call(callback)

    def _call(self, callback: Callable[[Handle], None]) -> None:
        try:
            callback(self)
        except Exception:  # a stranger's code must not end the engine's thread
            log.exception(
                "a done callback failed; its request has ended all the same: report this as a bug"
            )


class Engine(Protocol):
    """A model that answers requests. Every method may be called from any thread."""

    info: EngineInfo

    def encode(self, prompt: str, images: Sequence[Image | Picture], num_crops: int) -> ModelInputs:
        """Prompt and images as the model takes them. Runs in the caller's thread.

        Pictures are images that were prepared before, for that many crops.

        Raises `visionq_worker.model.errors.InputError`.
        """
        ...

    def mask(self, schema: Mapping[str, Any]) -> LogitMask:
        """For one request: its answer will be a JSON document that fits the schema.

        The schema is a strict one (`visionq.schemas`). Runs in the caller's thread. Raises
        `RequestInvalid` where nothing fits.
        """
        ...

    def submit(self, request: Request) -> Handle:
        """Take the request. Raises `RequestRefused`, `EngineClosed` or `EngineBroken`."""
        ...

    def decode(self, token_ids: Iterable[int]) -> str:
        """The text of generated ids."""
        ...

    def stalled_seconds(self) -> float:
        """How long nothing has moved although there are requests; 0 when there are none."""
        ...

    def close(self) -> None:
        """Finish what was submitted, then let the device go. Handles all end."""
        ...
