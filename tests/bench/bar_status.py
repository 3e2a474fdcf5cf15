"""Looking at tasks: one at a time against a raw HGETALL, and a thousand at once.

CPU time is this process's; the raw reply is taken as redis-py gives it, on a plain client. Round
trips are counted by a proxy that holds every reply back: the time it adds, divided by the delay,
is how often the client has waited for the server. (The server's own count of reads would not do:
it reads a long pipeline in pieces of 16 KB.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from statistics import median
from time import perf_counter
from urllib.parse import urlsplit

from tests.bench.delay import delayed
from tests.bench.readings import Reading
from tests.bench.rig import NAMESPACE, Rig
from tests.bench.sample import KIND, QUESTION, picture_key
from tests.bench.timing import Cost, cost_of, interleave, micros
from visionq import Client, Submission
from visionq.connections import connect
from visionq.contract import ImageRef, State, Task
from visionq.names import Names
from visionq.records import Records

NUM_READS = 2000
NUM_AT_ONCE = 1000
DELAY_SECONDS = 0.1


def measure_status(rig: Rig) -> Iterator[Reading]:
    rig.clear()
    count = rig.count(NUM_READS)
    with closing(rig.client()) as client:
        task_ids = {"waiting": _waiting(client), "finished": _finished(rig, client)}
        costs = interleave(_variants(rig, client, task_ids, count), rig.rounds)
        for name in task_ids:
            ours, raw = costs[name].cpu, costs[f"raw {name}"].cpu
            yield Reading(
                bar="status",
                what=f"status / HGETALL, a {name} task, CPU",
                measured=ours / raw,
                limit=1.8,
                detail=f"{micros(ours / count)} / {micros(raw / count)}",
            )
        yield _round_trips(rig, client)


def _variants(
    rig: Rig, client: Client, task_ids: Mapping[str, str], count: int
) -> dict[str, Callable[[], Cost]]:
    def ours(task_id: str) -> Callable[[], Cost]:
        return lambda: cost_of(lambda: [client.status(task_id) for _ in range(count)])

    def raw(task_id: str) -> Callable[[], Cost]:
        key = Names(NAMESPACE).record(task_id)
        return lambda: cost_of(lambda: [rig.raw.hgetall(key) for _ in range(count)])

    looked_at = {name: ours(task_id) for name, task_id in task_ids.items()}
    return looked_at | {f"raw {name}": raw(task_id) for name, task_id in task_ids.items()}


def _waiting(client: Client) -> str:
    return client.submit(KIND, picture_key(), QUESTION).id


def _finished(rig: Rig, client: Client) -> str:
    """A task brought to its end as a worker would, without one."""
    task_id = _waiting(client)
    task = Task(id=task_id, kind=KIND, images=(ImageRef(ref=picture_key()),), question=QUESTION)
    with closing(connect(rig.urls.broker_url, timeout_seconds=2)) as connection:
        records = Records(connection, Names(NAMESPACE), ttl_seconds=600)
        attempt = records.start(task, owner="bench:1", max_new_tokens=1000)
        done = {"store": "0.001200", "tokens": "120"}
        assert records.move(task_id, State.SUCCESS, fence=attempt.fence, **done)
    return task_id


def _round_trips(rig: Rig, client: Client) -> Reading:
    submissions = [Submission(KIND, picture_key(), QUESTION) for _ in range(NUM_AT_ONCE)]
    task_ids = [handle.id for handle in client.submit_many(submissions)]
    address = urlsplit(rig.urls.broker_url)
    assert address.hostname
    assert address.port
    with delayed(address.hostname, address.port, DELAY_SECONDS) as port:
        far_url = rig.urls.broker_url.replace(f":{address.port}/", f":{port}/")
        with Client(far_url, namespace=NAMESPACE) as far:
            late = _seconds(far, task_ids)
    direct = _seconds(client, task_ids)
    return Reading(
        bar="status",
        what=f"status_many of {NUM_AT_ONCE}",
        measured=round((late - direct) / DELAY_SECONDS, 1),
        unit="round trips",
        limit=2,
        detail=f"{late * 1e3:.0f} ms where replies come {DELAY_SECONDS * 1e3:.0f} ms late, "
        f"{direct * 1e3:.0f} ms without",
    )


def _seconds(client: Client, task_ids: list[str]) -> float:
    """The median of three calls on a connection that is already there."""
    client.status_many(task_ids[:1])
    taken = []
    for _ in range(3):
        began = perf_counter()
        assert all(status.state is State.PENDING for status in client.status_many(task_ids))
        taken.append(perf_counter() - began)
    return median(taken)
