"""The decoder's small operations, which a GPU wants fused: the interface, and plain PyTorch.

The plain form is the CPU's path and the measure of the fused one (`kernels`).
"""

from typing import Protocol

import torch
from torch.nn import functional


class Ops(Protocol):
    """What surrounds the matrix products of a decoder layer."""

    name: str

    def add_rms_norm(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, width) normalised after the residual was added, and their plain sum."""
        ...

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        rows: torch.Tensor,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        """Rotated queries (tokens, heads, head_dim); rotated keys and values go into the cache.

        qkv (tokens, 3 heads head_dim); cos, sin (table rows, head_dim / 2) and the row of each
        token; slots (tokens,): page * page_tokens + offset; keys, values (pages, page_tokens,
        heads, head_dim).
        """
        ...

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        """(tokens, 2 inner), the gate first, to (tokens, inner)."""
        ...


class TorchOps:
    """Plain PyTorch, on any device."""

    name = "torch"

    def add_rms_norm(
        self, hidden: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor, eps: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        total = hidden if residual is None else hidden + residual
        return functional.rms_norm(total, weight.shape, weight, eps), total

    def rotate_and_store(
        self,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        rows: torch.Tensor,
        slots: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
    ) -> torch.Tensor:
        heads, head_dim = keys.shape[-2:]
        both = qkv.view(-1, 3, heads, head_dim)  # (tokens, 3, heads, head_dim)
        turn_cos, turn_sin = cos[rows][:, None, None], sin[rows][:, None, None]
        first, second = both[:, :2].chunk(2, dim=-1)  # of queries and keys, half a head each
        turned = torch.cat(
            [first * turn_cos - second * turn_sin, second * turn_cos + first * turn_sin], dim=-1
        ).to(qkv)  # (tokens, 2, heads, head_dim)
        keys.flatten(0, 1).index_copy_(0, slots, turned[:, 1])
        values.flatten(0, 1).index_copy_(0, slots, both[:, 2])
        return turned[:, 0]

    def silu_mul(self, gate_up: torch.Tensor) -> torch.Tensor:
        gate, up = gate_up.chunk(2, dim=-1)
        return functional.silu(gate) * up
