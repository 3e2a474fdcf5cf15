"""Identical work once: tasks that ask the same of the same pictures share one generation.

In one process, those that run at the same time ride on one request of the engine. Later ones are
answered from the result of the one before, which the records remember. Each task keeps its own id,
record and result either way.
"""

from __future__ import annotations

import hashlib
import json
import threading
from typing import TYPE_CHECKING, Any

from visionq_worker.outputs import READING

if TYPE_CHECKING:
    from visionq_worker.engine.request import Handle
    from visionq_worker.model.processor import ModelInputs
    from visionq_worker.results import Maker, Run, Sizes


def work_key(run: Run, maker: Maker) -> str | None:
    """Equal keys, equal answers; None for a task that shares with nobody.

    Sampled answers are wanted to differ. Tenants do not share: that one of them has asked the same
    is not the other's to know.
    """
    options, engine = run.task.options, maker.engine
    if options.temperature > 0 or not options.reuse:
        return None
    assert run.kind is not None
    assert run.prompt is not None
    asked: list[Any] = [
        run.task.tenant,
        run.task.kind,
        run.kind.version,
        run.kind.parser,
        run.kind.loop_tokens,
        [[retry.temperature, retry.num_crops] for retry in run.kind.retries],
        run.prompt.text,
        run.prompt.num_crops,
        run.prompt.max_new_tokens,
        run.prompt.is_max_chosen,
        options.schema,
        [[source.digest, source.page] for source in run.sources],
        [engine.model, engine.revision, engine.dtype, engine.max_context_tokens],
        maker.decoding,
        READING,
    ]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


class Flight:
    """One request of the engine, and how many tasks ride on it. Thread-safe."""

    def __init__(self) -> None:
        self.inputs: ModelInputs | None = None
        self.sizes: Sizes = ()
        self.input_reasons: tuple[str, ...] = ()
        self.handle: Handle | None = None
        self.num_riders = 1
        self._is_settled = threading.Event()

    def take_off(self, run: Run, handle: Handle) -> None:
        """For the one who has boarded first: the request about the run's inputs is submitted."""
        self.inputs, self.sizes, self.input_reasons = run.inputs, run.sizes, run.input_reasons
        self.handle = handle
        self._is_settled.set()

    def call_off(self) -> None:
        """The first one has failed to submit it, for a reason of its own or not."""
        self._is_settled.set()

    def has_taken_off(self) -> bool:
        """For the others: waits until it is known."""
        self._is_settled.wait()
        return self.handle is not None


class Flights:
    """Those under way in this process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_key: dict[str, Flight] = {}

    def board(self, key: str | None) -> tuple[Flight, bool]:
        """A flight, and whether it is new and the caller has to see to it. `leave` it later."""
        with self._lock:
            flight = self._by_key.get(key) if key else None
            if flight is not None:
                flight.num_riders += 1
                return flight, False
            flight = Flight()
            if key:
                self._by_key[key] = flight
            return flight, True

    def is_alone(self, key: str | None, flight: Flight) -> bool:
        """Whether the caller is the only rider; then nobody else gets on any more."""
        with self._lock:
            if flight.num_riders > 1:
                return False
            self._forget(key, flight)
            return True

    def leave(self, key: str | None, flight: Flight) -> None:
        with self._lock:
            flight.num_riders -= 1
            if flight.num_riders == 0 or flight.handle is None:
                self._forget(key, flight)
        if flight.handle is None:
            flight.call_off()

    def _forget(self, key: str | None, flight: Flight) -> None:
        if key and self._by_key.get(key) is flight:
            del self._by_key[key]
