"""That memory which is freed goes back, where the C library can be told so."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from tests.bench.children import REPOSITORY
from visionq_worker import malloc

IS_GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "mallopt")

PROGRAM = """
import ctypes
from pathlib import Path
from visionq_worker.malloc import give_back, set_up_malloc

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def filled(num_bytes):
    block = libc.malloc(ctypes.c_size_t(num_bytes))
    ctypes.memset(block, 1, num_bytes)
    return block

idle = resident()
"""

LARGE_BLOCKS = """
print(set_up_malloc())
for num_bytes in (20_000_000, 30_000_000, 30_000_000):  # a hint to glibc that it should keep such
    libc.free(filled(num_bytes))
print(resident() - idle)
"""

SMALL_BLOCKS = """
blocks = [filled(60_000) for _ in range(500)]
last = filled(60_000)  # keeps the heap from being trimmed by itself
for block in blocks:
    libc.free(block)
print(resident() - idle)
give_back()
print(resident() - idle)
"""


def printed(program: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return done.stdout.split()


@pytest.mark.skipif(not IS_GLIBC, reason="mallopt is glibc's")
def test_large_blocks_go_back_as_they_are_freed() -> None:
    is_heard, kept = printed(LARGE_BLOCKS)
    assert is_heard == "True"
    assert int(kept) < 2_000_000


@pytest.mark.skipif(not IS_GLIBC, reason="malloc_trim is glibc's")
def test_small_blocks_go_back_when_asked_for() -> None:
    before, after = printed(SMALL_BLOCKS)
    assert int(before) > 25_000_000
    assert int(after) < 2_000_000


def test_other_c_libraries_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(malloc, "_libc_function", lambda _: None)
    assert malloc.set_up_malloc() is False
    malloc.give_back()
