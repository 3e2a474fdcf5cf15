"""The workers of a scene, under a supervisor that starts each one again when it has ended.

Only what the scene does through this module is an exit with a cause; any other was the worker's own
doing, and the oracle counts it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, replace
from time import monotonic
from types import TracebackType
from typing import Self

from tests.faults.events import Events
from tests.faults.journal import Reader
from tests.faults.nursery import Nursery
from tests.faults.spec import WorkerSpec
from tests.support.waiting import wait_until

LOOK_SECONDS = 0.02
UP_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Exit:
    """How a worker ended. `cause` is what the scene had done to it, if anything."""

    at: float
    pid: int
    code: int
    cause: str | None
    in_hand: tuple[str, ...]


class Slot:
    """A place for one worker at a time."""

    def __init__(self, name: str, spec: WorkerSpec, nursery: Nursery) -> None:
        self.name = name
        self.spec = spec
        self.nursery = nursery
        self.pid = 0
        self.is_kept = True


class Crew:
    """All slots. Signals are sent here, so that what they cost is known."""

    def __init__(self, nursery: Nursery, journal: Reader, events: Events) -> None:
        self._nursery = nursery
        self._journal = journal
        self._events = events
        self._lock = threading.Lock()
        self._causes: dict[int, str] = {}
        self._is_over = False
        self.slots: list[Slot] = []
        self.exits: list[Exit] = []
        self.excused: Counter[str] = Counter()
        """How often each task was in the hands of a worker that was taken out."""
        self._supervisor = threading.Thread(target=self._supervise, name="crew")

    def __enter__(self) -> Self:
        self._supervisor.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_over = True
        self._supervisor.join()
        for slot in self.slots:
            if slot.pid and slot.nursery.exit_code(slot.pid) is None:
                _send(slot.pid, signal.SIGKILL)
                wait_until(lambda slot=slot: _is_gone(slot), what="a kill")  # type: ignore[misc]

    def add(
        self,
        spec: WorkerSpec,
        *,
        count: int = 1,
        is_awaited: bool = True,
        nursery: Nursery | None = None,
    ) -> list[Slot]:
        """So many more workers of that kind. `nursery`: of another version's code."""
        added = []
        for _ in range(count):
            name = f"worker-{len(self.slots)}"
            of_name = replace(spec, log_name=f"{name}.log")
            slot = Slot(name, of_name, nursery or self._nursery)
            self._bear(slot)
            added.append(slot)
            with self._lock:
                self.slots.append(slot)
        if is_awaited:
            for slot in added:
                self.wait_until_up(slot)
        return added

    def is_up(self, slot: Slot) -> bool:
        return bool(self._journal.of("up", pid=slot.pid))

    def wait_until_up(self, slot: Slot) -> None:
        """The slot's present worker, or its next one, consumes."""
        wait_until(lambda: self.is_up(slot), seconds=UP_SECONDS, what=f"{slot.name} to be up")

    def kill(self, slot: Slot) -> None:
        """SIGKILL; returns when the process is gone."""
        self.wait_until_gone(self._signal(slot, signal.SIGKILL, "killed"))

    def terminate(self, slot: Slot, *, is_kept: bool = True) -> int:
        """SIGTERM, and do not wait. Returns the process id."""
        slot.is_kept = is_kept
        return self._signal(slot, signal.SIGTERM, "terminated")

    def retire(self, slot: Slot) -> None:
        """SIGTERM, wait, and start no other."""
        self.wait_until_gone(self.terminate(slot, is_kept=False))

    def freeze(self, slot: Slot) -> None:
        """SIGSTOP. What it has in hand may be begun by another without blame."""
        self._events.note(f"{slot.name} [{slot.pid}] is frozen")
        _send(slot.pid, signal.SIGSTOP)
        self.excused.update(self._journal.in_hand(slot.pid))

    def thaw(self, slot: Slot) -> None:
        """SIGCONT."""
        self._events.note(f"{slot.name} [{slot.pid}] goes on")
        _send(slot.pid, signal.SIGCONT)

    def wait_until_gone(self, pid: int, *, seconds: float = 60.0) -> Exit:
        def found() -> Exit | None:
            return next((each for each in self.exits if each.pid == pid), None)

        gone = wait_until(found, seconds=seconds, what=f"process {pid} to end")
        assert gone is not None
        return gone

    def own_exits(self) -> list[Exit]:
        """Those that nobody caused."""
        return [each for each in self.exits if each.cause is None]

    def _signal(self, slot: Slot, number: signal.Signals, cause: str) -> int:
        pid = slot.pid  # the supervisor puts another one there when it is gone
        self._events.note(f"{slot.name} [{pid}] is {cause}")
        self._causes[pid] = cause
        _send(pid, number)
        return pid

    def _supervise(self) -> None:
        pause = threading.Event()
        while not self._is_over:
            with self._lock:
                slots = list(self.slots)
            for slot in slots:
                if slot.pid:
                    self._look_after(slot)
            pause.wait(LOOK_SECONDS)

    def _look_after(self, slot: Slot) -> None:
        code = slot.nursery.exit_code(slot.pid)
        if code is None:
            return
        in_hand = tuple(self._journal.in_hand(slot.pid))
        self.excused.update(in_hand)
        gone = Exit(monotonic(), slot.pid, code, self._causes.get(slot.pid), in_hand)
        self._events.note(
            f"{slot.name} [{slot.pid}] has ended with {code}, {gone.cause or 'by itself'}, "
            f"with {len(in_hand)} tasks in hand"
        )
        if slot.is_kept:
            self._bear(slot)
        else:
            slot.pid = 0
        self.exits.append(gone)

    def _bear(self, slot: Slot) -> None:
        slot.pid = slot.nursery.bear(slot.spec)
        self._events.note(f"{slot.name} [{slot.pid}] is born")


def _is_gone(slot: Slot) -> bool:
    return slot.nursery.exit_code(slot.pid) is not None


def _send(pid: int, number: signal.Signals) -> None:
    # A child is a zombie until the nursery is asked for it, so the number is never a stranger's.
    with suppress(ProcessLookupError):
        os.kill(pid, number)
