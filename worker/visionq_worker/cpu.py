"""How the threads that compute on the CPU wait for each other, and how many there are.

torch's OpenMP threads read this from the environment once, when torch is imported. By default they
spin at each barrier: on a machine with anything else to do, the spinning thread keeps the core that
the thread it waits for needs, and a step takes ten to thirty times as long (docs/benchmarks.md).
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import MutableMapping
from pathlib import Path
from typing import Literal

CpuWait = Literal["passive", "active"]

WAIT_VARIABLE = "OMP_WAIT_POLICY"
THREADS_VARIABLE = "OMP_NUM_THREADS"
_SAID_ALREADY = (WAIT_VARIABLE, "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
"""Any of them decides how threads wait."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/cpu.max")
"""Of a container: microseconds of CPU time in each period, or `max`, and the period."""


def set_up_cpu(
    num_threads: int | None = None,
    wait: CpuWait = "passive",
    *,
    environment: MutableMapping[str, str] = os.environ,
) -> bool:
    """Once for the process, before torch is imported; child processes inherit it.

    OpenMP's own variables, where the environment has them already, win. Without `num_threads`,
    torch takes one thread per core, and here no more than a container's CPU limit allows.
    Returns False when torch is there already: then only child processes are told.
    """
    if not any(name in environment for name in _SAID_ALREADY):
        environment[WAIT_VARIABLE] = wait
    threads = num_threads or (num_cores() if _limit_of_container() else None)
    if threads is not None:
        environment.setdefault(THREADS_VARIABLE, str(threads))
    return "torch" not in sys.modules


def num_cores() -> int:
    """Cores that this process may use: of its affinity, and within its container's limit."""
    limit = _limit_of_container()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(cores or 1, limit or sys.maxsize)


def _limit_of_container() -> int | None:
    """Whole cores of CPU time that a container may use, rounded up; None without a limit."""
    try:
        quota, period = CGROUP_LIMIT.read_text().split()
        return None if quota == "max" else max(1, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        return None
