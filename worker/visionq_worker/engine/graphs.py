"""Decode passes of fixed sizes over tensors that stay where they are, captured as CUDA graphs.

At batch 1 a step of the published model has about two milliseconds of memory traffic and several
hundred kernels: launched one by one from Python, they would take longer than that. A captured pass
is launched as one. Smaller batches are padded with rows that write into a page nobody owns.

On a device without graphs the same passes run uncaptured: only tests ask for that.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import perf_counter

import torch

from visionq_worker.model.attention import SplitAttention, TableAttention
from visionq_worker.model.decoder import Cache, PackedDecoder, Pass

log = logging.getLogger(__name__)


class DecodeGraphs:
    """One pass per batch size; `run` takes the smallest that is large enough."""

    def __init__(
        self,
        decoder: PackedDecoder,
        cache: Cache,
        *,
        batch_sizes: Sequence[int],
        most_pages: int,
        page_tokens: int,
        scratch_page: int,
        device: torch.device,
    ) -> None:
        assert isinstance(decoder.attention, SplitAttention | TableAttention)
        self._decoder = decoder
        self._attention = decoder.attention
        self._cache = cache
        self._sizes = sorted(batch_sizes)
        self._most_keys = most_pages * page_tokens
        self.max_batch = self._sizes[-1]
        is_cuda = device.type == "cuda"
        # ids, rotary rows and slots; page tables with their lengths in front
        shape, table_shape = (3, self.max_batch), (self.max_batch, 1 + most_pages)
        self._host = torch.zeros(shape, dtype=torch.int64, pin_memory=is_cuda)
        self._host_tables = torch.zeros(table_shape, dtype=torch.int32, pin_memory=is_cuda)
        self._tokens = self._host.to(device)
        self._tables = self._host_tables.to(device)
        self._scratch = scratch_page
        self._scratch_slot = scratch_page * page_tokens
        for row in range(self.max_batch):
            self._clear(row)
        self._upload()
        self._passes = self._captured() if is_cuda else self._plain()

    def run(
        self,
        ids: Sequence[int],
        rope_rows: Sequence[int],
        slots: Sequence[int],
        tables: Sequence[Sequence[int]],
        lengths: Sequence[int],
    ) -> torch.Tensor:
        """Logits (rows, vocabulary) of one new token per sequence; valid until the next run."""
        count = len(ids)
        size = next(size for size in self._sizes if size >= count)
        host, host_tables = self._host.numpy(), self._host_tables.numpy()
        host[:, :count] = (ids, rope_rows, slots)
        for row, (pages, length) in enumerate(zip(tables, lengths, strict=True)):
            host_tables[row, 0] = length
            host_tables[row, 1 : 1 + len(pages)] = pages
        for row in range(count, size):
            self._clear(row)
        self._upload()
        return self._passes[size]()[:count]

    def _clear(self, row: int) -> None:
        """A row that reads one key of the page nobody owns, and writes there."""
        self._host[:, row] = torch.tensor([0, 0, self._scratch_slot])
        self._host_tables[row, 0] = 1
        self._host_tables[row, 1] = self._scratch

    def _upload(self) -> None:
        self._tokens.copy_(self._host, non_blocking=True)
        self._tables.copy_(self._host_tables, non_blocking=True)

    def _pass(self, size: int) -> torch.Tensor:
        ids, rope_rows, slots = self._tokens[:, :size]
        lengths, pages = self._tables[:size, 0].contiguous(), self._tables[:size, 1:].contiguous()
        plan = self._attention.decode_plan(pages, lengths, self._most_keys)
        where = Pass(rope_rows=rope_rows, slots=slots, plan=plan)
        hidden = self._decoder(self._decoder.embed(ids), where, self._cache)
        return self._decoder.logits(hidden)

    def _plain(self) -> dict[int, Callable[[], torch.Tensor]]:
        def bound(size: int) -> Callable[[], torch.Tensor]:
            return lambda: self._pass(size)

        return {size: bound(size) for size in self._sizes}

    def _captured(self) -> dict[int, Callable[[], torch.Tensor]]:
        began = perf_counter()
        passes: dict[int, Callable[[], torch.Tensor]] = {}
        pool = None
        for size in reversed(self._sizes):  # the largest first: the others fit into its memory
            self._pass(size)  # kernels are compiled and chosen outside of the capture
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                logits = self._pass(size)
            pool = pool or graph.pool()
            passes[size] = _replay(graph, logits)
        log.info("%d decode graphs captured in %.1f s", len(passes), perf_counter() - began)
        return passes


def _replay(graph: torch.cuda.CUDAGraph, logits: torch.Tensor) -> Callable[[], torch.Tensor]:
    def replay() -> torch.Tensor:
        graph.replay()
        return logits

    return replay


def batch_sizes(max_running: int) -> list[int]:
    """Powers of two up to 8, then multiples of 8, up to the first that holds all."""
    sizes = [size for size in (1, 2, 4) if size < max_running]
    size = 8
    while size < max_running:
        sizes.append(size)
        size += 8
    return [*sizes, max(size, 8) if max_running > 4 else max_running]
