"""What the benches have in common: servers of their own, the bars named, one table, one verdict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from time import perf_counter
from typing import Any

from tests.bench.machine import MAX_DRIFT, RoundTrip, drift, facts, round_trip
from tests.bench.readings import Reading, table
from tests.bench.rig import Rig, open_rig
from visionq_worker.cpu import set_up_cpu

Bars = Mapping[str, Callable[[Rig], Iterable[Reading]]]

NUM_PROBES = 2000
"""Round trips of each sort before, between and after the bars."""


def run_bench(bars: Bars, *, name: str, about: str | None) -> None:
    """Do what the command line of `python -m name` asks for."""
    wanted = _arguments(sys.argv[1:], bars, name, about)
    set_up_cpu()  # of both sides of every bar: they run in child processes
    with open_rig(rounds=wanted.rounds, scale=wanted.scale) as rig:
        machine = facts(rig.raw)
        readings: list[Reading] = []
        num_probes = rig.count(NUM_PROBES, least=100)
        trips = [round_trip(rig.raw, num_probes)]
        for bar in wanted.bars or bars:
            say(f"{bar} ...")
            began = perf_counter()
            readings += bars[bar](rig)
            trips.append(round_trip(rig.raw, num_probes))
            say(f"{bar}: {perf_counter() - began:.0f} s; {trips[-1]}")
    print(_as_json(machine, trips, readings) if wanted.json else _as_text(machine, trips, readings))


def say(text: str) -> None:
    """To whoever waits for the table."""
    print(text, file=sys.stderr, flush=True)


def _arguments(
    given: Sequence[str], bars: Bars, name: str, about: str | None
) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog=f"python -m {name}", description=about)
    parser.add_argument("bars", nargs="*", metavar="BAR", help=f"of {', '.join(bars)}")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (default: 5)")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of the table")
    parser.add_argument(
        "--scale", type=float, default=1.0, help="factor on all counts, to try the bench out"
    )
    wanted = parser.parse_args(given)
    if unknown := [bar for bar in wanted.bars if bar not in bars]:
        parser.error(f"no bar {', '.join(unknown)}; there are {', '.join(bars)}")
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
