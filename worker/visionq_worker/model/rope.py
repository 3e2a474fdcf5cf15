"""Rotary angles for both of LongRoPE's factor sets, in one table.

The published model looks at the longest sequence of a batch and turns every position of the batch
by the short or the long factors. Here each request has a choice of its own: its rows of the table.
The angles are computed by transformers' own module, so that they are the reference's to the bit.
"""

from dataclasses import dataclass

import torch

from visionq_worker.model.phi3v import Phi3VForCausalLM


@dataclass(frozen=True, slots=True, eq=False)
class RopeTable:
    """Cosines and sines, (rows, head_dim / 2) float32 each: short positions, then long ones."""

    cos: torch.Tensor
    sin: torch.Tensor
    # Rows of short positions; the long ones follow. A sequence of more tokens than this needs the
    # long rows, from its first token on.
    num_short: int


def rope_table(model: Phi3VForCausalLM, max_tokens: int) -> RopeTable:
    """The table for sequences of up to `max_tokens`, on the model's device."""
    num_short = model.config.original_max_position_embeddings
    parts = [_angles(model, num_short)]
    if max_tokens > num_short:
        parts.append(_angles(model, max_tokens))
    cos, sin = (torch.cat(halves) for halves in zip(*parts, strict=True))
    return RopeTable(cos=cos, sin=sin, num_short=num_short)


def _angles(model: Phi3VForCausalLM, num_positions: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(positions, head_dim / 2) twice, as a sequence of this length is turned."""
    positions = torch.arange(num_positions, device=model.device)
    like = torch.empty(0, dtype=torch.float32, device=model.device)
    cos, sin = model.model.rotary_emb(like, positions[None])  # (1, positions, head_dim)
    half = cos.shape[-1] // 2  # the second half repeats the first
    return cos[0, :, :half].contiguous(), sin[0, :, :half].contiguous()
