"""`python -m tests.faults`: the fault matrix against real servers and real processes, as a table.

Starts an embedded Valkey and S3 in a temporary folder and a nursery for workers, plays the rows one
after the other, and stops what it has started. After the matrix comes its negative control: the
rows in which Celery's stock transport has to do harm, or the harness proves nothing. With --stock
the control is played alone; with --rows those rows only, and no control. The exit code is 1 when a
row is not as it has to be. A red row leaves its events in the folder given by --events.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from tests.faults.clocks import NoClocks
from tests.faults.events import keep_events
from tests.faults.nursery import Nursery
from tests.faults.oracle import Report
from tests.faults.rows import ROWS, Row, play
from tests.faults.scene import World
from tests.faults.spec import Sort
from tests.faults.tables import Table, as_markdown, as_text, when_and_where
from visionq.local import LocalServers

HEAD = (
    "row",
    "what",
    "faults",
    "accepted",
    "lost",
    "duplicated",
    "redelivery p50 / max",
    "verdict",
    "noted",
)
TITLES = {"ours": "The fault matrix", "stock": "The negative control: kombu's stock transport"}


@dataclass(frozen=True, slots=True)
class Played:
    """What came of the rows that were played with one sort of worker."""

    sort: Sort
    table: Table
    is_well: bool


def main() -> int:
    wanted = _arguments(sys.argv[1:])
    seed = wanted.seed if wanted.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    with (
        TemporaryDirectory(prefix="visionq-faults.") as folder,
        LocalServers(Path(folder, "servers")) as servers,
        Nursery() as nursery,
    ):
        world = World(
            servers=servers,
            nursery=nursery,
            folder=Path(folder),
            seed=seed,
            size="full" if wanted.full else "quick",
        )
        played = [
            _play(replace(world, sort=sort), numbers, wanted.events)
            for sort, numbers in _parts(wanted)
        ]
        where = when_and_where(servers)
    for each in played:
        print(f"\n{TITLES[each.sort]}\n\n{as_text(each.table)}")
    print(f"\n{where}")
    if wanted.markdown is not None:
        wanted.markdown.write_text(_document(where, world, played))
    return 0 if all(each.is_well for each in played) else 1


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the matrix's own sizes; an hour")
    parser.add_argument("--rows", default="", metavar="1,2", help=f"of {', '.join(map(str, ROWS))}")
    parser.add_argument("--seed", type=int, help="of all that is drawn; default: another each time")
    parser.add_argument("--stock", action="store_true", help="the negative control alone")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write the tables there, too")
    parser.add_argument("--events", type=Path, metavar="FOLDER", help="for the logs of red rows")
    return parser.parse_args(given)


def _parts(wanted: argparse.Namespace) -> Iterator[tuple[Sort, Sequence[int]]]:
    """What is to be played with which workers."""
    if wanted.rows:
        yield "stock" if wanted.stock else "ours", [int(part) for part in wanted.rows.split(",")]
        return
    if not wanted.stock:
        yield "ours", list(ROWS)
    yield "stock", [number for number, row in ROWS.items() if row.stock_harm is not None]


def _play(world: World, numbers: Iterable[int], events: Path | None) -> Played:
    table: list[tuple[str, ...]] = [HEAD]
    is_well = True
    for number in numbers:
        row, began = ROWS[number], monotonic()
        try:
            report = play(number, world)
        except NoClocks as error:
            print(f"{number:>3}  {row.title}: not played, {error}", flush=True)
            continue
        verdict, is_right = _judge(row, report, world.sort)
        cells = _cells(number, row, report, verdict)
        seconds = monotonic() - began
        print(f"{number:>3}  {row.title}: {verdict} in {seconds:.0f} s. {cells[-1]}", flush=True)
        table.append(cells)
        is_well &= is_right
        if not report.is_green:
            keep_events(report.events, events, f"row-{number}-{world.sort}")
    return Played(world.sort, table, is_well)


def _judge(row: Row, report: Report, sort: Sort) -> tuple[str, bool]:
    """The verdict, and whether it is the one that there has to be."""
    if sort == "ours" or row.stock_harm is None:
        return "green" if report.is_green else "RED", report.is_green or sort == "stock"
    is_harmed = row.stock_harm(report) > 0
    return "red, as it must be" if is_harmed else "NO HARM: it proves nothing", is_harmed


def _cells(number: int, row: Row, report: Report, verdict: str) -> tuple[str, ...]:
    seconds = report.redeliveries
    return (
        str(number),
        row.title,
        report.faults,
        str(report.accepted),
        str(len(report.lost)),
        str(report.duplicates),
        f"{median(seconds):.1f} / {max(seconds):.1f} s" if seconds else "-",
        verdict,
        "; ".join(report.notes + report.complaints),
    )


def _document(where: str, world: World, played: Iterable[Played]) -> str:
    """As it may stand in docs/reliability.md."""
    sizes = "Full" if world.size == "full" else "Quick"
    parts = [f"## {where}", f"{sizes} sizes, seed {world.seed}."]
    for each in played:
        parts += [f"{TITLES[each.sort]}:", as_markdown(each.table)]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
