"""The small steps between a decoder layer's matrix products, each as one Triton kernel.

They are bound by memory and by launches, not by arithmetic: one kernel in place of several saves
passes over the tensors. Arithmetic is in float32 whatever the tensors hold. Attention is in
`paged_decode`. Importing this needs triton.
"""

import torch
import triton
import triton.language as tl

SILU_BLOCK = 1024  # elements: 8 programs a token at Phi-3's 8192, one vector of 16 bytes a thread


def add_rms_norm(
    hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The RMS norm of hidden + residual, and that sum: each (tokens, width).

    Without a residual the sum is `hidden` itself. As in Phi-3 the sum and the normed values are
    rounded to the tensors' type before they are used further.
    """
    num_tokens, width = hidden.shape
    assert all(t is None or t.is_contiguous() for t in (hidden, residual))
    normed = torch.empty_like(hidden)
    summed = hidden if residual is None else torch.empty_like(hidden)
    # 8 warps: at width 3072 each thread keeps 16 values in registers between the two passes.
    _add_rms_norm[(num_tokens,)](
        hidden,
        residual,
        weight,
        normed,
        summed,
        eps,
        width=width,
        padded_width=triton.next_power_of_2(width),
        num_warps=8,
    )
    return normed, summed


def rotate_and_store(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    rows: torch.Tensor,
    slots: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
) -> torch.Tensor:
    """Rotates queries and keys, and puts keys and values into their pool; returns the queries.

    qkv: (tokens, 3 * heads * head_dim), contiguous. cos, sin: (positions, head_dim / 2) float32,
    contiguous. rows: (tokens,) int64, each token's row of cos and sin. slots: (tokens,) int64,
    page * page_tokens + offset of each token in the pool; -1 stores nothing (padding of a CUDA
    graph). keys, values: (num_pages, page_tokens, heads, head_dim), of equal strides and
    contiguous in the last dimension. Returns (tokens, heads, head_dim).

    The reference rounds cos and sin to the tensors' type first; float32 is nearer to exact.
    """
    num_tokens = len(qkv)
    _, page_tokens, num_heads, head_dim = keys.shape
    assert qkv.shape[1] == 3 * num_heads * head_dim, "as many heads as the pool's"
    assert all(tensor.is_contiguous() for tensor in (qkv, cos, sin))
    assert keys.shape == values.shape, "one pool"
    assert keys.stride() == values.stride(), "one layout"
    assert keys.stride(-1) == 1, "the last dimension is contiguous"
    queries = qkv.new_empty((num_tokens, num_heads, head_dim))
    _rotate_and_store[(num_tokens,)](
        qkv,
        cos,
        sin,
        rows,
        slots,
        keys,
        values,
        queries,
        *keys.stride()[:3],
        page_tokens=page_tokens,
        num_heads=num_heads,
        half=head_dim // 2,
        padded_heads=triton.next_power_of_2(num_heads),
        padded_half=triton.next_power_of_2(head_dim // 2),
        num_warps=4,
    )
    return queries


def silu_mul(gate_up: torch.Tensor) -> torch.Tensor:
    """silu(gate) * up of (tokens, 2 * inner), whose first half is the gate: (tokens, inner)."""
    num_tokens, inner = len(gate_up), gate_up.shape[1] // 2
    assert gate_up.is_contiguous()
    result = gate_up.new_empty((num_tokens, inner))
    grid = (num_tokens, triton.cdiv(inner, SILU_BLOCK))
    _silu_mul[grid](gate_up, result, inner, block=SILU_BLOCK, num_warps=4)
    return result


class TritonOps:
    """The steps as the decoder takes them."""

    name = "triton"
    add_rms_norm = staticmethod(add_rms_norm)
    rotate_and_store = staticmethod(rotate_and_store)
    silu_mul = staticmethod(silu_mul)


@triton.jit
def _add_rms_norm(
    hidden: tl.tensor,
    residual: tl.tensor,  # None: nothing to add, and no sum to write
    weight: tl.tensor,
    normed: tl.tensor,
    summed: tl.tensor,
    eps: tl.tensor,
    width: tl.constexpr,
    padded_width: tl.constexpr,
) -> None:
    """One token."""
    dims = tl.arange(0, padded_width)
    real = dims < width
    places = tl.program_id(0).to(tl.int64) * width + dims

    total = tl.load(hidden + places, mask=real, other=0.0)
    if residual is not None:
        total = total.to(tl.float32) + tl.load(residual + places, mask=real, other=0.0)
        total = total.to(summed.dtype.element_ty)
        tl.store(summed + places, total, mask=real)
    total = total.to(tl.float32)
    mean_square = tl.sum(total * total, axis=0) / width
    rounded = (total * tl.rsqrt(mean_square + eps)).to(normed.dtype.element_ty)
    factor = tl.load(weight + dims, mask=real, other=0.0)
    tl.store(normed + places, rounded.to(tl.float32) * factor, mask=real)


@triton.jit
def _rotate_and_store(
    qkv: tl.tensor,
    cos: tl.tensor,
    sin: tl.tensor,
    rows: tl.tensor,
    slots: tl.tensor,
    keys: tl.tensor,
    values: tl.tensor,
    queries: tl.tensor,
    page_stride: tl.tensor,
    token_stride: tl.tensor,
    head_stride: tl.tensor,
    page_tokens: tl.constexpr,
    num_heads: tl.constexpr,
    half: tl.constexpr,
    padded_heads: tl.constexpr,
    padded_half: tl.constexpr,
) -> None:
    """One token: tiles of (heads, half of head_dim); element i of a head turns with i + half."""
    token = tl.program_id(0).to(tl.int64)
    heads = tl.arange(0, padded_heads)[:, None]
    pairs = tl.arange(0, padded_half)[None, :]
    real = (heads < num_heads) & (pairs < half)
    inside = heads * 2 * half + pairs  # of a token's queries, keys or values
    width = num_heads * 2 * half

    angle = tl.load(rows + token) * half + pairs
    cosine = tl.load(cos + angle, mask=pairs < half, other=0.0)
    sine = tl.load(sin + angle, mask=pairs < half, other=0.0)

    source = qkv + token * 3 * width + inside
    first = tl.load(source, mask=real, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=real, other=0.0).to(tl.float32)
    target = queries + token * width + inside
    tl.store(target, first * cosine - second * sine, mask=real)
    tl.store(target + half, second * cosine + first * sine, mask=real)

    slot = tl.load(slots + token)
    if slot >= 0:
        place = (slot // page_tokens) * page_stride + (slot % page_tokens) * token_stride
        place = place + heads * head_stride + pairs

        source += width
        first = tl.load(source, mask=real, other=0.0).to(tl.float32)
        second = tl.load(source + half, mask=real, other=0.0).to(tl.float32)
        tl.store(keys + place, first * cosine - second * sine, mask=real)
        tl.store(keys + place + half, second * cosine + first * sine, mask=real)

        source += width
        tl.store(values + place, tl.load(source, mask=real), mask=real)
        tl.store(values + place + half, tl.load(source + half, mask=real), mask=real)


@triton.jit
def _silu_mul(gate_up: tl.tensor, result: tl.tensor, inner: tl.tensor, block: tl.constexpr) -> None:
    """One block of one token."""
    token = tl.program_id(0).to(tl.int64)
    dims = tl.program_id(1) * block + tl.arange(0, block)
    real = dims < inner
    source = gate_up + token * 2 * inner + dims
    gate = tl.load(source, mask=real, other=0.0).to(tl.float32)
    up = tl.load(source + inner, mask=real, other=0.0).to(tl.float32)
    tl.store(result + token * inner + dims, gate * tl.sigmoid(gate) * up, mask=real)
