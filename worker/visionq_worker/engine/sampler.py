"""From scores to tokens: greedy or drawn, row by row, each request by itself.

A draw depends on the request's seed and on how many tokens it has, on nothing else: the same
request draws the same whatever shares its batch, and after a preemption too.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from dataclasses import dataclass
from hashlib import blake2b

import torch


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """How one row's token is chosen."""

    temperature: float
    top_p: float
    seed: int
    position: int  # which token of the answer this is, from 0
    wants_logprob: bool = False
    allowed: torch.Tensor | None = None  # (vocabulary,) bool


@dataclass(frozen=True, slots=True)
class Choice:
    """The token of one row; None when the row has no finite score to choose by."""

    token_id: int | None
    logprob: float | None = None


def choose(logits: torch.Tensor, picks: Row[Pick], *, never: int) -> list[Choice]:
    """One choice per row of (rows, vocabulary) float32 scores, which are changed in place.

    `never` is a token that is not to be chosen by anyone. Waits for the device once.
    """
    logits[:, never] = -torch.inf
    _mask(logits, [pick.allowed for pick in picks])
    best, token_ids = logits.max(dim=-1)  # a NaN anywhere in the row comes out as the best
    drawn = [row for row, pick in enumerate(picks) if pick.temperature > 0]
    if drawn:
        token_ids[drawn] = _draw(logits[drawn], [picks[row] for row in drawn])
    columns = [best, token_ids.to(best.dtype)]  # ids are exact in float32 up to 2^24
    if any(pick.wants_logprob for pick in picks):
        columns.append(logits.log_softmax(dim=-1).gather(1, token_ids[:, None])[:, 0])
    return [
        _choice(pick, *numbers)
        for pick, numbers in zip(picks, torch.stack(columns, dim=1).tolist(), strict=True)
    ]


def uniform(seed: int, position: int) -> float:
    """The request's draw for that token: a number in [0, 1), the same on every machine."""
    text = f"{seed}:{position}".encode()
    return (int.from_bytes(blake2b(text, digest_size=8).digest()[:7], "big") >> 3) / 2**53


def _mask(logits: torch.Tensor, allowed: Row[torch.Tensor | None]) -> None:
    """Put -inf where a token may not come: one transfer for all rows, each filled in its place."""
    masks = {row: mask for row, mask in enumerate(allowed) if mask is not None}
    if not masks:
        return
    forbidden = ~torch.stack(list(masks.values())).to(logits.device)
    for row, mask in zip(masks, forbidden, strict=True):
        logits[row].masked_fill_(mask, -torch.inf)


def _draw(logits: torch.Tensor, picks: Row[Pick]) -> torch.Tensor:
    """(rows,) ids: temperature, then the smallest set of tokens that reaches top_p, then a draw."""
    rows = [(pick.temperature, pick.top_p, uniform(pick.seed, pick.position)) for pick in picks]
    numbers = torch.tensor(rows, dtype=torch.float32, device=logits.device)
    temperature, top_p, draw = numbers.T[..., None]  # (rows, 1) each
    # Below 0, and divided by nothing extreme: what is finite and what is not stays so.
    below = logits - logits.amax(dim=-1, keepdim=True)
    scaled = below / temperature.clamp(1e-30, 1e30)
    scaled, order = scaled.sort(dim=-1, descending=True, stable=True)
    chances = scaled.softmax(dim=-1)
    reached = chances.cumsum(dim=-1)
    is_kept = (reached - chances < top_p) & (chances > 0)
    last = (is_kept.sum(dim=-1, keepdim=True) - 1).clamp(min=0)
    # The first token whose share of what is kept exceeds the draw; a draw may be rounded up to 1.
    index = (reached <= draw * reached.gather(1, last)).sum(dim=-1, keepdim=True).minimum(last)
    chosen: torch.Tensor = order.gather(1, index)[:, 0]
    return chosen


def _choice(pick: Pick, best: float, token_id: float, logprob: float | None = None) -> Choice:
    if not -torch.inf < best < torch.inf:
        return Choice(None)
    return Choice(int(token_id), logprob if pick.wants_logprob else None)
