"""`python -m tests.fuzz`: mutated messages through the real channel of one worker.

The worker has to live, and each message to come to one end: run, refused with a result, or
dead-lettered. A batch that shows otherwise is left in the file given by --keep, one message in hex
a line.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import TypeVar

import redis

from tests.fuzz.trial import Trial, batches, running_worker
from visionq.local import LocalServers
from visionq.names import Names

T = TypeVar("T")

NAMES = Names("fuzz")


def ahead(made: Iterator[T]) -> Iterator[T]:
    """The same, each made while the one before is in use."""
    with ThreadPoolExecutor(1) as thread:
        following = thread.submit(next, made, None)
        while (current := following.result()) is not None:
            following = thread.submit(next, made, None)
            yield current


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--batch", type=int, default=2_000, metavar="N")
    parser.add_argument("--keep", type=Path, default=None, metavar="FILE")
    given = parser.parse_args()
    began, ends = monotonic(), Counter[str]()
    with TemporaryDirectory(prefix="visionq-fuzz-") as folder:
        path = Path(folder)
        with (
            LocalServers(path / "state") as servers,
            redis.Redis.from_url(servers.urls.broker_url) as raw,
            running_worker(servers.urls, NAMES, path / "log") as worker,
        ):
            trial = Trial(raw, NAMES, worker)
            for number, batch in ahead(batches(given.seed, given.count, given.batch, raw)):
                try:
                    ends += trial.run(batch).ends
                except AssertionError:
                    print(f"batch {number}; the worker's log ends with:")
                    print((path / "log").read_text(errors="replace")[-5000:])
                    if given.keep:
                        given.keep.write_text("\n".join(one.hex() for one in batch))
                    raise
                print(f"{ends.total()} messages, {monotonic() - began:.0f} s", flush=True)
    print(f"seed {given.seed}: 0 exits of the worker in {monotonic() - began:.0f} s")
    for what, num in sorted(ends.items()):
        print(f"{num:7} {what}")


if __name__ == "__main__":
    main()
