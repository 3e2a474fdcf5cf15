"""Costs of code, taken in rounds that alternate between the things compared.

Round trips on a shared or idle machine vary by a factor of four from one second to the next, so
only ratios within one run mean something: each round runs every variant once, in turning order,
and the medians of the rounds are compared.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds for a number of operations; `cpu` is the time of the processes named by the bar.

    `server` is Valkey's, in the bars that look at it.
    """

    wall: float
    cpu: float
    server: float = 0.0

    def per(self, count: float) -> Cost:
        return Cost(self.wall / count, self.cpu / count, self.server / count)


def cost_of(work: Callable[[], object]) -> Cost:
    """What `work` costs this process, with the garbage of others swept before."""
    gc.collect()
    wall, cpu = perf_counter(), process_time()
    work()
    return Cost(perf_counter() - wall, process_time() - cpu)


def cpu_seconds(pid: int) -> float:
    """CPU time of another process so far, all threads that live, to the nanosecond (Linux).

    What `psutil` gives comes in steps of 10 ms, a twentieth of what a short round takes.
    """
    threads = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9


def interleave(variants: Mapping[str, Callable[[], Cost]], rounds: int) -> dict[str, Cost]:
    """The median cost of each variant over `rounds`, after one round that is not counted."""
    costs: dict[str, list[Cost]] = {name: [] for name in variants}
    names = list(variants)
    for number in range(rounds + 1):
        for name in names:
            cost = variants[name]()
            if number:
                costs[name].append(cost)
        names.append(names.pop(0))
    return {name: median_cost(taken) for name, taken in costs.items()}


def median_cost(costs: Sequence[Cost]) -> Cost:
    """The median of each part."""
    return Cost(
        median(cost.wall for cost in costs),
        median(cost.cpu for cost in costs),
        median(cost.server for cost in costs),
    )


def micros(seconds: float) -> str:
    return f"{seconds * 1e6:.0f} us"
