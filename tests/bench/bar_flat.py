"""Whether anything grows with the number of tasks that wait: 100,000 against 1,000.

Two servers, one with a short and one with a long queue, and a worker at each. The cost of a task
is the CPU time of the process that works plus that of its Valkey: a command that walks the queue
would show there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from time import perf_counter, sleep

from tests.bench.bar_worker import our_fill
from tests.bench.children import Spec, Worker, starting_worker
from tests.bench.readings import Reading
from tests.bench.rig import Rig, open_rig
from tests.bench.sample import KIND, QUESTION, picture_key
from tests.bench.timing import Cost, cost_of, cpu_seconds, interleave, micros
from visionq import Client
from visionq.contract import Lane
from visionq.names import Names

OURS = Spec("ours")
SHORT = 1000
LONG = 100_000
NUM_SUBMITS = 1000
NUM_READS = 2000
NUM_HANDLED = 500
LIMIT = 1.15
BULK = 1000
POLL_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Depth:
    """A server whose queue is kept at about `num_waiting` tasks, its worker held still."""

    rig: Rig
    client: Client
    worker: Worker
    num_waiting: int

    @property
    def queue(self) -> str:
        return Names(OURS.namespace).queue(Lane.INTERACTIVE)

    def top_up(self, extra: int = 0) -> None:
        """Bring the queue to its length."""
        while (lacking := self.num_waiting + extra - self._length()) > 0:
            our_fill(self.client, min(lacking, BULK))()

    def cut(self) -> None:
        """Drop what was submitted beyond its length."""
        self.rig.raw.ltrim(self.queue, max(0, self._length() - self.num_waiting), -1)

    def _length(self) -> int:
        return int(self.rig.raw.llen(self.queue))


def measure_flat(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    with ExitStack() as stack:
        other = stack.enter_context(open_rig(rounds=rig.rounds, scale=rig.scale))
        depths = _depths(stack, rig, other)
        for what, work in (("submit", _submit), ("status", _status), ("worker", _handle)):
            costs = interleave(_variants(depths, work), rig.rounds)
            yield _reading(what, depths, costs["long"].cpu, costs["short"].cpu)


def _depths(stack: ExitStack, short: Rig, long: Rig) -> dict[str, Depth]:
    """Both queues filled, their workers started side by side and held still."""
    lengths = {"short": short.count(SHORT), "long": long.count(LONG)}
    workers = [stack.enter_context(starting_worker(rig, OURS)) for rig in (short, long)]
    depths = {}
    for (name, length), rig, worker in zip(lengths.items(), (short, long), workers, strict=True):
        client = stack.enter_context(closing(rig.client(OURS.namespace)))
        worker.wait_until_ready()
        worker.pause()
        depths[name] = Depth(rig, client, worker, length)
        depths[name].top_up()
    return depths


def _variants(
    depths: dict[str, Depth], work: Callable[[Depth], Cost]
) -> dict[str, Callable[[], Cost]]:
    return {
        "short": lambda: work(depths["short"]),
        "long": lambda: work(depths["long"]),
    }


def _submit(depth: Depth) -> Cost:
    """Of one submit, the queue being longer by half of them on average."""
    count, key = depth.rig.count(NUM_SUBMITS), picture_key()
    cost = _with_server(
        depth, lambda: [depth.client.submit(KIND, key, QUESTION) for _ in range(count)]
    )
    depth.cut()
    return cost.per(count)


def _status(depth: Depth) -> Cost:
    count = depth.rig.count(NUM_READS)
    task_id = depth.client.submit(KIND, picture_key(), QUESTION).id
    return _with_server(depth, lambda: [depth.client.status(task_id) for _ in range(count)]).per(
        count
    )


def _with_server(depth: Depth, work: Callable[[], object]) -> Cost:
    before = cpu_seconds(depth.rig.valkey_pid)
    cost = cost_of(work)
    return replace(cost, cpu=cost.cpu + cpu_seconds(depth.rig.valkey_pid) - before)


def _handle(depth: Depth) -> Cost:
    """Of one task handled by the worker while the others wait."""
    count = depth.rig.count(NUM_HANDLED)
    depth.top_up(extra=count // 2)
    before = depth.num_waiting + count // 2
    wall, cpu = perf_counter(), _cpu(depth)
    depth.worker.resume()
    while (left := int(depth.rig.raw.llen(depth.queue))) > before - count:
        sleep(POLL_SECONDS)
    depth.worker.pause()
    return Cost(perf_counter() - wall, _cpu(depth) - cpu).per(before - left)


def _cpu(depth: Depth) -> float:
    return depth.worker.cpu_seconds() + cpu_seconds(depth.rig.valkey_pid)


def _reading(what: str, depths: dict[str, Depth], long: float, short: float) -> Reading:
    sizes = f"{depths['long'].num_waiting} / {depths['short'].num_waiting}"
    return Reading(
        bar="flat",
        what=f"{what} with {sizes} waiting, CPU",
        measured=long / short,
        limit=LIMIT,
        detail=f"{micros(long)} / {micros(short)}, Valkey's included",
    )
