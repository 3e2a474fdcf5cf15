"""What memory worker processes take, as the kernel counts it; and an end for the greedy ones."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.faults.crew import Crew

MEGABYTE = 1_000_000
LOOK_SECONDS = 0.02
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes(pid: int) -> int:
    """Now; 0 of a process that is gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_BYTES
    return 0


def peak_bytes(pid: int) -> int:
    """The most that was ever resident; 0 of a process that is gone."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


class MemoryKiller:
    """Plays the kernel's part as long as the block runs: SIGKILL for who has more than the limit.

    The kernel itself would kill only when the whole machine is short of memory, and whomever it
    likes; to give a process a limit of its own takes cgroups, and those take root.
    """

    def __init__(self, crew: Crew, *, limit_bytes: int) -> None:
        self._crew = crew
        self._limit_bytes = limit_bytes
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory killer")

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
        while not self._stop.wait(LOOK_SECONDS):
            for slot in self._crew.slots:
                if resident_bytes(slot.pid) > self._limit_bytes:
                    self._crew.kill(slot)
