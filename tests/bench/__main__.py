"""`python -m tests.bench`: what queue and store cost around the model, as ratios within one run.

Starts an embedded Valkey and S3 in a temporary folder, measures the bars named (all of them by
default), prints one table and stops what it has started. It judges no one: the exit code is 0
unless something broke. A run during which the raw round trip to Redis moved by more than 1.5x is
marked INVALID.
"""

from __future__ import annotations

from tests.bench.bar_flat import measure_flat
from tests.bench.bar_leaks import measure_leaks
from tests.bench.bar_memory import measure_memory
from tests.bench.bar_startup import measure_startup
from tests.bench.bar_status import measure_status
from tests.bench.bar_submit import measure_submit, measure_submit_many
from tests.bench.bar_wait import measure_wait
from tests.bench.bar_worker import measure_worker
from tests.bench.program import Bars, run_bench

BARS: Bars = {
    "submit": measure_submit,
    "submit_many": measure_submit_many,
    "leaks": measure_leaks,
    "memory": measure_memory,
    "worker": measure_worker,
    "wait": measure_wait,
    "status": measure_status,
    "startup": measure_startup,
    "flat": measure_flat,
}

if __name__ == "__main__":
    run_bench(BARS, name="tests.bench", about=__doc__)
