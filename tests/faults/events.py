"""What happened in a scene, and when: printed when its row is red."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from time import monotonic

from tests.faults.gate import Put
from tests.faults.journal import Line


class Events:
    """Thread-safe. Times are seconds since the scene began."""

    def __init__(self) -> None:
        self.began = monotonic()
        self._lock = threading.Lock()
        self._events: list[tuple[float, str]] = []

    def note(self, text: str) -> None:
        with self._lock:
            self._events.append((monotonic(), text))

    def text(self, lines: Iterable[Line], puts: Mapping[str, Sequence[Put]]) -> str:
        """One event a line, with what the workers wrote down and what the store has taken."""
        theirs = [(line.at, f"[{line.pid}] {line.what} {line.task_id}") for line in lines]
        stored = [
            (put.at, f"put {task_id} {put.digest[:8]}{' AGAIN' if number else ''}")
            for task_id, several in puts.items()
            for number, put in enumerate(several)
        ]
        with self._lock:
            all_of_them = sorted(self._events + theirs + stored)
        return "\n".join(f"{at - self.began:9.3f}  {text}" for at, text in all_of_them)


def keep_events(text: str, folder: Path | None, name: str) -> None:
    """Write them down for whoever asks what has gone wrong; None: nobody does."""
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.txt").write_text(text)
