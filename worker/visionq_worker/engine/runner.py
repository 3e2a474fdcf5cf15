"""Runs the steps that the scheduler plans: chunks in, scores for the next tokens out.

The one place where the engine touches tensors of the model. Left out: which chunks (scheduler),
which tokens come of the scores (sampler).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence as Row
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch

from visionq_worker.engine.features import TILES_PER_PASS, FeatureCache
from visionq_worker.engine.graphs import DecodeGraphs, batch_sizes
from visionq_worker.engine.options import GIB, EngineOptions
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.model.attention import (
    Attention,
    Span,
    SplitAttention,
    TableAttention,
    triton_missing,
)
from visionq_worker.model.decoder import PackedDecoder, Pass, Wanted
from visionq_worker.model.errors import ModelLoadError
from visionq_worker.model.ops import Ops, TorchOps
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.pixels import Picture
from visionq_worker.model.rope import rope_table

log = logging.getLogger(__name__)

CPU_CACHE_BYTES = GIB
"""Keys and values on a CPU when nothing else is said: its memory is not the engine's alone."""


class Runner(Protocol):
    """A device that computes steps. Used by the engine's thread alone, once it runs."""

    num_pages: int
    page_tokens: int
    num_short: int  # sequences of more tokens than this need the long rotary factors
    image_token_id: int

    def run(self, chunks: Row[Chunk]) -> torch.Tensor:
        """Scores (chunks that are their sequence's last, vocabulary) float32, in their order.

        Chunks of one token come first. May be called again with the same chunks.
        """
        ...

    def free_memory(self) -> None:
        """After a step that did not fit: give back what can be computed again."""
        ...

    def feature_counts(self) -> tuple[int, int]:
        """Pictures found in the feature cache, and pictures computed."""
        ...


class ModelRunner:
    """The loaded model on its device."""

    def __init__(
        self, model: Phi3VForCausalLM, attention: Attention, options: EngineOptions
    ) -> None:
        """Sizes and allocates the cache, captures graphs. Raises ModelLoadError."""
        self._device = model.device
        self._take_device()
        rope = rope_table(model, options.max_context_tokens)
        self._decoder = PackedDecoder(model, rope=rope, ops=_ops(self._device), attention=attention)
        self._features = FeatureCache(
            model.model.vision_embed_tokens, max_bytes=options.feature_cache_bytes
        )
        self.num_short = rope.num_short
        self.image_token_id = model.config.image_token_id
        self.page_tokens = options.page_tokens
        self.num_pages = self._fitting_pages(options)
        # One page more than is given away: rows that pad a graph write there.
        self._cache = self._decoder.new_cache(self.num_pages + 1, self.page_tokens)
        self._graphs = self._captured(options) if options.uses_graphs else None

    def run(self, chunks: Row[Chunk]) -> torch.Tensor:
        self._take_device()
        with torch.inference_mode():
            layout = _layout(chunks, self.page_tokens, self.num_short)
            overlays = _overlays(chunks)
            if self._graphs and not overlays and len(layout.ids) == len(chunks):
                logits = self._decode(self._graphs, chunks, layout)
            else:
                logits = self._packed(chunks, layout, overlays)
            return logits

    def free_memory(self) -> None:
        self._features.clear()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def feature_counts(self) -> tuple[int, int]:
        return self._features.num_hits, self._features.num_misses

    def _take_device(self) -> None:
        """Make it the calling thread's: Triton launches on the current device, not a tensor's."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _decode(self, graphs: DecodeGraphs, chunks: Row[Chunk], layout: _Layout) -> torch.Tensor:
        assert len(chunks) <= graphs.max_batch, "graphs were captured for all that may run"
        logits = graphs.run(
            layout.ids,
            layout.rope_rows,
            layout.slots,
            [chunk.sequence.pages for chunk in chunks],
            [chunk.stop for chunk in chunks],
        )
        wanted = [row for row, chunk in enumerate(chunks) if chunk.is_last]
        return logits if len(wanted) == len(chunks) else logits[wanted]

    def _packed(self, chunks: Row[Chunk], layout: _Layout, overlays: Row[_Overlay]) -> torch.Tensor:
        host = torch.tensor([layout.ids, layout.rope_rows, layout.slots])
        ids, rope_rows, slots = host.to(self._device)
        hidden = self._decoder.embed(ids)  # (tokens, hidden)
        self._lay_over(hidden, overlays)
        where = Pass(
            rope_rows=rope_rows,
            slots=slots,
            plan=self._plan(chunks),
            wanted=self._wanted(chunks, layout),
        )
        return self._decoder.logits(self._decoder(hidden, where, self._cache))

    def _plan(self, chunks: Row[Chunk], num_new: int | None = None) -> Any:
        """The attention's, for the last `num_new` tokens of each chunk; None: for all of them."""
        return self._decoder.attention.plan(
            [
                Span(chunk.sequence.pages, num_keys=chunk.stop, num_new=num_new or chunk.num_tokens)
                for chunk in chunks
            ]
        )

    def _wanted(self, chunks: Row[Chunk], layout: _Layout) -> Wanted | None:
        if len(layout.last_rows) == len(layout.ids):
            return None
        last = [chunk for chunk in chunks if chunk.is_last]
        rows = torch.tensor(layout.last_rows, dtype=torch.int64, device=self._device)
        return Wanted(rows, self._plan(last, num_new=1) if last else None)

    def _lay_over(self, hidden: torch.Tensor, overlays: Row[_Overlay]) -> None:
        """Write the pictures' embeddings over those of their placeholders."""
        if not overlays:
            return
        features = self._features.embeddings(part.picture for part in overlays)
        for part in overlays:
            whole = features[part.picture.digest]
            hidden[part.row : part.row + part.count] = whole[part.first : part.first + part.count]

    def _fitting_pages(self, options: EngineOptions) -> int:
        page_bytes = self.page_tokens * self._decoder.cache_bytes_per_token()
        if options.cache_bytes is not None:
            available = options.cache_bytes
        elif self._device.type == "cuda":
            available = self._measured_room(options)
        else:
            available = CPU_CACHE_BYTES
        num_pages = available // page_bytes - 1  # one is the scratch page
        if self._device.type != "cuda":
            # More could never be held at once, and there is no use in a larger prefix cache.
            most = options.max_running * -(-options.max_context_tokens // self.page_tokens)
            num_pages = min(num_pages, most)
        if num_pages < 1:
            raise ModelLoadError(
                f"{available} bytes are left for the cache, a page takes {page_bytes}: "
                "use a smaller feature cache or a larger device"
            )
        log.info("cache: %d pages of %d tokens", num_pages, self.page_tokens)
        return num_pages

    def _measured_room(self, options: EngineOptions) -> int:
        """Bytes left on the device for the cache, beside the largest step and the features."""
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(self._device)
        before = torch.cuda.memory_allocated(self._device)
        self._largest_step(options.step_tokens)
        peak = torch.cuda.max_memory_allocated(self._device) - before
        torch.cuda.empty_cache()
        free, total = torch.cuda.mem_get_info(self._device)
        reserve = int(total * (1 - options.memory_fraction))
        return free - reserve - peak - options.feature_cache_bytes

    def _largest_step(self, num_tokens: int) -> None:
        """Run what takes the most memory: a full tower pass, a full step of one sequence."""
        pages = range(-(-num_tokens // self.page_tokens))
        cache = self._decoder.new_cache(len(pages), self.page_tokens)
        numbers = torch.arange(num_tokens, device=self._device)
        with torch.inference_mode():
            views = torch.zeros(TILES_PER_PASS, 3, 336, 336, device=self._device)
            self._features.measure(views)
            plan = self._decoder.attention.plan([Span(pages, num_tokens, num_tokens)])
            rows = numbers.clamp(max=self.num_short - 1)
            hidden = self._decoder.embed(torch.zeros_like(numbers))
            self._decoder(hidden, Pass(rope_rows=rows, slots=numbers, plan=plan), cache)
            torch.cuda.synchronize()

    def _captured(self, options: EngineOptions) -> DecodeGraphs | None:
        attention = self._decoder.attention
        if self._device.type != "cuda" or not isinstance(
            attention, SplitAttention | TableAttention
        ):
            return None
        with torch.inference_mode():
            return DecodeGraphs(
                self._decoder,
                self._cache,
                batch_sizes=batch_sizes(options.max_running),
                most_pages=-(-options.max_context_tokens // self.page_tokens),
                page_tokens=self.page_tokens,
                scratch_page=self.num_pages,
                device=self._device,
            )


@dataclass(frozen=True, slots=True)
class _Layout:
    """The packed tokens of some chunks, and the rows whose scores are wanted."""

    ids: list[int]
    rope_rows: list[int]
    slots: list[int]
    last_rows: list[int]


@dataclass(frozen=True, slots=True)
class _Overlay:
    """A part of a picture: `count` of its embeddings from `first` on, over rows from `row` on."""

    picture: Picture
    first: int
    row: int
    count: int


def _layout(chunks: Row[Chunk], page_tokens: int, num_short: int) -> _Layout:
    ids: list[int] = []
    rope_rows: list[int] = []
    slots: list[int] = []
    last_rows: list[int] = []
    for chunk in chunks:
        sequence, start = chunk.sequence, chunk.start
        offset = num_short if sequence.is_long else 0
        if chunk.num_tokens == 1:
            ids.append(sequence.token_ids[start])
            rope_rows.append(start + offset)
            slots.append(sequence.pages[start // page_tokens] * page_tokens + start % page_tokens)
        else:
            positions = np.arange(start, chunk.stop)
            pages = np.array(sequence.pages)[positions // page_tokens]
            ids += sequence.token_ids[start : chunk.stop]
            rope_rows += (positions + offset).tolist()
            slots += (pages * page_tokens + positions % page_tokens).tolist()
        if chunk.is_last:
            last_rows.append(len(ids) - 1)
    return _Layout(ids, rope_rows, slots, last_rows)


def _overlays(chunks: Row[Chunk]) -> list[_Overlay]:
    starts = accumulate((chunk.num_tokens for chunk in chunks), initial=0)
    overlays = []
    for chunk, row in zip(chunks, starts, strict=False):  # the last start is the end
        if chunk.start >= chunk.sequence.num_prompt:
            continue
        for place in chunk.sequence.placements:
            first, stop = max(place.start, chunk.start), min(place.stop, chunk.stop)
            if first < stop:
                overlays.append(
                    _Overlay(
                        picture=place.picture,
                        first=first - place.start,
                        row=row + first - chunk.start,
                        count=stop - first,
                    )
                )
    return overlays


def _ops(device: torch.device) -> Ops:
    if triton_missing(device) is not None:
        return TorchOps()
    from visionq_worker.model.kernels import TritonOps

    return TritonOps()
