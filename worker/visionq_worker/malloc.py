"""The C library's allocator, told how much of what pictures have freed it may keep.

As it comes, glibc kept 700 MB after 130 pictures of all sorts, two at a time; so it keeps 40. To
map blocks from one megabyte on would leave 10, but a picture of a megapixel took twice the CPU
time: each page that it touches is a new one then. Other C libraries are left as they are.
"""

from __future__ import annotations

import ctypes
from typing import Any

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8
"""Of <malloc.h>."""

MAPPED_BYTES = 4 * 1024 * 1024
"""Blocks from here on are the system's as soon as they are freed."""
KEPT_BYTES = 8 * 1024 * 1024
"""Free memory at the end of a heap, from which on it is given back."""
NUM_HEAPS = 2
"""glibc would have eight for each core, and any thread's pictures would leave something in its."""


def set_up_malloc() -> bool:
    """Whether the C library can be told. Once for the process, the sooner the better."""
    mallopt = _libc_function("mallopt")
    if mallopt is None:
        return False
    options = {
        M_MMAP_THRESHOLD: MAPPED_BYTES,
        M_TRIM_THRESHOLD: KEPT_BYTES,
        M_ARENA_MAX: NUM_HEAPS,
    }
    is_heard = [mallopt(option, value) == 1 for option, value in options.items()]
    return all(is_heard)


def give_back() -> None:
    """Give everything back that is free now, from whatever heap. Takes some milliseconds."""
    trim = _libc_function("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _libc_function(name: str) -> Any:
    return getattr(ctypes.CDLL(None), name, None)
