"""The plain engine: transformers' `generate`, one request at a time, in one thread.

It is what the model's own documentation does by hand, with a queue before it, cancellation
between two tokens, and a token count to look at. Slow, but the measure of every faster engine.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from time import monotonic, perf_counter
from typing import Any, cast

import torch
from PIL import Image
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
)
from transformers.generation.streamers import BaseStreamer

from visionq_worker.engine.errors import (
    DeviceFull,
    EngineClosed,
    EngineError,
    RequestFailed,
)
from visionq_worker.engine.grammar import Grammars, SchemaMask
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
from visionq_worker.model.weights import LoadedModel


class ReferenceEngine:
    """Runs requests in the order of their submission. Owns the device through its one thread."""

    def __init__(self, loaded: LoadedModel, *, model_name: str, max_context_tokens: int) -> None:
        self.info = EngineInfo(
            model=model_name,
            revision=loaded.revision,
            dtype=loaded.dtype,
            device=loaded.device,
            attention=loaded.attention,
            max_context_tokens=max_context_tokens,
            max_num_crops=loaded.processor.max_num_crops,
        )
        self._loaded = loaded
        self._waiting: queue.SimpleQueue[tuple[Request, Handle] | None] = queue.SimpleQueue()
        self._accepting = threading.Lock()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="visionq-engine", daemon=True)
        self._thread.start()

    def encode(
        self, prompt: str, images: Sequence[Image.Image | Picture], num_crops: int
    ) -> ModelInputs:
        return self._loaded.processor(prompt, images, num_crops)

    def decode(self, token_ids: Iterable[int]) -> str:
        return self._loaded.processor.decode(token_ids)

    def mask(self, schema: Mapping[str, Any]) -> SchemaMask:
        return self._grammars.mask(schema)

    @cached_property
    def _grammars(self) -> Grammars:
        return Grammars(
            self._loaded.processor.tokenizer,
            stop_token_ids=self._loaded.processor.stop_token_ids,
            num_vocabulary=self._loaded.config.vocab_size,
        )

    def submit(self, request: Request) -> Handle:
        handle = Handle()
        with self._accepting:
            if self._is_closed:
                raise EngineClosed
            self._waiting.put((request, handle))
        return handle

    def stalled_seconds(self) -> float:
        return 0.0  # what happens within `generate` is not seen

    def close(self) -> None:
        with self._accepting:
            self._is_closed = True
        self._waiting.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            request, handle = item
            try:
                handle.complete(self._generate(request, handle))
            except torch.OutOfMemoryError as exc:
                torch.cuda.empty_cache()
                handle.fail(_chained(DeviceFull(), exc))
            except Exception as exc:  # the loop must outlive any request
                handle.fail(_chained(RequestFailed("the model failed on this request"), exc))

    def _generate(self, request: Request, handle: Handle) -> Completion:
        if reason := _early_end(request, handle):
            return Completion(
                token_ids=(), finish_reason=reason, prefill_seconds=0.0, decode_seconds=0.0
            )
        meter = _Meter(handle)
        started = perf_counter()
        with torch.inference_mode(), _seeded(request.seed, self._loaded.device):
            # transformers types `self` as a protocol that its own models do not meet.
            output = cast("Any", self._loaded.model).generate(
                **self._tensors(request.inputs),
                **_sampling(request),
                max_new_tokens=request.max_new_tokens,
                eos_token_id=sorted(self._loaded.processor.stop_token_ids),
                pad_token_id=self._loaded.config.pad_token_id,
                logits_processor=_processors(request),
                stopping_criteria=StoppingCriteriaList([_EarlyEnd(request, handle)]),
                streamer=meter,
            )
        token_ids = tuple(output[0, request.inputs.num_tokens :].tolist())
        first_token_at = meter.first_token_at or perf_counter()
        return Completion(
            token_ids=token_ids,
            finish_reason=self._finish_reason(token_ids, request, handle),
            prefill_seconds=first_token_at - started,
            decode_seconds=perf_counter() - first_token_at,
        )

    def _tensors(self, inputs: ModelInputs) -> dict[str, torch.Tensor]:
        device, dtype = self._loaded.model.device, self._loaded.model.dtype
        input_ids = inputs.input_ids.to(device)
        tensors = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
        if inputs.pixel_values is not None and inputs.image_sizes is not None:
            tensors["pixel_values"] = inputs.pixel_values.to(device, dtype)
            tensors["image_sizes"] = inputs.image_sizes.to(device)
        return tensors

    def _finish_reason(
        self, token_ids: tuple[int, ...], request: Request, handle: Handle
    ) -> FinishReason:
        if token_ids and token_ids[-1] in self._loaded.processor.stop_token_ids:
            return "stop"
        if len(token_ids) == request.max_new_tokens:
            return "length"
        return _early_end(request, handle) or "length"


class _Masked(LogitsProcessor):
    """Only what the request's mask allows may be chosen."""

    def __init__(self, mask: LogitMask, num_prompt: int) -> None:
        self._mask = mask
        self._num_prompt = num_prompt

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        allowed = self._mask.allowed(input_ids[0, self._num_prompt :].tolist())
        if allowed is None:
            return scores
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)


def _processors(request: Request) -> LogitsProcessorList:
    processors = LogitsProcessorList()
    if request.logit_mask is not None:
        processors.append(_Masked(request.logit_mask, request.inputs.num_tokens))
    return processors


class _Meter(BaseStreamer):
    """Counts tokens as they come; the first call brings the prompt."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._has_seen_prompt = False
        self.first_token_at: float | None = None

    def put(self, value: Any) -> None:
        if not self._has_seen_prompt:
            self._has_seen_prompt = True
            return
        self.first_token_at = self.first_token_at or perf_counter()
        for token_id in value.tolist():
            self._handle.push(token_id)

    def end(self) -> None:
        pass


def _early_end(request: Request, handle: Handle) -> FinishReason | None:
    if handle.is_cancelled:
        return "cancelled"
    is_late = request.deadline is not None and monotonic() >= request.deadline
    return "expired" if is_late else None


class _EarlyEnd(StoppingCriteria):
    """Stops between two tokens once the request is cancelled or too late."""

    def __init__(self, request: Request, handle: Handle) -> None:
        self._request = request
        self._handle = handle

    def __call__(self, input_ids: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        stop = _early_end(self._request, self._handle) is not None
        return torch.full((input_ids.shape[0],), stop, device=input_ids.device)


def _sampling(request: Request) -> dict[str, Any]:
    if request.temperature == 0:
        return {"do_sample": False, "temperature": None, "top_p": None, "top_k": None}
    return {
        "do_sample": True,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": 0,
    }


@contextmanager
def _seeded(seed: int | None, device: str) -> Iterator[None]:
    """The generator's state is put back afterwards: a seed must not touch other requests."""
    if seed is None:
        yield
        return
    devices = [torch.device(device)] if device.startswith("cuda") else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def _chained(error: EngineError, cause: Exception) -> EngineError:
    error.__cause__ = cause
    return error
