"""`python -m tests.faults`: the fault matrix against real servers and real processes, as a table.

Starts an embedded Valkey and S3 in a temporary folder and a nursery for workers, plays the rows one
after the other, and stops what it has started. The exit code is 1 when a row is red. A red row
leaves its events in the folder given by --events. With --stock the same rows are played with
Celery's stock transport, which has to do harm in some of them, or the harness proves nothing.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import monotonic

from tests.faults.nursery import Nursery
from tests.faults.oracle import Report
from tests.faults.rows import ROWS, Row, play
from tests.faults.scene import World
from visionq.local import LocalServers

HEAD = ("row", "what", "faults", "accepted", "lost", "duplicated", "redelivery p50/max", "verdict")


def main() -> int:
    wanted = _arguments(sys.argv[1:])
    rows = _chosen(wanted.rows, is_stock=wanted.stock)
    seed = wanted.seed if wanted.seed is not None else random.randrange(1_000_000)
    print(f"seed {seed}", flush=True)
    table: list[tuple[str, ...]] = [HEAD]
    is_well = True
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
            sort="stock" if wanted.stock else "ours",
        )
        for number, row in rows.items():
            began = monotonic()
            report = play(number, world)
            _say(number, row, report, monotonic() - began)
            table.append(_cells(number, row, report))
            is_well &= _is_as_expected(row, report, is_stock=wanted.stock)
            if not report.is_green and wanted.events is not None:
                wanted.events.mkdir(parents=True, exist_ok=True)
                (wanted.events / f"row-{number}.txt").write_text(report.events)
    print("\n" + _as_text(table))
    return 0 if is_well else 1


def _arguments(given: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--full", action="store_true", help="the matrix's own sizes; an hour")
    parser.add_argument("--rows", default="", metavar="1,2", help=f"of {', '.join(map(str, ROWS))}")
    parser.add_argument("--seed", type=int, help="of all that is drawn; default: another each time")
    parser.add_argument("--stock", action="store_true", help="the negative control")
    parser.add_argument("--events", type=Path, metavar="FOLDER", help="for the logs of red rows")
    return parser.parse_args(given)


def _chosen(text: str, *, is_stock: bool) -> Mapping[int, Row]:
    if text:
        return {number: ROWS[number] for number in map(int, text.split(","))}
    return {number: row for number, row in ROWS.items() if row.stock_harm or not is_stock}


def _is_as_expected(row: Row, report: Report, *, is_stock: bool) -> bool:
    if is_stock:
        return row.stock_harm is None or row.stock_harm(report) > 0
    return report.is_green


def _say(number: int, row: Row, report: Report, seconds: float) -> None:
    more = "; ".join(report.notes + report.complaints)
    verdict = "green" if report.is_green else "RED"
    print(f"{number:>3}  {row.title}: {verdict} in {seconds:.0f} s. {more}", flush=True)


def _cells(number: int, row: Row, report: Report) -> tuple[str, ...]:
    seconds = report.redeliveries
    return (
        str(number),
        row.title,
        report.faults,
        str(report.accepted),
        str(len(report.lost)),
        str(report.duplicates),
        f"{median(seconds):.1f} / {max(seconds):.1f} s" if seconds else "-",
        "green" if report.is_green else "RED",
    )


def _as_text(table: Sequence[tuple[str, ...]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


if __name__ == "__main__":
    sys.exit(main())
