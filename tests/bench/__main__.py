"""`python -m tests.bench`: what queue and store cost around the model, as ratios within one run.

Starts an embedded Valkey and S3 in a temporary folder, measures the bars named (all of them by
default), prints one table and stops what it has started. It judges no one: the exit code is 0
unless something broke. A run during which the raw round trip to Redis moved by more than 1.5x is
marked INVALID.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from time import perf_counter
from typing import Any

from tests.bench.bar_flat import measure_flat
from tests.bench.bar_leaks import measure_leaks
from tests.bench.bar_memory import measure_memory
from tests.bench.bar_startup import measure_startup
from tests.bench.bar_status import measure_status
from tests.bench.bar_submit import measure_submit, measure_submit_many
from tests.bench.bar_wait import measure_wait
from tests.bench.bar_worker import measure_worker
from tests.bench.machine import MAX_DRIFT, RoundTrip, drift, facts, round_trip
from tests.bench.readings import Reading, table
from tests.bench.rig import Rig, open_rig

BARS: dict[str, Callable[[Rig], Iterable[Reading]]] = {
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

NUM_PROBES = 2000
"""Round trips of each sort before, between and after the bars."""


def main() -> None:
    wanted = _arguments(sys.argv[1:])
    with open_rig(rounds=wanted.rounds, scale=wanted.scale) as rig:
        machine = facts(rig.raw)
        readings: list[Reading] = []
        num_probes = rig.count(NUM_PROBES, least=100)
        trips = [round_trip(rig.raw, num_probes)]
        for name in wanted.bars or BARS:
            _say(f"{name} ...")
            began = perf_counter()
            readings += BARS[name](rig)
            trips.append(round_trip(rig.raw, num_probes))
            _say(f"{name}: {perf_counter() - began:.0f} s; {trips[-1]}")
    print(_as_json(machine, trips, readings) if wanted.json else _as_text(machine, trips, readings))


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("bars", nargs="*", metavar="BAR", help=f"of {', '.join(BARS)}")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor on all counts, to try the bench out"
    )
    wanted = parser.parse_args(given)
    if unknown := [name for name in wanted.bars if name not in BARS]:
        parser.error(f"no bar {', '.join(unknown)}; there are {', '.join(BARS)}")
    return wanted


def _as_text(machine: dict[str, Any], trips: list[RoundTrip], readings: list[Reading]) -> str:
    moved = drift(trips[0], trips[-1])
    verdict = "valid" if moved <= MAX_DRIFT else f"INVALID: more than {MAX_DRIFT}x"
    return "\n".join(
        [
            ", ".join(f"{name} {value}" for name, value in machine.items()),
            f"before: {trips[0]}",
            f"after:  {trips[-1]}",
            f"drift:  {moved:.2f}x, {verdict}",
            "",
            table(readings),
        ]
    )


def _as_json(machine: dict[str, Any], trips: list[RoundTrip], readings: list[Reading]) -> str:
    moved = drift(trips[0], trips[-1])
    report = {
        "machine": machine,
        "round_trips": [trip.as_dict() for trip in trips],
        "drift": moved,
        "is_valid": moved <= MAX_DRIFT,
        "readings": [reading.as_dict() for reading in readings],
    }
    return json.dumps(report, indent=1)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
