"""`python -m tests.bench_engine`: the engine beside `generate`, the queue and the store.

Starts an embedded Valkey and S3 in a temporary folder, measures the bars named (all of them by
default), prints one table and stops what it has started. It judges no one: the exit code is 0
unless something broke. A run during which the raw round trip to Redis moved by more than 1.5x is
marked INVALID. What needs a GPU is measured by `python -m tests.bench_engine.gpu`.
"""

from __future__ import annotations

from tests.bench.program import Bars, run_bench
from tests.bench_engine.bar_cpu import measure_cpu
from tests.bench_engine.bar_develop import measure_develop
from tests.bench_engine.bar_loop import measure_loop
from tests.bench_engine.bar_masks import measure_masks
from tests.bench_engine.bar_overlap import measure_overlap
from tests.bench_engine.bar_prepare import measure_prepare
from tests.bench_engine.bar_queue import measure_queue

BARS: Bars = {
    "cpu": measure_cpu,
    "queue": measure_queue,
    "overlap": measure_overlap,
    "loop": measure_loop,
    "prepare": measure_prepare,
    "develop": measure_develop,
    "masks": measure_masks,
}

if __name__ == "__main__":
    run_bench(BARS, name="tests.bench_engine", about=__doc__)
