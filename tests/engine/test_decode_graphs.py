"""Decode over fixed tensors, as CUDA graphs want it, run on the CPU without being captured."""

from __future__ import annotations

import pytest
import torch

from tests.support.tiny import tiny_model
from visionq_worker.engine.graphs import DecodeGraphs, batch_sizes
from visionq_worker.model.attention import (
    SdpaAttention,
    Span,
    SplitAttention,
    TableAttention,
    Tables,
)
from visionq_worker.model.decoder import Cache, PackedDecoder, Pass
from visionq_worker.model.ops import TorchOps
from visionq_worker.model.rope import rope_table

PAGE_TOKENS = 16
NUM_PAGES = 12
CPU = torch.device("cpu")


def table_kernel(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: Tables
) -> torch.Tensor:
    """What a decode kernel does, by the plain implementation: it reads nothing but the tables."""
    spans = [
        Span(pages[: -(-length // PAGE_TOKENS)], length, 1)
        for pages, length in zip(tables.pages.tolist(), tables.lengths.tolist(), strict=True)
    ]
    sdpa = SdpaAttention(PAGE_TOKENS)
    return sdpa(queries, keys, values, sdpa.plan(spans))


@pytest.fixture(scope="module")
def decoder() -> PackedDecoder:
    loaded = tiny_model()
    attention = SplitAttention(
        TableAttention("tables", table_kernel, CPU), SdpaAttention(PAGE_TOKENS)
    )
    rope = rope_table(loaded.model, 5_000)
    return PackedDecoder(loaded.model, rope=rope, ops=TorchOps(), attention=attention)


def graphs(decoder: PackedDecoder, cache: Cache) -> DecodeGraphs:
    return DecodeGraphs(
        decoder,
        cache,
        batch_sizes=[1, 2, 4],
        most_pages=4,
        page_tokens=PAGE_TOKENS,
        scratch_page=NUM_PAGES,
        device=CPU,
    )


def filled_cache(decoder: PackedDecoder) -> Cache:
    cache = decoder.new_cache(NUM_PAGES + 1, PAGE_TOKENS)
    generator = torch.Generator().manual_seed(0)
    for layer in cache.layers:
        for tensor in layer:
            tensor.normal_(generator=generator)
    return cache


@pytest.mark.parametrize("num_rows", [1, 2, 3, 4])
@torch.inference_mode()
def test_fixed_pass_equals_a_packed_one_and_its_padding_touches_nobody(
    decoder: PackedDecoder, num_rows: int
) -> None:
    tables = [[3, 7], [0], [11, 2, 5], [1, 4, 6, 8]][:num_rows]
    lengths = [20, 1, 33, 64][:num_rows]
    ids = [5, 300, 17, 42][:num_rows]
    slots = [
        table[(length - 1) // PAGE_TOKENS] * PAGE_TOKENS + (length - 1) % PAGE_TOKENS
        for table, length in zip(tables, lengths, strict=True)
    ]
    rows = [length - 1 for length in lengths]
    packed_cache, fixed_cache = filled_cache(decoder), filled_cache(decoder)
    spans = [Span(table, length, 1) for table, length in zip(tables, lengths, strict=True)]
    where = Pass(
        rope_rows=torch.tensor(rows),
        slots=torch.tensor(slots),
        plan=decoder.attention.plan(spans),
    )
    expected = decoder.logits(decoder(decoder.embed(torch.tensor(ids)), where, packed_cache))

    fixed = graphs(decoder, fixed_cache)
    fixed.run([1, 2, 3, 4], [0] * 4, [9, 8, 7, 6], [[0]] * 4, [5] * 4)  # what lies there is old
    for changed, original in zip(fixed_cache.layers, filled_cache(decoder).layers, strict=True):
        for one, other in zip(changed, original, strict=True):
            one.copy_(other)
    logits = fixed.run(ids, rows, slots, tables, lengths)

    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    for packed, alike in zip(packed_cache.layers, fixed_cache.layers, strict=True):
        for one, other in zip(packed, alike, strict=True):
            # All pages but the one that nobody owns.
            torch.testing.assert_close(one[:NUM_PAGES], other[:NUM_PAGES], rtol=0, atol=1e-5)


def test_sizes_are_close_to_any_batch_and_hold_the_largest() -> None:
    assert batch_sizes(1) == [1]
    assert batch_sizes(2) == [1, 2]
    assert batch_sizes(6) == [1, 2, 4, 8]
    assert batch_sizes(24) == [1, 2, 4, 8, 16, 24]
    assert batch_sizes(30) == [1, 2, 4, 8, 16, 24, 32]
    for most in range(1, 100):
        sizes = batch_sizes(most)
        assert sizes == sorted(set(sizes))
        assert sizes[-1] >= most
