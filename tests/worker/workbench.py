"""An executor with everything around it real but the model, and engines that behave as told."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support.scripted import ScriptedEngine
from tests.worker.picture_bytes import DOT, DOT_DIGEST
from visionq.contract import ImageRef, Result, State, Status, Task, read_result
from visionq.errors import ObjectMissing
from visionq.kinds import BUILTIN_KINDS, Kind
from visionq.local import LocalServers, ServerName
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.engine.request import Engine, Handle, Request
from visionq_worker.executor import Executor
from visionq_worker.footprint import Decoding
from visionq_worker.gate import StoreGate
from visionq_worker.images import ImageLimits
from visionq_worker.preparation import Preparation
from visionq_worker.sources import Sources

DOT_KEY = f"inputs/{DOT_DIGEST}"
OWNER = "host:1"
VERSIONS = {"torch": "0.0"}
KINDS = {**BUILTIN_KINDS, "cars": Kind(prompt="Count the cars. {question}", version=3)}
LONG = "word " * 10_000
"""An answer that nobody waits for."""


@dataclass(frozen=True)
class Workbench:
    """One executor, and what a client would see of its work."""

    engine: ScriptedEngine
    records: Records
    store: ObjectStore
    executor: Executor
    store_gate: StoreGate

    def task(
        self,
        kind: str = "ask",
        question: str | None = "What is this?",
        *,
        is_submitted: bool = True,
        **more: Any,
    ) -> Task:
        """A task about one red dot; once submitted, its record waits."""
        given = {"images": (ImageRef(ref=DOT_KEY),)} | more
        task = Task(id=str(uuid.uuid4()), kind=kind, question=question, **given)
        if is_submitted:
            self.records.create(task)
        return task

    def run(self, task: Task) -> Result:
        """Execute the task and require a result, rather than a state."""
        result = self.executor.execute(task)
        assert isinstance(result, Result)
        return result

    def status(self, task: Task) -> Status:
        return self.records.status(task.id)

    def state(self, task: Task) -> State:
        return self.records.status(task.id).state

    def stored(self, task: Task) -> Result | None:
        """The result object, if there is one."""
        try:
            return read_result(self.store.get(task.result_key))
        except ObjectMissing:
            return None

    def stored_json(self, task: Task) -> dict[str, Any]:
        """The result object as a program in another language would read it."""
        data: dict[str, Any] = json.loads(self.store.get(task.result_key))
        return data


def preparation(
    engine: Engine, *, decoding: Decoding = "fast", max_bytes: int = 100_000_000
) -> Preparation:
    return Preparation(
        engine,
        ImageLimits(max_pixels=1_000_000, formats=("JPEG", "PNG", "WEBP"), pdf=True),
        decoding=decoding,
        has_fast_decoder=False,
        max_bytes=max_bytes,
        max_at_once=2,
    )


def workbench(
    engine: ScriptedEngine,
    records: Records,
    store: ObjectStore,
    *,
    reuses: bool = False,
    keeps_results: bool = False,
    decoding: Decoding = "fast",
) -> Workbench:
    if not store.exists(DOT_KEY):
        store.put(DOT_KEY, DOT)
    gate = StoreGate()
    executor = Executor(
        engine=engine,
        records=records,
        store=store,
        sources=Sources(store, records, allowed_buckets=(), max_bytes=1_000_000),
        kinds=KINDS,
        preparation=preparation(engine, decoding=decoding),
        owner=OWNER,
        versions=VERSIONS,
        progress_seconds=0.02,
        retry_seconds=0.05,
        store_gate=gate,
        reuses=reuses,
        keeps_results=keeps_results,
    )
    return Workbench(engine, records, store, executor, gate)


@contextmanager
def down(servers: LocalServers, name: ServerName) -> Iterator[None]:
    """One of the servers is dead while the block runs."""
    servers.kill(name)
    try:
        yield
    finally:
        servers.restart(name)


@contextmanager
def running(bench: Workbench, task: Task) -> Iterator[Future[Result | State]]:
    """The task is executed in another thread; at the block's end it is cancelled if it still runs.

    Yields what `execute` will have returned or raised.
    """
    with ThreadPoolExecutor(1) as pool:
        outcome = pool.submit(bench.executor.execute, task)
        try:
            yield outcome
        finally:
            if not outcome.done():  # or a record that is gone would be cancelled for good
                bench.records.cancel(task.id)
            bench.engine.close()


class VerbatimEngine(ScriptedEngine):
    """Its answer is one token, so that line breaks in it survive."""

    def __init__(self, answer: str) -> None:
        super().__init__("token")
        self._answer = answer

    def decode(self, token_ids: Iterable[int]) -> str:
        return self._answer * len(list(token_ids))


class HeldEngine(ScriptedEngine):
    """Answers a request when the test says so, cancelled or not."""

    def __init__(self, answer: str = "a late answer") -> None:
        super().__init__(answer)
        self.handles: list[Handle] = []

    def submit(self, request: Request) -> Handle:
        self.requests.append(request)
        self.handles.append(Handle())
        return self.handles[-1]

    def end(self, number: int) -> None:
        """Let the request of that number (from 0) end: with the whole text, if not cancelled."""
        request, handle = self.requests[number], self.handles[number]
        handle.complete(self._completion(request, handle, len(self.words), 0.0))

    def close(self) -> None:
        for number in range(len(self.handles)):
            self.end(number)
