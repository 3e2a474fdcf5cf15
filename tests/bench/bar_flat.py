"""Whether anything grows with the number of tasks that wait: 200,000 against 1,000.

Two servers, one with a short and one with a long queue, and a worker at each. The cost of a task
is the CPU time of the process that works on it and that of its Valkey, each by itself: a command
that walks the queue would show in the second, and get lost in the sum.

Then nothing happens but waiting: each worker has its hands full with one endless task, and what
both and their servers still use is housekeeping. Last, how late a task is that was to be started in
a second: whoever looks after 200,000 waiting tasks must not keep it waiting.

A million, by hand: `run_bench({"flat": partial(measure_flat, num_long=1_000_000)}, ...)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from time import perf_counter, sleep

from tests.bench.children import Spec, Worker, starting_worker
from tests.bench.readings import Reading
from tests.bench.rig import Rig, open_rig
from tests.bench.sample import ENDLESS_QUESTION, KIND, QUESTION, picture_key
from tests.bench.timing import Cost, cost_of, cpu_seconds, interleave, median_cost, micros
from tests.support.waiting import wait_until
from visionq import Client, Submission
from visionq.contract import Lane, State
from visionq.names import Names
from visionq.records import LOOK_SECONDS

OURS = Spec("ours")
AS_INSTALLED = {"VISIONQ_WORKER__RETRY_SECONDS": "5", "VISIONQ_WORKER__PROGRESS_SECONDS": "0.5"}
"""The tests' workers are more restless than the defaults: they look five times as often."""

SHORT = 1000
LONG = 200_000
ROUNDS_FACTOR = 5
"""Rounds are short and many here: other programs slow whole seconds down, and not one side."""
NUM_SUBMITS = 100
NUM_READS = 400
NUM_HANDLED = 100
BULK = 1000
POLL_SECONDS = 0.02
LIMIT = 1.15
IDLE_LIMIT = 1.5
"""Of some 3 ms in each second; what grows with the queue would be 200 times as much."""

DELAY_SECONDS = 1.0
MAX_LATE_SECONDS = 30.0
"""Nobody waits longer for the delayed tasks."""
LATE_LIMIT_SECONDS = 3.0
"""The reconciler takes a turn every second."""


@dataclass(frozen=True, slots=True)
class Depth:
    """A server with about `num_waiting` tasks in its bulk lane, and a worker that is held still."""

    rig: Rig
    client: Client
    worker: Worker
    num_waiting: int

    def length(self, lane: Lane = Lane.BULK) -> int:
        return int(self.rig.raw.llen(Names(OURS.namespace).queue(lane)))

    def top_up(self, extra: int = 0) -> None:
        """Bring the queue to its length."""
        task = Submission(KIND, picture_key(), QUESTION, {"lane": Lane.BULK})
        while (lacking := self.num_waiting + extra - self.length()) > 0:
            self.client.submit_many([task] * min(lacking, BULK))

    def drain(self) -> int:
        """Have the worker run what is beyond its length. Returns how many tasks that were."""
        before = self.length()
        self.worker.resume()
        while (left := self.length()) > self.num_waiting:
            sleep(POLL_SECONDS)
        self.worker.pause()
        return before - left

    def occupy(self) -> None:
        """Let the worker go, its hands full: it claims nothing from now on."""
        task = self.client.submit(KIND, picture_key(), ENDLESS_QUESTION)
        self.worker.resume()
        running = (State.STARTED, State.PROGRESS)
        wait_until(lambda: task.status().state in running, what="the endless task to be started")

    def used(self) -> Cost:
        """So far: the worker's CPU time and its server's."""
        return Cost(perf_counter(), self.worker.cpu_seconds(), cpu_seconds(self.rig.valkey_pid))


Depths = Mapping[str, Depth]


def measure_flat(rig: Rig, *, num_long: int = LONG) -> Iterator[Reading]:
    rig.clear()
    with ExitStack() as stack:
        other = stack.enter_context(open_rig(rounds=rig.rounds, scale=rig.scale))
        depths = _depths(stack, {"short": rig, "long": other}, num_long)
        for what, work in (("submit", _submit), ("status", _status), ("worker", _handle)):
            variants = {name: partial(work, depth) for name, depth in depths.items()}
            costs = interleave(variants, rig.rounds * ROUNDS_FACTOR)
            yield from _readings(what, "a task", depths, costs, micros, LIMIT)
        idle = _idle(depths, rig.rounds)
        yield from _readings("idle", "a second", depths, idle, _millis, IDLE_LIMIT)
        yield _lateness(depths)


def _depths(stack: ExitStack, rigs: Mapping[str, Rig], num_long: int) -> Depths:
    """Workers started side by side and held still, then the queues filled."""
    lengths = {"short": rigs["short"].count(SHORT), "long": rigs["long"].count(num_long)}
    workers = {
        name: stack.enter_context(starting_worker(rig, OURS, **AS_INSTALLED))
        for name, rig in rigs.items()
    }
    depths = {}
    for name, rig in rigs.items():
        client = stack.enter_context(closing(rig.client(OURS.namespace)))
        depths[name] = Depth(rig, client, workers[name], lengths[name])
        workers[name].wait_until_ready()
        workers[name].pause()
        depths[name].top_up()
    return depths


def _submit(depth: Depth) -> Cost:
    """Of one submit, the queue being longer by half of them on average."""
    count, key = depth.rig.count(NUM_SUBMITS), picture_key()

    def submit() -> None:
        for _ in range(count):
            depth.client.submit(KIND, key, QUESTION, lane=Lane.BULK)

    cost = _with_server(depth, submit)
    depth.drain()
    return cost.per(count)


def _status(depth: Depth) -> Cost:
    count = depth.rig.count(NUM_READS)
    task_id = depth.client.submit(KIND, picture_key(), QUESTION, lane=Lane.BULK).id
    cost = _with_server(depth, lambda: [depth.client.status(task_id) for _ in range(count)])
    return cost.per(count)


def _with_server(depth: Depth, work: Callable[[], object]) -> Cost:
    before = cpu_seconds(depth.rig.valkey_pid)
    cost = cost_of(work)
    return Cost(cost.wall, cost.cpu, cpu_seconds(depth.rig.valkey_pid) - before)


def _handle(depth: Depth) -> Cost:
    """Of one task claimed, run, reported and acknowledged while the others wait."""
    depth.top_up(extra=depth.rig.count(NUM_HANDLED))
    before = depth.used()
    num_handled = depth.drain()
    return _between(before, depth.used()).per(num_handled)


def _idle(depths: Depths, rounds: int) -> dict[str, Cost]:
    """Of one second in which nothing happens, at both at the same time.

    In windows as long as it takes until a task is looked at again.
    """
    for depth in depths.values():
        depth.occupy()
    taken: dict[str, list[Cost]] = {name: [] for name in depths}
    for _ in range(rounds):
        before = {name: depth.used() for name, depth in depths.items()}
        sleep(LOOK_SECONDS)
        for name, depth in depths.items():
            spent = _between(before[name], depth.used())
            taken[name].append(spent.per(spent.wall))
    return {name: median_cost(costs) for name, costs in taken.items()}


def _between(before: Cost, after: Cost) -> Cost:
    return Cost(after.wall - before.wall, after.cpu - before.cpu, after.server - before.server)


def _lateness(depths: Depths) -> Reading:
    """How long after its time a delayed task comes into its queue; both at the same time."""
    for depth in depths.values():
        depth.client.submit(KIND, picture_key(), QUESTION, start_in_seconds=DELAY_SECONDS)
    due = perf_counter() + DELAY_SECONDS
    late: dict[str, float] = {}
    while len(late) < len(depths) and perf_counter() < due + MAX_LATE_SECONDS:
        sleep(POLL_SECONDS)
        for name, depth in depths.items():
            if depth.length(Lane.INTERACTIVE):
                late.setdefault(name, perf_counter() - due)
    seconds = {name: late.get(name, MAX_LATE_SECONDS) for name in depths}
    has_come = "" if "long" in late else "; it had not come when nobody waited any longer"
    return Reading(
        bar="flat",
        what=f"late start of a delayed task, {_sizes(depths)}",
        measured=seconds["long"],
        unit="s",
        limit=LATE_LIMIT_SECONDS,
        detail=f"{seconds['long']:.1f} / {seconds['short']:.1f} s{has_come}",
    )


def _readings(
    what: str,
    unit: str,
    depths: Depths,
    costs: Mapping[str, Cost],
    text: Callable[[float], str],
    limit: float,
) -> Iterator[Reading]:
    """A row for the process that works, and one for its Valkey."""
    long, short = costs["long"], costs["short"]
    parts = {"CPU": (long.cpu, short.cpu), "Valkey's CPU": (long.server, short.server)}
    for part, (more, less) in parts.items():
        yield Reading(
            bar="flat",
            what=f"{what}, {_sizes(depths)}, {part} for {unit}",
            measured=more / less,
            limit=limit,
            detail=f"{text(more)} / {text(less)}",
        )


def _sizes(depths: Depths) -> str:
    return " / ".join(f"{depths[name].num_waiting:,}" for name in ("long", "short"))


def _millis(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms"
