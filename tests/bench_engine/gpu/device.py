"""The device of a run: its name, what it moves and multiplies in a second, and its memory."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median
from time import perf_counter

import torch

from tests.bench_engine.gpu.floors import Rates

NUM_REPEATS = 10

TARGET_DEVICE = "H200"
TARGET_BYTES_PER_SECOND = 4.3e12
"""The device that the targets were set for, and what a copy there was measured to move."""


def measured_rates(
    device: torch.device, dtype: torch.dtype, *, copy_bytes: int, matrix_side: int
) -> Rates:
    """Of a copy inside the device's memory, and of a product of square matrices."""
    return Rates(
        bytes_per_second=_bytes_per_second(device, copy_bytes),
        flops=_flops(device, dtype, matrix_side),
    )


def _bytes_per_second(device: torch.device, num_bytes: int) -> float:
    """Read and written by a copy."""
    source = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * num_bytes / seconds_of(lambda: target.copy_(source), device)


def _flops(device: torch.device, dtype: torch.dtype, side: int) -> float:
    left = torch.randn(side, side, device=device).to(dtype)
    right, product = torch.randn_like(left), torch.empty_like(left)
    return float(2 * side**3 / seconds_of(lambda: torch.mm(left, right, out=product), device))


def seconds_of(work: Callable[[], object], device: torch.device) -> float:
    """The median of some runs, after one that is not counted, the device waited for."""
    seconds = []
    for _ in range(NUM_REPEATS + 1):
        synchronise(device)
        began = perf_counter()
        work()
        synchronise(device)
        seconds.append(perf_counter() - began)
    return median(seconds[1:])


def target_rates(rates: Rates, name: str) -> Rates:
    """What the limit of a decode step is counted with: 4.3 TB/s on an H200, else what was measured.

    The target was set for a card on which a copy moves 4.3 TB/s; on another one it is scaled by
    what a copy moves there.
    """
    if TARGET_DEVICE in name:
        return Rates(bytes_per_second=TARGET_BYTES_PER_SECOND, flops=rates.flops)
    return rates


def device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def free_memory() -> None:
    """Give back what nobody refers to any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
