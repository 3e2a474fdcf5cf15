"""Batches from processes that draw, for a trainer that should not wait for them."""

from __future__ import annotations

import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from random import Random
from typing import Any

import torch
from torch.utils.data import DataLoader

from visionq_worker.pocket.training.batches import Batch, Batches

NUM_KEPT = 64
"""Batches on the device that may be learnt from again."""
MIN_KEPT = 16
"""Before one of them is taken by `passes`."""
NUM_READY = 4


class Supply:
    """Fresh batches as fast as they are drawn; between them, where wanted, some of the last again.

    `reuses`: take an earlier batch rather than wait for a fresh one. `passes`: of so many, one is
    fresh, so that each is taken as often on average. `prepare` is done to each once. With no
    `processes`, a batch is drawn when it is asked for.
    """

    def __init__(
        self,
        sorts: Mapping[str, float],
        size: int,
        *,
        first_seed: int,
        level: int,
        easier: float,
        processes: int,
        reuses: bool,
        device: torch.device,
        passes: int = 1,
        prepare: Callable[[Batch], Batch] = lambda batch: batch,
    ) -> None:
        self._passes, self._prepare = passes, prepare
        self._num_taken = 0
        context = multiprocessing.get_context("spawn")
        self._level = context.Value("i", level)
        self._device = device
        stream: Any = torch.cuda.Stream  # its constructor has no types
        self._stream = stream() if device.type == "cuda" else None
        self._reuses = reuses
        self._choose = Random(first_seed)  # noqa: S311  # which batch is seen again
        self._kept: deque[Batch] = deque(maxlen=NUM_KEPT)
        self._ready: queue.Queue[Batch | Exception] = queue.Queue(NUM_READY)
        loader = DataLoader(
            Batches(sorts, size, first_seed, self._level, easier),
            batch_size=None,
            num_workers=processes,
            multiprocessing_context=context if processes else None,
            prefetch_factor=2 if processes else None,
        )
        self._batches: Iterator[Batch] = iter(loader)
        if processes:
            # A daemon: what it waits for may never come, and nobody waits for it.
            threading.Thread(target=self._fetch, name="pocket-supply", daemon=True).start()
        self._has_thread = processes > 0

    def set_level(self, level: int) -> None:
        self._level.value = level

    def next(self) -> tuple[Batch, bool]:
        """A batch on the device, and whether it is seen for the first time.

        Raises what has ended the drawing.
        """
        is_turn = self._num_taken % self._passes == 0
        self._num_taken += 1
        if len(self._kept) >= MIN_KEPT and not is_turn:
            return self._choose.choice(self._kept), False
        if self._has_thread and self._reuses and self._kept and self._ready.empty():
            return self._choose.choice(self._kept), False
        batch = self._prepare(self._fresh())
        if self._reuses or self._passes > 1:
            self._kept.append(batch)
        return batch, True

    def _fresh(self) -> Batch:
        if not self._has_thread:
            return next(self._batches).to(self._device)
        batch = self._ready.get()
        if isinstance(batch, Exception):
            raise batch
        if self._stream is not None:
            for tensor in batch.tensors:  # their memory was taken for the copies' stream
                tensor.record_stream(torch.cuda.current_stream())
        return batch

    def _fetch(self) -> None:
        try:
            for batch in self._batches:
                self._ready.put(self._copied(batch))
        except Exception as error:  # the trainer's to handle: this thread has nobody who listens
            self._ready.put(error)

    def _copied(self, batch: Batch) -> Batch:
        """On the device; beside the steps, which would otherwise stand still meanwhile."""
        if self._stream is None:
            return batch.to(self._device)
        with torch.cuda.stream(self._stream):
            copy = batch.to(self._device)
        self._stream.synchronize()
        return copy
