"""What workers write down about themselves, in one file that outlives every one of them.

A line is one `write` to a file opened for appending: a kill leaves whole lines. Times are of the
monotonic clock, which on Linux is the same for all processes and which no test shifts.

    up     the process consumes                  take   a message's task was begun
    run    its request went to the engine        done   the task's thread has let go of it
    later  it was postponed, and has to be begun again
    newer  it has come with the field that only the next version has
"""

from __future__ import annotations

import json
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic
from typing import Literal

from tests.faults.disk import through_a_pipe

What = Literal["up", "take", "run", "later", "done", "newer"]


@dataclass(frozen=True, slots=True)
class Line:
    at: float
    pid: int
    what: What
    task_id: str = ""


class Writer:
    """A worker's end."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write_through_a_pipe(self) -> None:
        """Before this process becomes unable to write files."""
        self._file = through_a_pipe(self._file)

    def write(self, what: What, task_id: str = "") -> None:
        line = Line(monotonic(), os.getpid(), what, task_id)
        os.write(self._file, json.dumps(asdict(line)).encode() + b"\n")


class Reader:
    """The test's end: all that was written so far. Thread-safe."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self._file = path.open("rb")
        self._lock = threading.Lock()
        self._begun = b""
        self._lines: list[Line] = []
        self._counts: Counter[tuple[int, What]] = Counter()

    def lines(self) -> Sequence[Line]:
        with self._lock:
            self._read()
            return tuple(self._lines)

    def count(self, what: What, *, pid: int) -> int:
        """How many such lines, at the price of the new ones only."""
        with self._lock:
            self._read()
            return self._counts[pid, what]

    def _read(self) -> None:
        for text in self._file:
            self._begun += text
            if not text.endswith(b"\n"):
                break  # half of it: what crosses a page of the file is seen in two steps
            line = Line(**json.loads(self._begun))
            self._begun = b""
            self._lines.append(line)
            self._counts[line.pid, line.what] += 1

    def of(self, what: What, *, task_id: str | None = None, pid: int | None = None) -> list[Line]:
        return [
            line
            for line in self.lines()
            if line.what == what and task_id in (None, line.task_id) and pid in (None, line.pid)
        ]

    def in_hand(self, pid: int) -> list[str]:
        """The tasks that this process has taken and not let go of."""
        held: Counter[str] = Counter()
        for line in self.lines():
            if line.pid == pid and line.what in ("take", "done"):
                held[line.task_id] += 1 if line.what == "take" else -1
        return [task_id for task_id, count in held.items() if count > 0]

    def close(self) -> None:
        self._file.close()
