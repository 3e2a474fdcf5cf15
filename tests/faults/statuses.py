"""A client that asks for statuses all the while, and whether one of them ever went back."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from tests.faults.scene import Scene
from visionq import Status
from visionq.errors import BrokerUnavailable

PAUSE_SECONDS = 0.02


class Statuses:
    """A thread that asks, for as long as the block runs.

    A task that has a final state keeps it, and a task that was known stays so.
    """

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._ranks: dict[str, int] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="statuses")
        self.gone_back: list[str] = []
        self.num_asked = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(PAUSE_SECONDS):
            ids = list(self._scene.producer.accepted)
            try:
                statuses = self._scene.client.status_many(ids)
            except BrokerUnavailable:
                continue
            for status in statuses:
                self._note(status)
            self.num_asked += len(statuses)

    def _note(self, status: Status) -> None:
        rank = 2 if status.is_done else int(status.is_known)
        if rank < self._ranks.get(status.id, 0):
            self.gone_back.append(f"{status.id} is {status.state}")
        self._ranks[status.id] = rank
