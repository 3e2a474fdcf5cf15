"""What a fresh producer process pays: import and first submit, against a bare Celery app's.

Every figure is the median over fresh processes, the variants in turn. Wall and CPU time from the
first import to the end of the first submit, taken inside the process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from tests.bench.children import REPOSITORY, json_of
from tests.bench.readings import Reading
from tests.bench.rig import NAMESPACE, Rig
from tests.bench.timing import Cost, interleave
from tests.support.workers import environment

SCRIPT = str(REPOSITORY / "tests" / "bench" / "first_submit.py")
NUM_PROCESSES = 15
LIMIT = 1.3


def measure_startup(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    heavy: set[str] = set()
    variants = {sort: _fresh(rig, sort, heavy) for sort in ("ours", "from-settings", "bare")}
    costs = interleave(variants, max(rig.rounds, rig.count(NUM_PROCESSES, least=1)))
    ours, bare = costs["ours"], costs["bare"]
    yield _reading("first submit / first send_task, CPU", ours.cpu, bare.cpu, LIMIT)
    yield _reading("first submit / first send_task, wall", ours.wall, bare.wall, LIMIT)
    yield _reading("with Client.from_settings, CPU", costs["from-settings"].cpu, bare.cpu, None)
    yield Reading(
        bar="startup",
        what="heavy packages loaded by then",
        measured=len(heavy),
        unit="packages",
        sense="=",
        limit=0,
        detail=", ".join(sorted(heavy)),
    )


def _fresh(rig: Rig, sort: str, heavy: set[str]) -> Callable[[], Cost]:
    settings = environment(rig.urls, NAMESPACE)

    def run() -> Cost:
        report = json_of([SCRIPT, sort, rig.urls.broker_url], settings)
        heavy.update(report["heavy"])
        return Cost(report["wall"], report["cpu"])

    return run


def _reading(what: str, ours: float, bare: float, limit: float | None) -> Reading:
    return Reading(
        bar="startup",
        what=what,
        measured=ours / bare,
        limit=limit,
        detail=f"{ours * 1e3:.0f} / {bare * 1e3:.0f} ms",
    )
