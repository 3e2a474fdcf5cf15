"""Our Triton kernels beside plain PyTorch in float64: on a GPU where there is one, otherwise in
Triton's interpreter. That they compile for an H100 is tested on every machine with Triton.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from visionq_worker.model.ops import Ops

    PagedDecode = Callable[..., torch.Tensor]

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: make triton (Linux only)", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
HOPPER_SHARED_BYTES = 227 * 1024  # of one program at most

# The references keep float64 to the end. 16 bits: one rounding of the result, which is half a unit
# in the last place on a GPU; the interpreter cuts bfloat16 off instead, up to a whole one.
TOLERANCES = {  # absolute, relative
    torch.float32: (2e-6, 2e-6),
    torch.float16: (1e-5, 2**-10),
    torch.bfloat16: (1e-5, 2**-7),
}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCES, ids=str)


@pytest.fixture(scope="module", autouse=True)
def _triton_of_our_own() -> Iterator[None]:
    """Without a GPU: Triton imported anew for this module, as an interpreter.

    It reads TRITON_INTERPRET while it is imported and while it runs, and transformers has imported
    it before. Its C++ part cannot be loaded twice, and need not be.
    """
    if DEVICE == "cuda":
        yield
        return
    before = dict(sys.modules)
    ours = ("visionq_worker.model.kernels", "visionq_worker.model.paged_decode")
    for name in before:
        if name in ours or (name.split(".")[0] == "triton" and not name.startswith("triton._C")):
            del sys.modules[name]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRITON_INTERPRET", "1")
        yield
    for name in set(sys.modules) - set(before):
        if name in ours or name.split(".")[0] == "triton":
            del sys.modules[name]
    sys.modules.update(before)


@pytest.fixture(scope="module")
def paged_decode(_triton_of_our_own: None) -> PagedDecode:
    from visionq_worker.model.paged_decode import paged_decode

    return paged_decode


@pytest.fixture(scope="module")
def ops(_triton_of_our_own: None) -> Ops:
    from visionq_worker.model.kernels import TritonOps

    return TritonOps()


def noise(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(DEVICE, dtype)


def assert_near(found: torch.Tensor, expected: torch.Tensor, *, num_roundings: int = 1) -> None:
    """`expected` is exact, in float64."""
    assert found.shape == expected.shape
    atol, rtol = (num_roundings * tolerance for tolerance in TOLERANCES[found.dtype])
    torch.testing.assert_close(found.double(), expected, atol=atol, rtol=rtol)


@dataclass(frozen=True, eq=False)
class Cache:
    """Rows of a paged pool, which is NaN wherever no key or value of a row lies."""

    pool: torch.Tensor  # (layers, 2, num_pages, page_tokens, heads, head_dim)
    tables: torch.Tensor
    lengths: torch.Tensor

    @property
    def keys(self) -> torch.Tensor:
        return self.pool[1, 0]

    @property
    def values(self) -> torch.Tensor:
        return self.pool[1, 1]


def random_cache(
    lengths: Sequence[int],
    *,
    page_tokens: int = 16,
    num_heads: int = 2,
    head_dim: int = 32,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    pages_first: bool = False,
) -> Cache:
    """Random keys and values on shuffled pages; unused entries of the tables lead nowhere."""
    needed = [-(-length // page_tokens) for length in lengths]
    num_pages = sum(needed) + 2
    shape = (2, 2, num_pages, page_tokens, num_heads, head_dim)
    if pages_first:  # pages of one layer lie apart
        inner = torch.full((num_pages, 2, 2, *shape[3:]), torch.nan, dtype=dtype, device=DEVICE)
        pool = inner.movedim(0, 2)
    else:
        pool = torch.full(shape, torch.nan, dtype=dtype, device=DEVICE)
    order = torch.randperm(num_pages, generator=torch.Generator().manual_seed(seed)).tolist()
    tables = torch.tensor([[-1, 2**31 - 1] * (max(needed) // 2 + 1)] * len(lengths))
    data = noise(sum(lengths), 2, num_heads, head_dim, dtype=dtype, seed=seed)
    for row, length in enumerate(lengths):
        for start in range(0, length, page_tokens):
            count = min(page_tokens, length - start)
            page = tables[row, start // page_tokens] = order.pop()
            pool[1, :, page, :count] = data[:count].transpose(0, 1)
            data = data[count:]
    return Cache(
        pool=pool,
        tables=tables.to(DEVICE, torch.int32),
        lengths=torch.tensor(lengths, dtype=torch.int32, device=DEVICE),
    )


def random_queries(cache: Cache) -> torch.Tensor:
    num_heads, head_dim = cache.pool.shape[-2:]
    return noise(len(cache.lengths), num_heads, head_dim, dtype=cache.pool.dtype, seed=1)


def attention(queries: torch.Tensor, cache: Cache) -> torch.Tensor:
    """Row by row, in float64; zeros where a row has no keys."""
    result = torch.zeros_like(queries, dtype=torch.float64)
    for row, length in enumerate(cache.lengths.tolist()):
        pages = cache.tables[row, : -(-length // cache.pool.shape[3])]
        keys = cache.keys[pages].flatten(0, 1)[:length].double()  # (length, heads, head_dim)
        values = cache.values[pages].flatten(0, 1)[:length].double()
        scores = torch.einsum("hd,khd->hk", queries[row].double(), keys)
        weights = (scores * queries.shape[-1] ** -0.5).softmax(dim=-1)
        result[row] = torch.einsum("hk,khd->hd", weights, values)
    return result


def decoded(paged_decode: PagedDecode, cache: Cache, num_splits: int | None) -> torch.Tensor:
    return paged_decode(
        random_queries(cache),
        cache.keys,
        cache.values,
        cache.tables,
        cache.lengths,
        num_splits=num_splits,
    )


@pytest.mark.parametrize("head_dim", [32, 96])
@pytest.mark.parametrize("page_tokens", [16, 64, 256])
def test_rows_that_end_around_a_page_boundary(
    paged_decode: PagedDecode, page_tokens: int, head_dim: int
) -> None:
    around = [page_tokens - 1, page_tokens, page_tokens + 1]
    cache = random_cache(
        [1, *around, 2 * page_tokens + 9], page_tokens=page_tokens, head_dim=head_dim
    )

    found = decoded(paged_decode, cache, num_splits=2)

    assert_near(found, attention(random_queries(cache), cache))


@pytest.mark.parametrize("num_splits", [1, 2, 3, 8, None])
def test_any_number_of_splits_gives_the_answer_even_more_than_there_are_blocks(
    paged_decode: PagedDecode, num_splits: int | None
) -> None:
    cache = random_cache([0, 1, 16, 17, 100, 5 * 16])

    found = decoded(paged_decode, cache, num_splits)

    assert_near(found, attention(random_queries(cache), cache))


@pytest.mark.parametrize("num_rows", [1, 3, 8])
def test_number_of_splits_is_chosen_for_any_batch(paged_decode: PagedDecode, num_rows: int) -> None:
    cache = random_cache(range(30, 30 + num_rows))

    found = decoded(paged_decode, cache, num_splits=None)

    assert_near(found, attention(random_queries(cache), cache))


@DTYPES
@pytest.mark.parametrize("num_splits", [1, 3])
def test_every_dtype_has_its_own_precision(
    paged_decode: PagedDecode, dtype: torch.dtype, num_splits: int
) -> None:
    cache = random_cache([5, 70, 130], page_tokens=64, head_dim=96, dtype=dtype)

    found = decoded(paged_decode, cache, num_splits)

    assert found.dtype == dtype
    assert_near(found, attention(random_queries(cache), cache))


@pytest.mark.parametrize("num_splits", [1, 3])
def test_row_of_length_zero_gives_zeros(paged_decode: PagedDecode, num_splits: int) -> None:
    cache = random_cache([0, 20, 0])

    found = decoded(paged_decode, cache, num_splits)

    assert found[[0, 2]].count_nonzero() == 0
    assert_near(found, attention(random_queries(cache), cache))


def test_answer_over_one_key_is_its_value(paged_decode: PagedDecode) -> None:
    cache = random_cache([1])

    found = decoded(paged_decode, cache, num_splits=1)

    assert torch.equal(found[0], cache.values[cache.tables[0, 0], 0])


@pytest.mark.parametrize("num_splits", [1, 3])
def test_pool_whose_pages_lie_apart(paged_decode: PagedDecode, num_splits: int) -> None:
    cache = random_cache([40, 7], pages_first=True)
    assert not cache.keys.is_contiguous()

    found = decoded(paged_decode, cache, num_splits)

    assert_near(found, attention(random_queries(cache), cache))


def test_nan_of_one_row_stays_in_that_row_and_shows(paged_decode: PagedDecode) -> None:
    cache = random_cache([20, 20, 20])
    cache.keys[cache.tables[1, 1], 2] = torch.nan

    found = decoded(paged_decode, cache, num_splits=2)

    assert found[1].isnan().all()
    assert found[[0, 2]].isfinite().all()


def test_scores_far_apart_do_not_overflow(paged_decode: PagedDecode) -> None:
    cache = random_cache([50])
    cache.keys.mul_(1000)

    found = decoded(paged_decode, cache, num_splits=2)

    # The winner takes it all, but float32 scores of some thousands are exact to 1e-3 only.
    expected = attention(random_queries(cache), cache)
    torch.testing.assert_close(found.double(), expected, atol=0.01, rtol=0)


@settings(max_examples=12, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 70), min_size=1, max_size=4),
    page_tokens=st.sampled_from([16, 32]),
    num_splits=st.integers(1, 6),
    pages_first=st.booleans(),
    seed=st.integers(0, 99),
)
def test_random_rows(
    paged_decode: PagedDecode,
    lengths: list[int],
    page_tokens: int,
    num_splits: int,
    pages_first: bool,
    seed: int,
) -> None:
    cache = random_cache(
        lengths, page_tokens=page_tokens, num_heads=1, seed=seed, pages_first=pages_first
    )

    found = decoded(paged_decode, cache, num_splits)

    assert_near(found, attention(random_queries(cache), cache))


@pytest.mark.parametrize(
    ("num_programs", "num_splits"), [(1, 64), (32, 8), (128, 2), (160, 1), (2048, 1), (0, 64)]
)
def test_splits_fill_the_132_multiprocessors_of_an_h100_twice_at_most(
    paged_decode: PagedDecode, num_programs: int, num_splits: int
) -> None:
    from visionq_worker.model.paged_decode import splits_for

    assert splits_for(num_programs, 132) == num_splits


@DTYPES
def test_norm_is_of_the_sum_with_the_residual(ops: Ops, dtype: torch.dtype) -> None:
    hidden, residual = noise(5, 96, dtype=dtype), noise(5, 96, dtype=dtype, seed=1)
    weight = noise(96, dtype=dtype, seed=2)

    normed, summed = ops.add_rms_norm(hidden, residual, weight, 1e-5)

    exact = hidden.double() + residual.double()
    assert_near(summed, exact)
    # The sum itself, the normed values and the product with the weight are rounded.
    expected = functional.rms_norm(exact, (96,), weight.double(), 1e-5)
    assert_near(normed, expected, num_roundings=4)


def test_norm_rounds_before_the_weight_is_applied(ops: Ops) -> None:
    # 2 / sqrt(2.5) = 1.26491 is 1.26465 in float16. Three times the latter rounds to 3.79297, three
    # times the former to 3.79492.
    hidden = torch.tensor([[1.0, 2.0]], dtype=torch.float16, device=DEVICE)
    weight = torch.tensor([1.0, 3.0], dtype=torch.float16, device=DEVICE)

    normed, _ = ops.add_rms_norm(hidden, None, weight, 0.0)

    assert normed[0, 1].item() == pytest.approx(3.79297, abs=1e-5)


def test_norm_without_a_residual_hands_its_input_back_as_the_sum(ops: Ops) -> None:
    hidden, weight = noise(3, 96), noise(96, seed=1)
    before = hidden.clone()

    normed, summed = ops.add_rms_norm(hidden, None, weight, 1e-5)

    assert summed is hidden
    assert torch.equal(hidden, before)
    assert_near(normed, functional.rms_norm(hidden.double(), (96,), weight.double(), 1e-5))


def test_norm_of_zeros_is_zeros(ops: Ops) -> None:
    normed, _ = ops.add_rms_norm(
        torch.zeros(2, 96, device=DEVICE), None, torch.ones(96, device=DEVICE), 1e-5
    )

    assert normed.count_nonzero() == 0


@dataclass(frozen=True, eq=False)
class Turn:
    """Arguments of rotate_and_store: 5 tokens of 3 heads, the fourth one padding."""

    qkv: torch.Tensor
    cos: torch.Tensor
    sin: torch.Tensor
    rows: torch.Tensor
    slots: torch.Tensor

    def expected(self, head_dim: int) -> torch.Tensor:
        """Queries, keys and values, (tokens, 3, heads, head_dim), in float64."""
        qkv = self.qkv.double().view(5, 3, 3, head_dim)
        cos, sin = (table[self.rows].double()[:, None, None] for table in (self.cos, self.sin))
        first, second = qkv[:, :2].chunk(2, dim=-1)
        turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
        return torch.cat([turned, qkv[:, 2:]], dim=1)


def random_turn(head_dim: int, dtype: torch.dtype) -> Turn:
    angles = noise(7, head_dim // 2, seed=1)
    return Turn(
        qkv=noise(5, 9 * head_dim, dtype=dtype),
        cos=angles.cos(),
        sin=angles.sin(),
        rows=torch.tensor([4, 0, 6, 0, 2], device=DEVICE),
        slots=torch.tensor([18, 33, 0, -1, 47], device=DEVICE),
    )


@DTYPES
@pytest.mark.parametrize("pages_first", [False, True])
@pytest.mark.parametrize("head_dim", [32, 96])
def test_keys_and_values_go_to_their_slots_and_nowhere_else(
    ops: Ops, head_dim: int, pages_first: bool, dtype: torch.dtype
) -> None:
    cache = random_cache([16], num_heads=3, head_dim=head_dim, dtype=dtype, pages_first=pages_first)
    cache.pool.fill_(7)
    turn = random_turn(head_dim, dtype)

    queries = ops.rotate_and_store(
        turn.qkv, turn.cos, turn.sin, turn.rows, turn.slots, cache.keys, cache.values
    )

    expected = turn.expected(head_dim)
    assert_near(queries, expected[:, 0])
    used = turn.slots >= 0
    pages, offsets = turn.slots[used] // 16, turn.slots[used] % 16
    assert_near(cache.keys[pages, offsets], expected[used, 1])
    assert torch.equal(cache.values[pages, offsets].double(), expected[used, 2])
    cache.pool[1, :, pages, offsets] = 7
    assert (cache.pool == 7).all()


def test_quarter_turn_puts_the_first_half_in_the_place_of_the_second(ops: Ops) -> None:
    cache = random_cache([16], num_heads=1, head_dim=16)
    ramp = torch.arange(48.0, device=DEVICE)[None]
    zero = torch.zeros(1, dtype=torch.int64, device=DEVICE)
    none, all_of_it = torch.zeros(1, 8, device=DEVICE), torch.ones(1, 8, device=DEVICE)

    queries = ops.rotate_and_store(ramp, none, all_of_it, zero, zero, cache.keys, cache.values)

    assert queries.flatten().tolist() == [*range(-8, -16, -1), *range(8)]
    assert cache.keys[0, 0, 0].tolist() == [*range(-24, -32, -1), *range(16, 24)]
    assert cache.values[0, 0, 0].tolist() == [*range(32, 48)]


@DTYPES
@pytest.mark.parametrize("inner", [96, 1500])
def test_gate_passes_the_other_half(ops: Ops, inner: int, dtype: torch.dtype) -> None:
    gate_up = noise(3, 2 * inner, dtype=dtype)

    found = ops.silu_mul(gate_up)

    gate, up = gate_up.double().chunk(2, dim=-1)
    assert_near(found, functional.silu(gate) * up)


def test_no_tokens_are_no_work(ops: Ops, paged_decode: PagedDecode) -> None:
    cache = random_cache([16])
    nothing = torch.empty(0, 2, 32, device=DEVICE)

    assert paged_decode(
        nothing, cache.keys, cache.values, cache.tables[:0], cache.lengths[:0]
    ).shape == (0, 2, 32)
    assert ops.silu_mul(torch.empty(0, 64, device=DEVICE)).shape == (0, 32)


def test_every_launch_of_a_decode_step_compiles_for_an_h100(tmp_path: Path) -> None:
    """The interpreter takes much that the compiler refuses; compiling needs no GPU."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}

    child = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import compile_step; compile_step()"],
        env=environment | {"TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert child.returncode == 0, child.stderr
    assert child.stdout.split() == [
        "_add_rms_norm",
        "_add_rms_norm",
        "_rotate_and_store",
        "_attend",
        "_attend",
        "_combine",
        "_silu_mul",
    ]


def compile_step() -> None:
    """Compiles what Phi-3-Vision launches in bfloat16, and prints each kernel's name."""
    from visionq_worker.model import kernels, paged_decode

    for module in (kernels, paged_decode):
        for kernel in vars(module).values():
            if hasattr(kernel, "arg_names"):
                kernel.run = partial(compile_launch, kernel)

    pool = torch.empty(2, 2, 256, 32, 96, dtype=torch.bfloat16)
    qkv, wide = pool.new_empty(1, 3 * 3072), pool.new_empty(1, 2 * 8192)
    tables, row = torch.zeros(1, 2, dtype=torch.int32), torch.zeros(1, dtype=torch.int64)
    turn = torch.zeros(4096, 48)
    ops = kernels.TritonOps()
    for residual in (None, qkv[:, :3072]):
        ops.add_rms_norm(qkv[:, 3072:6144], residual, pool.new_empty(3072), 1e-5)
    queries = ops.rotate_and_store(qkv, turn, turn, row, row, pool[0], pool[1])
    for num_splits in (1, 8):
        paged_decode.paged_decode(
            queries, pool[0], pool[1], tables, tables[0, :1], num_splits=num_splits
        )
    ops.silu_mul(wide)


def compile_launch(
    kernel: Any, *args: Any, grid: tuple[int, ...], warmup: bool, num_warps: int, **constants: Any
) -> None:
    """In place of a launch, its compilation for sm_90; numbers and pointers divisible by 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    named = dict(zip(kernel.arg_names, args, strict=False))
    constants |= {name: value for name, value in named.items() if value is None}
    place = kernel.arg_names.index
    aligned = [
        name
        for name, value in named.items()
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
    ]
    source = ASTSource(
        kernel,
        {
            name: "constexpr" if name in constants else mangle_type(named[name])
            for name in kernel.arg_names
        },
        {(place(name),): value for name, value in constants.items()},
        {(place(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    target = GPUTarget("cuda", 90, 32)
    compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
    assert compiled.asm["cubin"]
    assert compiled.metadata.shared <= HOPPER_SHARED_BYTES
    print(kernel.__name__)
