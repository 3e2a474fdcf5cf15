"""`python -m tests.eval_pocket`: how well the pocket model reads, through the whole service.

Starts an embedded Valkey and S3 in a temporary folder, and one worker after the other: with the
model named, and with random weights of the same shape. Fresh pictures, never trained on, are
submitted as a producer would; the answers come from the store.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import TYPE_CHECKING

from tests.eval_pocket.scoring import Tally
from tests.support.drawn import EVALUATED, png_files
from visionq import Client
from visionq.errors import TaskNotDone
from visionq.settings import load_settings
from visionq.up import running_service, settings_flags
from visionq_worker.pocket.network import new_model, write_pocket
from visionq_worker.pocket.training.batches import FIRST_TRAINING_SEED
from visionq_worker.pocket.world.fonts import faces
from visionq_worker.pocket.world.level import LEVELS
from visionq_worker.pocket.world.samples import SORTS, Sample, sample

if TYPE_CHECKING:
    from visionq import Result, TaskHandle

FIRST_SEED = 500_000
assert FIRST_SEED < FIRST_TRAINING_SEED
NUM_ALONE = 20
"""Pictures of each sort that are asked about one by one, so that seconds are of one task."""
IN_FLIGHT = 16
SECONDS = 300.0
"""For one answer."""
RANDOM_TOKENS = 40
"""Of an answer of random weights, which do not know where to end."""


def main() -> int:
    wanted = _read_arguments()
    with TemporaryDirectory() as folder:
        scores = {wanted.model: _scores(wanted.model, wanted, wanted.count, None, folder)}
        if wanted.random:
            blank = Path(folder) / "random"
            write_pocket(blank, new_model(0).state_dict())
            scores["random weights"] = _scores(
                str(blank), wanted, wanted.random, RANDOM_TOKENS, folder
            )
    print(f"Level {wanted.level}, seeds from {wanted.seed} on:\n")
    print(_table(scores))
    if wanted.json:
        figures = {"level": wanted.level, "first_seed": wanted.seed, "scores": _figures(scores)}
        wanted.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 0


def _scores(
    model: str, wanted: argparse.Namespace, count: int, limit: int | None, folder: str
) -> dict[str, Tally]:
    tallies = {sort: Tally() for sort in wanted.sorts}
    with _client(model, Path(folder)) as client:
        pictures = _pictures(wanted, count)
        for drawn in islice(pictures, min(count, NUM_ALONE) * len(wanted.sorts)):
            began = perf_counter()
            ((_, result),) = _answered(client, iter([drawn]), limit)
            tallies[drawn.sort].seconds.append(perf_counter() - began)
            _count(tallies, drawn, result, wanted)
        for drawn, result in _answered(client, pictures, limit):
            _count(tallies, drawn, result, wanted)
    return tallies


def _count(
    tallies: dict[str, Tally], drawn: Sample, result: Result | None, wanted: argparse.Namespace
) -> None:
    before = tallies[drawn.sort].right
    tallies[drawn.sort].add(drawn, result)
    if wanted.verbose and tallies[drawn.sort].right == before:
        text = result.text if result else None
        print(f"{drawn.sort}, {drawn.kind}: {drawn.answer!r}\n  {text!r}", file=sys.stderr)


@contextmanager
def _client(model: str, folder: Path) -> Iterator[Client]:
    flags = [f"--model={model}", "--concurrency=4"]
    log = folder / "worker.log"
    with (
        running_service(folder / "service", worker_flags=flags, worker_log=log) as service,
        Client.from_settings(load_settings(**settings_flags(service.urls))) as client,
    ):
        yield client


def _pictures(wanted: argparse.Namespace, count: int) -> Iterator[Sample]:
    for number in range(count):
        for sort in wanted.sorts:
            yield sample(sort, wanted.seed + number, LEVELS[wanted.level])


def _answered(
    client: Client, pictures: Iterator[Sample], limit: int | None
) -> Iterator[tuple[Sample, Result | None]]:
    """Each with its result, None where the task failed; a few at a time are on their way."""
    under_way: list[tuple[Sample, TaskHandle]] = []
    for drawn in pictures:
        handle = client.submit(
            drawn.kind,
            png_files(drawn),
            drawn.question,
            schema=drawn.schema,
            max_new_tokens=limit,
        )
        under_way.append((drawn, handle))
        if len(under_way) == IN_FLIGHT:
            yield _result(*under_way.pop(0))
    for one in under_way:
        yield _result(*one)


def _result(drawn: Sample, handle: TaskHandle) -> tuple[Sample, Result | None]:
    try:
        return drawn, handle.result(SECONDS)
    except TaskNotDone:
        return drawn, None


def _table(scores: dict[str, dict[str, Tally]]) -> str:
    lines = [
        "| model | pictures | asked | exactly right | character errors | p50 seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {model} | {sort} | {tally.asked} | {tally.exact:.1%} | "
        f"{tally.character_errors:.2%} | {tally.p50_seconds:.2f} |"
        for model, tallies in scores.items()
        for sort, tally in tallies.items()
    ]
    return "\n".join(lines)


def _figures(scores: dict[str, dict[str, Tally]]) -> dict[str, dict[str, dict[str, float]]]:
    return {
        model: {
            sort: {
                "asked": tally.asked,
                "exact": round(tally.exact, 4),
                "character_errors": round(tally.character_errors, 5),
                "p50_seconds": round(tally.p50_seconds, 3),
            }
            for sort, tally in tallies.items()
        }
        for model, tallies in scores.items()
    }


def _read_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.eval_pocket", description=__doc__)
    parser.add_argument(
        "sorts",
        nargs="*",
        default=[*SORTS],
        metavar="SORT",
        help=f"{', '.join(SORTS)} (default: all of them)",
    )
    parser.add_argument("--model", default="pocket", help="name or folder (default: pocket)")
    parser.add_argument("--count", type=int, default=200, help="pictures of each sort")
    parser.add_argument("--random", type=int, default=20, help="of these, for random weights too")
    parser.add_argument("--seed", type=int, default=FIRST_SEED, help="of the first picture")
    parser.add_argument(
        "--level",
        type=int,
        choices=range(len(LEVELS)),
        default=LEVELS.index(EVALUATED),
        help="how hard the pictures are (default: %(default)s; the last is all of the world)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--verbose", action="store_true", help="show the wrong answers")
    wanted = parser.parse_args()
    if unknown := [sort for sort in wanted.sorts if sort not in SORTS]:
        parser.error(f"no sort {', '.join(unknown)}; there are {', '.join(SORTS)}")
    if wanted.count < 1:
        parser.error("--count must be 1 at least")
    if len(faces()) == 1:
        parser.error("there are no faces to draw with: pip install 'visionq-worker[pocket]'")
    if wanted.seed + wanted.count > FIRST_TRAINING_SEED:
        parser.error(f"seeds from {FIRST_TRAINING_SEED} on are trained on")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
