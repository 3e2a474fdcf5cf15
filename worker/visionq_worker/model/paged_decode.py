"""Attention of each sequence's newest token over its paged KV cache: flash-decoding in Triton.

A row's keys are shared out over `num_splits` programs, each of which walks its share once with an
online softmax in float32; a second kernel weighs their results together. Every head has its own
keys and values, as in Phi-3. Left out: grouped queries, several new tokens per row (prefill), and
checks of what the tables hold, which would stall the GPU.
"""

from functools import cache
from math import e, log2

import torch
import triton
import triton.language as tl

# Below any score; finite, since the difference of two infinities is not a number.
NO_SCORE = tl.constexpr(-1e30)

MAX_BLOCK = 64  # keys; with their values 24 KB at head_dim 96 in bf16
MAX_TILE = 64 * 128  # of keys and padded head_dim: with float32 at 256 shared memory would not do
# A page's number, then its keys and values, then their use: while one block is used, the next one
# is on its way.
NUM_STAGES = 3
# Of the accumulator a thread holds 32 values. For Phi-3 on sm_90 that makes 8 warps of 102
# registers and 64 KB of shared memory, so two programs fit on an SM, and float32 does not spill.
ACCUMULATED_PER_WARP = 32 * 32
# Two programs with 24 KB on its way each hide the latency of an H100 or H200, which asks for about
# 20 KB per SM (bandwidth x 0.7 us); more splits would only add partial results to combine.
PROGRAMS_PER_SM = 2
MAX_SPLITS = 64
INTERPRETED_SMS = 4  # it runs programs one by one; a few, so that it splits rows too


def paged_decode(
    queries: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    tables: torch.Tensor,
    lengths: torch.Tensor,
    *,
    num_splits: int | None = None,
) -> torch.Tensor:
    """softmax(q k / sqrt(head_dim)) v of every row over its first keys: (n, heads, head_dim).

    queries: (n, heads, head_dim), contiguous. keys, values: one layer's pool, (num_pages,
    page_tokens, heads, head_dim), of equal strides and contiguous in the last dimension;
    page_tokens is a power of two, 16 to 1024. tables: (n, max_pages) int32, the numbers of each
    row's pages in order; entries past its length are never looked at. lengths: (n,) int32, each
    row's keys, the new token's included; a row of length 0 gives zeros.

    Nothing waits for the GPU and no shape depends on what a tensor holds, so a CUDA graph can
    hold the call; call it once before the capture, for compiling. All tensors lie on one device,
    the current one.
    """
    num_rows, num_heads, head_dim = queries.shape
    page_tokens = keys.shape[1]
    assert all(tensor.is_contiguous() for tensor in (queries, lengths))
    assert tables.stride(-1) == keys.stride(-1) == 1, "the last dimension is contiguous"
    assert keys.shape == values.shape, "one pool"
    assert keys.stride() == values.stride(), "one layout"
    assert page_tokens in (16, 32, 64, 128, 256, 512, 1024), page_tokens
    assert head_dim <= 256, head_dim
    if num_splits is None:
        num_splits = splits_for(num_rows * num_heads, num_sms(queries.device))
    padded_dim = triton.next_power_of_2(head_dim)
    block = min(MAX_BLOCK, MAX_TILE // padded_dim, page_tokens)

    result = torch.empty_like(queries)
    partials, log_sums = result, None
    if num_splits > 1:
        partials = queries.new_empty((num_splits, *queries.shape), dtype=torch.float32)
        log_sums = queries.new_empty((num_splits, num_rows, num_heads), dtype=torch.float32)
    # Heads vary fastest: those of one token lie side by side in memory.
    _attend[(num_heads, num_rows, num_splits)](
        queries,
        keys,
        values,
        tables,
        lengths,
        partials,
        log_sums,
        log2(e) * head_dim**-0.5,
        tables.stride(0),
        *keys.stride()[:3],
        page_tokens=page_tokens,
        block=block,
        head_dim=head_dim,
        padded_dim=padded_dim,
        stages=NUM_STAGES,
        num_warps=max(1, block * padded_dim // ACCUMULATED_PER_WARP),
    )
    if num_splits > 1:
        _combine[(num_heads, num_rows)](
            partials,
            log_sums,
            result,
            num_splits,
            head_dim=head_dim,
            padded_dim=padded_dim,
            padded_splits=triton.next_power_of_2(num_splits),
            num_warps=4,
        )
    return result


def splits_for(num_programs: int, num_sms: int) -> int:
    """How many splits fill the device, given how many programs there are without any.

    32 heads on an H100's 132 SMs: 8 splits (256 programs) for one row, 2 for four, 1 from five on.
    """
    return min(max(1, PROGRAMS_PER_SM * num_sms // max(1, num_programs)), MAX_SPLITS)


@cache
def num_sms(device: torch.device) -> int:
    if device.type != "cuda":
        return INTERPRETED_SMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


@triton.jit
def _attend(
    queries: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    tables: tl.tensor,
    lengths: tl.tensor,
    results: tl.tensor,  # (splits, n, heads, head_dim)
    log_sums: tl.tensor,  # (splits, n, heads), log2 of the softmax's denominators; None: not wanted
    scale: tl.tensor,  # of a score, in powers of two
    table_stride: tl.tensor,
    page_stride: tl.tensor,
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    page_tokens: tl.constexpr,
    block: tl.constexpr,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    stages: tl.constexpr,
) -> None:
    """One split of one row and head.

    Each lane of a block keeps a softmax of its own until the end, so the loop needs no exchange
    between threads but the sum of a score. A block lies within one page.
    """
    head = tl.program_id(0)
    row = tl.program_id(1)
    split = tl.program_id(2)
    cell = row * tl.num_programs(0) + head
    lanes = tl.arange(0, block)
    dims = tl.arange(0, padded_dim)
    real = dims < head_dim

    length = tl.load(lengths + row)
    share = tl.cdiv(tl.cdiv(length, block), tl.num_programs(2)) * block
    first = split * share
    last = tl.minimum(first + share, length)

    query = tl.load(queries + cell * head_dim + dims, mask=real, other=0.0).to(tl.float32) * scale
    inside = lanes[:, None] * token_stride + head * head_stride + dims[None, :]
    top = tl.full((block,), NO_SCORE, tl.float32)
    total = tl.zeros((block,), tl.float32)
    mixed = tl.zeros((block, padded_dim), tl.float32)
    for start in tl.range(first, last, block, num_stages=stages):
        # 64 bits: a pool may hold more elements than 32 can count.
        page = tl.load(tables + row * table_stride + start // page_tokens).to(tl.int64)
        place = page * page_stride + (start % page_tokens) * token_stride + inside
        valid = start + lanes < last
        mask = valid[:, None] & real[None, :]
        key = tl.load(keys + place, mask=mask, other=0.0).to(tl.float32)
        value = tl.load(values + place, mask=mask, other=0.0).to(tl.float32)

        score = tl.where(valid, tl.sum(query[None, :] * key, axis=1), NO_SCORE)
        new_top = tl.maximum(top, score)
        kept = tl.exp2(top - new_top)
        weight = tl.where(valid, tl.exp2(score - new_top), 0.0)
        total = total * kept + weight
        mixed = mixed * kept[:, None] + weight[:, None] * value
        top = new_top

    peak = tl.max(top, axis=0)
    lane_weight = tl.exp2(top - peak)
    denominator = tl.sum(total * lane_weight, axis=0)
    denominator = tl.where(denominator == 0.0, 1.0, denominator)  # no keys: zeros
    result = tl.sum(mixed * lane_weight[:, None], axis=0) / denominator

    place = split * tl.num_programs(1) * tl.num_programs(0) + cell
    tl.store(results + place * head_dim + dims, result, mask=real)
    if log_sums is not None:
        tl.store(log_sums + place, peak + tl.log2(denominator))


@triton.jit
def _combine(
    partials: tl.tensor,
    log_sums: tl.tensor,
    results: tl.tensor,
    num_splits: tl.tensor,
    head_dim: tl.constexpr,
    padded_dim: tl.constexpr,
    padded_splits: tl.constexpr,
) -> None:
    """The mean of a cell's partial results, weighted by their denominators."""
    cell = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
    num_cells = tl.num_programs(1) * tl.num_programs(0)
    splits = tl.arange(0, padded_splits)
    dims = tl.arange(0, padded_dim)
    present = splits < num_splits
    real = dims < head_dim

    places = splits * num_cells + cell
    log_sum = tl.load(log_sums + places, mask=present, other=float("-inf"))
    partial = tl.load(
        partials + places[:, None] * head_dim + dims[None, :],
        mask=present[:, None] & real[None, :],
        other=0.0,
    )
    weight = tl.exp2(log_sum - tl.max(log_sum, axis=0))
    result = tl.sum(weight[:, None] * partial, axis=0) / tl.sum(weight, axis=0)
    tl.store(results + cell * head_dim + dims, result, mask=real)
