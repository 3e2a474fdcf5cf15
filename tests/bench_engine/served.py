"""An engine behind the queue, and the same engine driven directly: one load, two rates.

The queue's side is a worker process with the real executor, Valkey and S3; its tasks wait in the
queue beforehand. The direct side prepares ahead and keeps a fixed number of requests in flight.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from tests.bench.children import REPOSITORY, Spec, Worker, cost_of_draining
from tests.bench.rig import Rig
from tests.bench.sample import KIND, QUESTION
from tests.bench.timing import Cost
from tests.bench_engine.children import Child, starting_child
from tests.bench_engine.engines import EngineSpec
from tests.bench_engine.pictures import as_file, noise
from tests.bench_engine.sample import SMALL_PX
from tests.bench_engine.steady import numbers_of_tokens, rate
from tests.bench_engine.stores import store_of
from tests.support.workers import environment
from visionq import Client, State, Submission
from visionq.names import input_key

DIRECT_MODULE = "tests.bench_engine.engine_main"
WORKER_MODULE = "tests.bench_engine.worker_main"

PROGRESS_SECONDS = "0.5"
"""As shipped; the tests' workers report five times as often."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What both sides are asked for: one small picture each and so many tokens.

    The rate leaves out the first and the last `num_aside` completions.
    """

    num_tokens: Sequence[int]
    num_aside: int


def load_of(count: int, mean_tokens: int) -> Load:
    """`count` requests, and the steady state of the inner five sevenths."""
    return Load(num_tokens=numbers_of_tokens(mean_tokens, count), num_aside=count // 7)


@dataclass(frozen=True, slots=True)
class Direct:
    """The engine in a process of its own."""

    child: Child
    load: Load
    in_flight: int

    def run(self) -> Cost:
        """Of a request in the steady state: the inverse of the rate, and CPU."""
        tokens = self.load.num_tokens
        answer = self.child.ask("drive", in_flight=self.in_flight, num_tokens=tokens)
        seconds = 1 / rate(answer["ended"], self.load.num_aside)
        return Cost(seconds, answer["cpu"] / len(tokens))


@dataclass(frozen=True, slots=True)
class Queued:
    """A worker, held still, and a client that fills its queue."""

    worker: Worker
    client: Client
    rig: Rig
    load: Load
    keys: Sequence[str]

    def run(self) -> Cost:
        """Of a task in the steady state: the inverse of the rate, and the worker's CPU."""
        ids = self._submit()
        cost = cost_of_draining(self.worker, self.rig.raw, lambda: ids)
        statuses = self.client.status_many(ids)
        assert all(status.state is State.SUCCESS for status in statuses), "no task fails"
        ended = [status.finished_at for status in statuses if status.finished_at is not None]
        return Cost(1 / rate(ended, self.load.num_aside), cost.cpu / len(ids))

    def _submit(self) -> list[str]:
        submissions = [
            Submission(KIND, key, QUESTION, {"num_crops": 1, "max_new_tokens": number})
            for key, number in zip(self.keys, self.load.num_tokens, strict=True)
        ]
        return [handle.id for handle in self.client.submit_many(submissions)]


@contextmanager
def starting_direct(spec: EngineSpec, load: Load, *, in_flight: int) -> Iterator[Direct]:
    """The engine, on its way to be ready: wait for `child.wait_until_ready`."""
    with starting_child(DIRECT_MODULE, json.dumps(spec.as_dict())) as child:
        yield Direct(child, load, in_flight)


@contextmanager
def starting_queued(
    rig: Rig, spec: EngineSpec, load: Load, *, concurrency: int, store_url: str | None = None
) -> Iterator[Queued]:
    """The worker, on its way to be ready, with the load's pictures stored.

    `store_url`: what the worker takes for the store, if not the store itself.
    """
    named = Spec("ours", concurrency)
    log = rig.folder / f"{spec.sort}-{concurrency}.log"
    env = environment(
        rig.urls,
        named.namespace,
        VISIONQ_WORKER__CONCURRENCY=str(concurrency),
        VISIONQ_WORKER__PROGRESS_SECONDS=PROGRESS_SECONDS,
        VISIONQ_STORAGE__ENDPOINT_URL=store_url or rig.urls.s3_endpoint,
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", WORKER_MODULE, json.dumps(spec.as_dict())],
            cwd=REPOSITORY,
            env=env,
            stdout=output,
            stderr=output,
        )
    try:
        with closing(rig.client(named.namespace)) as client:
            worker = Worker(named, process, log)
            yield Queued(worker, client, rig, load, _stored_pictures(rig, len(load.num_tokens)))
    finally:
        process.kill()  # nothing it holds is wanted any more, and a held one would not hear
        process.wait()


def _stored_pictures(rig: Rig, count: int) -> list[str]:
    """Keys of the pictures of the direct side, as files in the store."""
    contents = [as_file(noise(number, SMALL_PX), "PNG") for number in range(count)]
    with closing(store_of(rig)) as store:
        for content in contents:
            store.put(input_key(content), content)
    return [input_key(content) for content in contents]
