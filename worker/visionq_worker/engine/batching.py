"""The engine: many requests on one device, generated together, each as if it were alone.

One thread owns the device. Others leave requests and cancels in an inbox and wait on handles. Each
turn of the loop empties the inbox, lets go of what was cancelled or is too late, and runs one step
of the scheduler's. A step that fails is split until the request that is to blame is alone with it.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Row
from functools import cached_property
from time import monotonic, perf_counter
from typing import Any

import torch
from PIL import Image

from visionq_worker.engine.errors import (
    DeviceFull,
    EngineBroken,
    EngineClosed,
    EngineError,
    RequestFailed,
)
from visionq_worker.engine.grammar import Grammars, SchemaMask
from visionq_worker.engine.intake import Intake
from visionq_worker.engine.masks import Masks
from visionq_worker.engine.metrics import EngineMetrics, Meter
from visionq_worker.engine.options import EngineOptions
from visionq_worker.engine.pages import PagePool
from visionq_worker.engine.request import EngineInfo, FinishReason, Handle, Request
from visionq_worker.engine.runner import Runner
from visionq_worker.engine.sampler import Choice, Pick, choose
from visionq_worker.engine.scheduler import Chunk, Scheduler
from visionq_worker.engine.sequence import Sequence
from visionq_worker.engine.watchdog import Watchdog
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs, Phi3VProcessor

log = logging.getLogger(__name__)

SMALLEST_CHUNK_TOKENS = 64
"""A lone chunk that does not fit into memory is halved down to this, and then given up."""

CHECK_SECONDS = 1.0
"""An idle engine goes over its books this often, at most."""

Outcome = Choice | EngineError | None
"""Of a chunk: its token, what became of its request instead, or nothing yet."""


class BatchingEngine:
    """Continuous batching. Every method but the constructor may be called from any thread."""

    def __init__(
        self,
        runner: Runner,
        processor: Phi3VProcessor,
        info: EngineInfo,
        options: EngineOptions,
        *,
        num_vocabulary: int,
        on_broken: Callable[[], None] = lambda: None,
        checks_every_step: bool = False,
    ) -> None:
        """`on_broken` is called once, from some thread, when the device is lost to this process."""
        self.info = info
        self._runner = runner
        self._processor = processor
        self._options = options
        self._num_vocabulary = num_vocabulary
        self._intake = Intake(
            runner,
            processor,
            max_context_tokens=options.max_context_tokens,
            num_vocabulary=num_vocabulary,
        )
        self._on_broken = on_broken
        self._checks_every_step = checks_every_step
        pool = PagePool(runner.num_pages, runner.page_tokens, keeps_prefixes=options.keeps_prefixes)
        self._scheduler = Scheduler(
            pool,
            max_running=options.max_running,
            step_tokens=options.step_tokens,
            num_short=runner.num_short,
        )
        self._masks = Masks(is_inline=info.device == "cpu")
        self._meter = Meter()
        self._changed = threading.Condition()
        self._inbox: deque[Sequence] = deque()
        self._cancelled: list[Sequence] = []
        self._leaving: list[Sequence] = []  # cancelled, and no longer in the inbox
        self._open: dict[int, Sequence] = {}  # every request that has not ended, by its number
        self._deadlines: list[tuple[float, int]] = []  # a heap, with the numbers of requests
        self._checked_at = perf_counter()
        self._turned_at = monotonic()
        self._is_closed = False
        self._broken: EngineBroken | None = None
        self._watchdog = Watchdog(options.hang_seconds, self._hangs)
        self._thread = threading.Thread(target=self._run, name="visionq-engine", daemon=True)
        self._thread.start()

    def encode(
        self, prompt: str, images: Row[Image.Image | Picture], num_crops: int
    ) -> ModelInputs:
        return self._processor(prompt, images, num_crops)

    def decode(self, token_ids: Iterable[int]) -> str:
        return self._processor.decode(token_ids)

    def mask(self, schema: Mapping[str, Any]) -> SchemaMask:
        return self._grammars.mask(schema)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(
            self._processor.tokenizer,
            stop_token_ids=self._processor.stop_token_ids,
            num_vocabulary=self._num_vocabulary,
        )

    def submit(self, request: Request) -> Handle:
        sequence = self._intake.sequence(request, self._cancel)
        with self._changed:
            if self._broken is not None:
                raise self._broken.with_traceback(None)
            if self._is_closed:
                raise EngineClosed
            if not self._open:
                self._turned_at = monotonic()
            self._open[sequence.number] = sequence
            self._inbox.append(sequence)
            self._meter.num_requests += 1
            self._changed.notify()
        return sequence.handle

    def metrics(self) -> EngineMetrics:
        """What the engine is doing, now."""
        meter, scheduler = self._meter, self._scheduler
        step_seconds, tokens_in, tokens_out = meter.recent()
        feature_hits, feature_misses = self._runner.feature_counts()
        return EngineMetrics(
            num_waiting=len(scheduler.waiting) + len(self._inbox),
            num_running=len(scheduler.running),
            pages_free=scheduler.pool.num_available,
            pages_total=scheduler.pool.num_pages,
            step_seconds=step_seconds,
            tokens_in_per_second=tokens_in,
            tokens_out_per_second=tokens_out,
            steps_total=meter.num_steps,
            requests_total=meter.num_requests,
            failures_total=meter.num_failures,
            prompt_tokens_total=meter.num_prompt_tokens,
            prompt_tokens_cached_total=meter.num_cached_tokens,
            generated_tokens_total=meter.num_generated_tokens,
            feature_hits_total=feature_hits,
            feature_misses_total=feature_misses,
            preemptions_total=scheduler.num_preemptions,
            long_restarts_total=scheduler.num_long_restarts,
            retried_steps_total=meter.num_retried_steps,
        )

    def stalled_seconds(self) -> float:
        return monotonic() - self._turned_at if self._open else 0.0

    def close(self, *, cancel: bool = False) -> None:
        """Take no more requests, finish or cancel those there are, end the thread."""
        with self._changed:
            self._is_closed = True
            sequences = list(self._open.values()) if cancel else []
            self._changed.notify()
        for sequence in sequences:
            sequence.handle.cancel()
        if self._broken is None:  # a thread that hangs in the driver cannot be waited for
            self._thread.join()
        self._masks.close()
        self._watchdog.close()

    def check(self) -> None:
        """Assert that pages and sequences agree. In the engine's thread, or when it is idle."""
        self._scheduler.check()

    # From here on: the engine's thread.

    def _run(self) -> None:
        try:
            while self._wait_for_work():
                self._turn()
        except Exception as error:  # of our own books: no request is to blame, none may hang
            self._break("the engine's books are wrong", error)

    def _turn(self) -> None:
        self._turned_at = monotonic()
        self._let_go()
        if not self._scheduler.is_idle:
            chunks = self._scheduler.plan()
            assert chunks, "where requests are, there is a next step"
            self._step(chunks)
        is_due = perf_counter() - self._checked_at > CHECK_SECONDS
        if self._checks_every_step or (is_due and self._scheduler.is_idle):
            self.check()
            self._checked_at = perf_counter()

    def _wait_for_work(self) -> bool:
        """Take over what is in the inbox; False when the engine has nothing left to do."""
        with self._changed:
            while not self._inbox and self._scheduler.is_idle:
                if self._is_closed or self._broken is not None:
                    return False
                self._changed.wait()
            while self._inbox:
                self._take(self._inbox.popleft())
            self._leaving, self._cancelled = self._cancelled, []
        return self._broken is None

    def _take(self, sequence: Sequence) -> None:
        self._scheduler.add(sequence)
        if sequence.request.deadline is not None:
            heapq.heappush(self._deadlines, (sequence.request.deadline, sequence.number))

    def _let_go(self) -> None:
        """End the requests that were cancelled or are too late."""
        for sequence in self._leaving:
            self._finish(sequence, "cancelled")
        self._leaving = []
        now = monotonic()
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            if number in self._open:
                self._finish(self._open[number], "expired")

    def _step(self, chunks: Row[Chunk]) -> None:
        began = perf_counter()
        for chunk in chunks:
            if chunk.sequence.started_at is None:
                chunk.sequence.started_at = began
                self._meter.num_cached_tokens += chunk.sequence.num_cached
        outcomes = self._attempt(chunks)
        if self._broken is not None:
            return
        for chunk, outcome in outcomes:
            self._apply(chunk, outcome)
        self._scheduler.step_succeeded()
        num_new = sum(isinstance(outcome, Choice) for _, outcome in outcomes)
        num_in = sum(
            max(0, min(chunk.stop, chunk.sequence.num_prompt) - chunk.start) for chunk in chunks
        )
        self._meter.step(perf_counter() - began, num_in, num_new)

    def _attempt(self, chunks: Row[Chunk]) -> list[tuple[Chunk, Outcome]]:
        """Run some chunks; on an error, each half by itself. Computing a chunk twice is harmless.

        Chunks come back as far as they were computed.
        """
        try:
            with self._watchdog.watching():
                return self._compute(chunks)
        except Exception as error:  # whatever it is, it must not end requests it does not concern
            return self._recover(chunks, error)

    def _recover(self, chunks: Row[Chunk], error: Exception) -> list[tuple[Chunk, Outcome]]:
        if self._broken is not None:
            return []
        if self._is_device_lost(error):
            self._break(f"the device is lost: {type(error).__name__}", error)
            return []
        self._meter.num_retried_steps += 1
        is_full = isinstance(error, torch.OutOfMemoryError)
        if is_full:
            self._runner.free_memory()
            self._scheduler.shrink(sum(chunk.num_tokens for chunk in chunks))
        if len(chunks) > 1:
            middle = len(chunks) // 2
            return self._attempt(chunks[:middle]) + self._attempt(chunks[middle:])
        (chunk,) = chunks
        if is_full and chunk.num_tokens >= 2 * SMALLEST_CHUNK_TOKENS:
            return self._attempt([Chunk(chunk.sequence, chunk.start, chunk.num_tokens // 2)])
        blamed: EngineError = (
            DeviceFull() if is_full else RequestFailed("the model failed on this request")
        )
        blamed.__cause__ = error
        return [(chunk, blamed)]

    def _compute(self, chunks: Row[Chunk]) -> list[tuple[Chunk, Outcome]]:
        masks = self._masks.begin(chunks)
        logits = self._runner.run(chunks)
        outcomes: dict[Chunk, Outcome] = dict.fromkeys(chunks)
        rows, picks = [], []
        for row, chunk in enumerate(chunk for chunk in chunks if chunk.is_last):
            try:
                picks.append(_pick(chunk.sequence, masks.of(chunk.sequence)))
                rows.append((row, chunk))
            except Exception as error:  # of its mask
                outcomes[chunk] = RequestFailed("the request's logit mask failed")
                outcomes[chunk].__cause__ = error  # type: ignore[union-attr]
        if picks:
            if len(rows) < len(logits):
                logits = logits[[row for row, _ in rows]]
            with torch.inference_mode():
                choices = choose(logits, picks, never=self._runner.image_token_id)
            outcomes |= {chunk: choice for (_, chunk), choice in zip(rows, choices, strict=True)}
        return list(outcomes.items())

    def _apply(self, chunk: Chunk, outcome: Outcome) -> None:
        sequence = chunk.sequence
        if isinstance(outcome, EngineError):
            self._fail(sequence, outcome)
        elif outcome is None:
            self._scheduler.advance(chunk)
        elif outcome.token_id is None:
            self._fail(sequence, RequestFailed("the model gave no finite scores"))
        else:
            self._scheduler.advance(chunk)
            self._append(sequence, outcome.token_id, outcome.logprob)

    def _append(self, sequence: Sequence, token_id: int, logprob: float | None) -> None:
        request = sequence.request
        sequence.first_token_at = sequence.first_token_at or perf_counter()
        sequence.token_ids.append(token_id)
        if logprob is not None:
            sequence.logprobs.append(logprob)
        sequence.handle.push(token_id)
        if request.on_token is not None and sequence.has_callback:
            try:
                request.on_token(token_id)
            except Exception:  # a stranger's code
                sequence.has_callback = False
                log.exception(
                    "a token callback failed; it is not called again, and its request goes on:"
                    " report this as a bug"
                )
        is_loop = sequence.loop_watch is not None and sequence.loop_watch.add(token_id)
        if token_id in sequence.stop_token_ids:
            self._finish(sequence, "stop")
        elif is_loop:
            self._finish(sequence, "loop")
        elif sequence.num_generated == request.max_new_tokens:
            self._finish(sequence, "length")

    def _finish(self, sequence: Sequence, reason: FinishReason) -> None:
        if self._open.pop(sequence.number, None) is not None:
            self._scheduler.remove(sequence)
            sequence.handle.complete(sequence.completion(reason))

    def _fail(self, sequence: Sequence, error: EngineError) -> None:
        self._meter.num_failures += 1
        log.warning(
            "a request failed: %s (%r); its task fails or is run again, as its own line says, and"
            " the others go on: nothing to do",
            error,
            error.__cause__,
        )
        if self._open.pop(sequence.number, None) is not None:
            self._scheduler.remove(sequence, forget=True)
            sequence.handle.fail(error)

    def _is_device_lost(self, error: Exception) -> bool:
        """Whether the error has spoilt the device for everything that comes after it."""
        if not self.info.device.startswith("cuda") or isinstance(error, torch.OutOfMemoryError):
            return False
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False

    # From here on: any thread.

    def _hangs(self) -> None:
        self._break(f"a step took longer than {self._options.hang_seconds:g} s", None)

    def _break(self, message: str, cause: Exception | None) -> None:
        error = EngineBroken(message)
        error.__cause__ = cause
        with self._changed:
            if self._broken is not None:
                return
            self._broken = error
            self._changed.notify()
        log.critical(
            "the engine is broken: %s; its tasks are given back, and the worker ends, to be started"
            " again: act if it happens again and again",
            message,
        )
        for sequence in list(self._open.values()):
            sequence.handle.fail(error)
        self._open.clear()
        self._on_broken()

    def _cancel(self, sequence: Sequence) -> None:
        with self._changed:
            if sequence.number in self._open:
                self._cancelled.append(sequence)


def _pick(sequence: Sequence, allowed: torch.Tensor | None) -> Pick:
    request = sequence.request
    return Pick(
        temperature=request.temperature,
        top_p=request.top_p,
        seed=sequence.seed,
        position=sequence.num_generated,
        wants_logprob=request.wants_logprobs,
        allowed=allowed,
    )
