"""Attention over the paged cache, behind one door: `choose_attention` takes what the machine has.

A pass packs the new tokens of several sequences one behind the other, without padding. Sequences
with one new token (decode) come first, so that a kernel made for them can take those rows and
another one the rest (prefill). Keys and values of the new tokens are in the cache already.

There are flash-attn's kernels, PyTorch's `varlen_attn`, our own Triton kernel for decode, and
`SdpaAttention` over gathered pages, which is the CPU's path and the measure of the others.
"""

import importlib.util
import inspect
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional

from visionq_worker.model.errors import ModelLoadError

log = logging.getLogger(__name__)

ATTENTION_NAMES = ("auto", "flash", "varlen", "triton", "sdpa")
FLASH_PAGE_TOKENS = 256
"""The paged kernels of flash-attn, which PyTorch's are too, want pages of a multiple of this."""


@dataclass(frozen=True, slots=True)
class Span:
    """The new tokens of one sequence in a pass: the last `num_new` of its `num_keys` tokens."""

    pages: Sequence[int]
    num_keys: int
    num_new: int


class Attention(Protocol):
    """Attention of one layer, causal within each sequence."""

    name: str
    cache_order: tuple[int, int, int, int]
    """How pages (0), their tokens (1), heads (2) and head_dim (3) should follow in memory."""

    def plan(self, spans: Sequence[Span]) -> Any:
        """What all layers need to know of one pass; only the implementation looks into it."""
        ...

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: Any
    ) -> torch.Tensor:
        """(tokens, heads, head_dim) for queries of that shape, in the order of the spans.

        keys, values: one layer of the cache, (pages, page_tokens, heads, head_dim).
        """
        ...


class SdpaAttention:
    """PyTorch's scaled_dot_product_attention, one sequence after the other. Any device and dtype.

    Pages that lie one behind the other are read where they are; others are copied together first.
    """

    name = "sdpa"
    # A head's keys one behind the other: on a CPU a decode step then takes a third of the time.
    cache_order = (2, 0, 1, 3)

    def __init__(self, page_tokens: int) -> None:
        self._page_tokens = page_tokens

    def plan(self, spans: Sequence[Span]) -> list[tuple[int, list[slice]]]:
        """Per span its number of new tokens and the runs of slots where its keys lie."""
        return [(span.num_new, slot_runs(span, self._page_tokens)) for span in spans]

    def __call__(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        plan: list[tuple[int, list[slice]]],
    ) -> torch.Tensor:
        # Pages as one row of slots: a view, whatever the cache's order.
        flat = (queries, keys.flatten(0, 1), values.flatten(0, 1))
        q, k, v = (tensor.transpose(0, 1)[None] for tensor in flat)  # (1, heads, slots, head_dim)
        outputs, row = torch.empty_like(queries), 0
        heads_first = outputs.transpose(0, 1)[None]
        for num_new, runs in plan:
            part = slice(row, row + num_new)
            heads_first[:, :, part] = _causal(q[:, :, part], _gathered(k, runs), _gathered(v, runs))
            row += num_new
        return outputs


def slot_runs(span: Span, page_tokens: int) -> list[slice]:
    """The slots of a sequence's keys, neighbouring pages as one run."""
    runs: list[slice] = []
    left = span.num_keys
    for page in span.pages:
        if left <= 0:
            break
        first, count = page * page_tokens, min(page_tokens, left)
        if runs and runs[-1].stop == first:
            runs[-1] = slice(runs[-1].start, first + count)
        else:
            runs.append(slice(first, first + count))
        left -= count
    assert left <= 0, "a sequence has pages for all its keys"
    return runs


def _gathered(flat: torch.Tensor, runs: Sequence[slice]) -> torch.Tensor:
    """(1, heads, keys, head_dim) of (1, heads, slots, head_dim); a view where one run holds all."""
    if len(runs) == 1:
        return flat[:, :, runs[0]]
    return torch.cat([flat[:, :, run] for run in runs], dim=2)


def _causal(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """One sequence's attention, (1, heads, tokens, head_dim); its queries are its last tokens."""
    num_new, num_keys = queries.shape[2], keys.shape[2]
    mask = None
    if 1 < num_new < num_keys:
        seen = torch.ones(num_new, num_keys, dtype=torch.bool, device=queries.device)
        mask = seen.tril(num_keys - num_new)
    return functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=mask, is_causal=1 < num_new == num_keys
    )


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """Spans as a kernel reads them, int32 on the device."""

    pages: torch.Tensor  # (sequences, most pages); behind a sequence's own: anything
    lengths: torch.Tensor  # (sequences,) keys, the new tokens' included
    starts: torch.Tensor  # (sequences + 1,) first row of each sequence
    most_new: int
    most_keys: int

    def key_starts(self) -> torch.Tensor:
        """(sequences + 1,) as if the keys lay one behind the other."""
        return functional.pad(self.lengths.cumsum(0, dtype=torch.int32), (1, 0))


Kernel = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, Tables], torch.Tensor]


class TableAttention:
    """A kernel that reads page tables."""

    cache_order = (0, 1, 2, 3)

    def __init__(self, name: str, kernel: Kernel, device: torch.device) -> None:
        self.name = name
        self._kernel = kernel
        self._device = device

    def plan(self, spans: Sequence[Span]) -> Tables:
        width = max(len(span.pages) for span in spans)
        pages = np.zeros((len(spans), width), dtype=np.int32)
        for row, span in enumerate(spans):
            pages[row, : len(span.pages)] = span.pages
        lengths = np.array([span.num_keys for span in spans], dtype=np.int32)
        starts = [0, *accumulate(span.num_new for span in spans)]
        return Tables(
            pages=torch.from_numpy(pages).to(self._device),
            lengths=torch.from_numpy(lengths).to(self._device),
            starts=torch.tensor(starts, dtype=torch.int32).to(self._device),
            most_new=max(span.num_new for span in spans),
            most_keys=int(lengths.max()),
        )

    def decode_plan(self, pages: torch.Tensor, lengths: torch.Tensor, most_keys: int) -> Tables:
        """A plan of one new token per row over tensors whose content changes between passes."""
        count = len(lengths)
        starts = torch.arange(count + 1, dtype=torch.int32, device=lengths.device)
        return Tables(pages=pages, lengths=lengths, starts=starts, most_new=1, most_keys=most_keys)

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: Tables
    ) -> torch.Tensor:
        return self._kernel(queries, keys, values, plan)


@dataclass(frozen=True, slots=True)
class SplitPlan:
    """Plans of the two halves; None where a pass has no such rows."""

    num_decode: int
    decode: Any
    prefill: Any


class SplitAttention:
    """One implementation for the leading sequences of one new token, another one for the rest."""

    cache_order = TableAttention.cache_order

    def __init__(self, decode: TableAttention, prefill: Attention) -> None:
        self.name = f"{decode.name}+{prefill.name}"
        self.decode = decode
        self.prefill = prefill

    def plan(self, spans: Sequence[Span]) -> SplitPlan:
        count = next((i for i, span in enumerate(spans) if span.num_new > 1), len(spans))
        return SplitPlan(
            num_decode=count,
            decode=self.decode.plan(spans[:count]) if count else None,
            prefill=self.prefill.plan(spans[count:]) if count < len(spans) else None,
        )

    def decode_plan(self, pages: torch.Tensor, lengths: torch.Tensor, most_keys: int) -> SplitPlan:
        plan = self.decode.decode_plan(pages, lengths, most_keys)
        return SplitPlan(num_decode=len(lengths), decode=plan, prefill=None)

    def __call__(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, plan: SplitPlan
    ) -> torch.Tensor:
        count = plan.num_decode
        if plan.prefill is None:
            return self.decode(queries, keys, values, plan.decode)
        if plan.decode is None:
            return self.prefill(queries, keys, values, plan.prefill)
        first = self.decode(queries[:count], keys, values, plan.decode)
        rest = self.prefill(queries[count:], keys, values, plan.prefill)
        return torch.cat([first, rest])


def choose_attention(
    name: str, *, device: torch.device, dtype: torch.dtype, page_tokens: int
) -> Attention:
    """The implementation of that name, or for "auto" the best there is; the choice is logged.

    "triton" means our kernel for decode and the best of the others for prefill. Raises
    ModelLoadError, which says what is missing.
    """
    if name not in ATTENTION_NAMES:
        raise ModelLoadError(f"unknown attention {name!r}: use one of {', '.join(ATTENTION_NAMES)}")
    sdpa = SdpaAttention(page_tokens)
    if name == "sdpa" or (name == "auto" and device.type != "cuda"):
        chosen: Attention = sdpa
    else:
        chosen = _kernels(name, sdpa, device, dtype, page_tokens)
    log.info("attention: %s (asked for: %s) on %s, %s", chosen.name, name, device, dtype)
    return chosen


def _kernels(
    name: str, sdpa: SdpaAttention, device: torch.device, dtype: torch.dtype, page_tokens: int
) -> Attention:
    """Of the attentions that a GPU has, the one asked for."""
    missing = {
        "flash": flash_missing(device, dtype, page_tokens),
        "varlen": varlen_missing(device, dtype, page_tokens),
        "triton": triton_missing(device),
    }
    log.info("attention kernels: %s", {key: reason or "there" for key, reason in missing.items()})
    if reason := missing.get(name):
        raise ModelLoadError(f"attention {name} is not to be had: {reason}")
    if name == "flash" or (name != "varlen" and missing["flash"] is None):
        prefill: Attention = TableAttention("flash", flash_kernel(), device)
    elif missing["varlen"] is None:
        prefill = TableAttention("varlen", varlen_kernel(), device)
    else:
        prefill = sdpa
    if name in ("flash", "varlen") or missing["triton"] is not None:
        return prefill
    return SplitAttention(TableAttention("triton", triton_kernel(), device), prefill)


def flash_missing(device: torch.device, dtype: torch.dtype, page_tokens: int) -> str | None:
    """Why flash-attn's kernels cannot be used here; None when they can."""
    if importlib.util.find_spec("flash_attn") is None:
        return "the package flash-attn is not installed"
    return _flash_unfit(device, dtype, page_tokens)


def varlen_missing(device: torch.device, dtype: torch.dtype, page_tokens: int) -> str | None:
    """Why PyTorch's varlen_attn cannot be used here; None when it can.

    Its arguments changed from release to release, so they are looked at and not assumed.
    """
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return f"PyTorch {torch.__version__} has no varlen_attn"
    needed = {"seqused_k", "block_table", "num_splits", "window_size"}
    if absent := needed - set(inspect.signature(varlen_attn).parameters):
        return f"varlen_attn of PyTorch {torch.__version__} has no {', '.join(sorted(absent))}"
    return _flash_unfit(device, dtype, page_tokens)


def triton_missing(device: torch.device) -> str | None:
    """Why our Triton kernels cannot be used here; None when they can."""
    if device.type != "cuda":
        return "it needs a CUDA device"
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed"
    return None


def _flash_unfit(device: torch.device, dtype: torch.dtype, page_tokens: int) -> str | None:
    if device.type != "cuda":
        return "it needs a CUDA device"
    if dtype not in (torch.bfloat16, torch.float16):
        return f"it needs a 16 bit dtype, not {dtype}"
    if page_tokens % FLASH_PAGE_TOKENS:
        return f"it needs pages of a multiple of {FLASH_PAGE_TOKENS} tokens, not {page_tokens}"
    return None


def flash_kernel() -> Kernel:
    """flash-attn's varlen kernel with page tables."""
    from flash_attn import flash_attn_varlen_func

    def kernel(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: Tables
    ) -> torch.Tensor:
        output: torch.Tensor = flash_attn_varlen_func(
            queries,
            keys,
            values,
            cu_seqlens_q=tables.starts,
            cu_seqlens_k=tables.key_starts(),
            max_seqlen_q=tables.most_new,
            max_seqlen_k=tables.most_keys,
            causal=True,
            block_table=tables.pages,
        )
        return output

    return kernel


def varlen_kernel() -> Kernel:
    """PyTorch's own varlen kernel with page tables."""
    from torch.nn.attention.varlen import varlen_attn

    def kernel(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: Tables
    ) -> torch.Tensor:
        output: Any = varlen_attn(
            queries,
            keys,
            values,
            tables.starts,
            tables.key_starts(),
            tables.most_new,
            tables.most_keys,
            window_size=(-1, 0),  # causal
            seqused_k=tables.lengths,
            block_table=tables.pages,
            # More splits over pages gave NaN (pytorch/torchtitan#3235) and unwritten rows
            # (pytorch/pytorch#194167).
            num_splits=1,
        )
        assert isinstance(output, torch.Tensor), "no auxiliary outputs were asked for"
        return output

    return kernel


def triton_kernel() -> Kernel:
    """Our kernel, for sequences of one new token."""
    from visionq_worker.model.paged_decode import paged_decode

    def kernel(
        queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: Tables
    ) -> torch.Tensor:
        return paged_decode(queries, keys, values, tables.pages, tables.lengths)

    return kernel
