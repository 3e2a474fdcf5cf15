"""The attention door: who is chosen where, and the parts that run without a GPU."""

from __future__ import annotations

import itertools
import logging
import sys
from types import ModuleType
from typing import Any

import pytest
import torch

from visionq_worker.model import attention
from visionq_worker.model.attention import (
    SdpaAttention,
    Span,
    SplitAttention,
    TableAttention,
    Tables,
    choose_attention,
    slot_runs,
    varlen_kernel,
    varlen_missing,
)
from visionq_worker.model.errors import ModelLoadError

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
BF16 = torch.bfloat16
HEADS, HEAD_DIM, PAGE_TOKENS, NUM_PAGES = 2, 96, 16, 9


def cache(order: tuple[int, ...] = (0, 1, 2, 3)) -> tuple[torch.Tensor, torch.Tensor]:
    sizes = (NUM_PAGES, PAGE_TOKENS, HEADS, HEAD_DIM)
    generator = torch.Generator().manual_seed(0)
    laid = torch.randn(2, *(sizes[dim] for dim in order), generator=generator)
    back = laid.permute(0, *(1 + order.index(dim) for dim in range(4)))
    return back[0], back[1]


def by_hand(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, spans: list[Span]
) -> torch.Tensor:
    """Every query by itself, in double precision."""
    outputs, row = [], 0
    for span in spans:
        slots = [page * PAGE_TOKENS + at for page in span.pages for at in range(PAGE_TOKENS)]
        k = keys.flatten(0, 1)[slots].double()  # (keys, heads, head_dim)
        v = values.flatten(0, 1)[slots].double()
        for position in range(span.num_keys - span.num_new, span.num_keys):
            scores = torch.einsum("hd,khd->hk", queries[row].double(), k[: position + 1])
            chances = (scores * HEAD_DIM**-0.5).softmax(-1)
            outputs.append(torch.einsum("hk,khd->hd", chances, v[: position + 1]))
            row += 1
    return torch.stack(outputs).float()


SPANS = [
    Span([3], 1, 1),
    Span([0, 1], 17, 1),
    Span([8, 2, 5], 40, 1),
    Span([4], 9, 9),
    Span([6, 7, 1], 45, 20),
    Span([2, 0], 32, 32),
]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), SdpaAttention.cache_order])
def test_sdpa_over_pages_equals_attention_by_hand(order: tuple[int, ...]) -> None:
    keys, values = cache(order)
    queries = torch.randn(sum(span.num_new for span in SPANS), HEADS, HEAD_DIM)
    sdpa = SdpaAttention(PAGE_TOKENS)
    outputs = sdpa(queries, keys, values, sdpa.plan(SPANS))
    expected = by_hand(queries, keys, values, SPANS)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-6)


def test_neighbouring_pages_are_read_in_one_run() -> None:
    assert slot_runs(Span([4, 5, 6], 40, 1), 16) == [slice(64, 104)]
    assert slot_runs(Span([4, 6, 7, 2], 50, 1), 16) == [
        slice(64, 80),
        slice(96, 128),
        slice(32, 34),
    ]
    assert slot_runs(Span([4, 5, 6], 16, 1), 16) == [slice(64, 80)]  # pages it will need later


def by_tables(
    queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, tables: Tables
) -> torch.Tensor:
    """A kernel's view: it has nothing but the tables."""
    starts = tables.starts.tolist()
    key_starts = tables.key_starts().tolist()
    spans = [
        Span(pages, length, stop - start)
        for pages, length, start, stop in zip(
            tables.pages.tolist(), tables.lengths.tolist(), starts, starts[1:], strict=False
        )
    ]
    assert tables.most_new == max(span.num_new for span in spans)
    assert tables.most_keys == max(span.num_keys for span in spans)
    assert [stop - start for start, stop in itertools.pairwise(key_starts)] == [
        span.num_keys for span in spans
    ]
    return by_hand(queries, keys, values, spans)


@pytest.mark.parametrize("spans", [SPANS, SPANS[:3], SPANS[3:]], ids=["both", "decode", "prefill"])
def test_split_attention_gives_each_kernel_its_rows(spans: list[Span]) -> None:
    keys, values = cache()
    queries = torch.randn(sum(span.num_new for span in spans), HEADS, HEAD_DIM)
    split = SplitAttention(
        TableAttention("decode", by_tables, CPU), TableAttention("prefill", by_tables, CPU)
    )
    outputs = split(queries, keys, values, split.plan(spans))
    expected = by_hand(queries, keys, values, spans)
    torch.testing.assert_close(outputs, expected, rtol=0, atol=2e-6)
    assert split.name == "decode+prefill"


def test_cpu_takes_sdpa_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        chosen = choose_attention("auto", device=CPU, dtype=torch.float32, page_tokens=256)
    assert chosen.name == "sdpa"
    assert "attention: sdpa (asked for: auto) on cpu" in caplog.text


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("flash", "the package flash-attn is not installed"),
        ("varlen", "it needs a CUDA device"),
        ("triton", "it needs a CUDA device"),
    ],
)
def test_attention_that_is_not_there_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        choose_attention(name, device=CPU, dtype=torch.float32, page_tokens=256)
    assert str(caught.value) == f"attention {name} is not to be had: {reason}"


def test_unknown_attention_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="unknown attention 'eager': use one of auto, flash"):
        choose_attention("eager", device=CPU, dtype=torch.float32, page_tokens=256)


@pytest.mark.parametrize(
    ("name", "there", "chosen"),
    [
        ("auto", {"flash", "varlen", "triton"}, "triton+flash"),
        ("auto", {"varlen", "triton"}, "triton+varlen"),
        ("auto", {"triton"}, "triton+sdpa"),
        ("auto", {"flash", "varlen"}, "flash"),
        ("auto", {"varlen"}, "varlen"),
        ("auto", set(), "sdpa"),
        ("flash", {"flash", "triton"}, "flash"),
        ("varlen", {"flash", "varlen", "triton"}, "varlen"),
        ("triton", {"flash", "varlen", "triton"}, "triton+flash"),
        ("sdpa", {"flash", "varlen", "triton"}, "sdpa"),
    ],
)
def test_choice_on_a_gpu_by_what_is_there(
    name: str, there: set[str], chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(kernel: str) -> Any:
        return lambda *_: None if kernel in there else "it is not there"

    for kernel in ("flash", "varlen", "triton"):
        monkeypatch.setattr(attention, f"{kernel}_missing", answer(kernel))
        monkeypatch.setattr(attention, f"{kernel}_kernel", lambda: by_tables)
    assert choose_attention(name, device=CUDA, dtype=BF16, page_tokens=256).name == chosen


@pytest.mark.parametrize(
    ("device", "dtype", "page_tokens", "reason"),
    [
        (CUDA, BF16, 256, None),
        (CUDA, torch.float16, 512, None),
        (CPU, BF16, 256, "it needs a CUDA device"),
        (CUDA, torch.float32, 256, "it needs a 16 bit dtype, not torch.float32"),
        (CUDA, BF16, 64, "it needs pages of a multiple of 256 tokens, not 64"),
    ],
)
def test_varlen_is_used_where_its_kernel_can_run(
    device: torch.device, dtype: torch.dtype, page_tokens: int, reason: str | None
) -> None:
    assert varlen_missing(device, dtype, page_tokens) == reason


def stand_in(monkeypatch: pytest.MonkeyPatch, function: Any) -> None:
    module = ModuleType("torch.nn.attention.varlen")
    module.varlen_attn = function  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)


def test_varlen_of_another_release_is_looked_at_and_not_assumed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def older(query: Any, key: Any, value: Any, *, window_size: Any, page_table: Any) -> None: ...

    stand_in(monkeypatch, older)
    reason = varlen_missing(CUDA, BF16, 256)
    assert reason is not None
    assert reason.endswith("has no block_table, num_splits, seqused_k")


def test_varlen_of_no_release_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert varlen_missing(CUDA, BF16, 256) == f"PyTorch {torch.__version__} has no varlen_attn"


def test_varlen_gets_pages_and_never_splits_them(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}

    def varlen_attn(*arguments: Any, **more: Any) -> torch.Tensor:
        given.update(more, arguments=arguments)
        return torch.zeros_like(arguments[0])

    stand_in(monkeypatch, varlen_attn)
    kernel = TableAttention("varlen", varlen_kernel(), CPU)
    keys, values = cache()
    queries = torch.randn(30, HEADS, HEAD_DIM)
    kernel(queries, keys, values, kernel.plan([SPANS[3], SPANS[4], SPANS[0]]))
    assert given["num_splits"] == 1
    assert given["window_size"] == (-1, 0)
    assert given["seqused_k"].tolist() == [9, 45, 1]
    assert given["block_table"].tolist() == [[4, 0, 0], [6, 7, 1], [3, 0, 0]]
    assert given["arguments"][3].tolist() == [0, 9, 29, 30]
    assert given["arguments"][4].tolist() == [0, 9, 54, 55]
    assert given["arguments"][5:] == (20, 45)
