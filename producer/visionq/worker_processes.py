"""The worker processes of `visionq up`: watched, and started again when they die.

Who calls `check` decides when that happens; there is no thread here. A child ends with the thread
that has started it, so `start` and `check` are for one thread that lives as long as the workers.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from time import monotonic
from typing import IO, Self

from visionq.errors import VisionqError
from visionq.local.process import LAUNCHER

log = logging.getLogger(__name__)

LAUNCH = (sys.executable, "-I", "-S", str(LAUNCHER))
STOP_SECONDS = 60.0
"""What a worker gets to finish its tasks once it was asked to stop."""
FIRST_PAUSE_SECONDS = 1.0
"""Before a worker that has died is started again; doubled each time."""
LONGEST_PAUSE_SECONDS = 60.0
WELL_SECONDS = 60.0
"""A worker that has lived so long was well: the next pause is the first one again."""
MAX_ENDS = 5
ENDS_SECONDS = 60.0
"""So many ends in so many seconds: to start again does not help."""
TOLD_TO_STOP = 0
CANNOT_START = (2, 3)
"""Exit codes of wrong usage or settings, and of a model, broker or bucket that cannot be used."""


class WorkerEnded(VisionqError):
    """A worker has ended by itself."""


class WorkerProcesses:
    """Workers of one command. A context: started on entry, stopped on exit."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        num_workers: int,
        environment: Mapping[str, str],
        output: IO[bytes] | None,
    ) -> None:
        """`output`: where they write, or None for this terminal."""
        self._workers = [_Worker(command, environment, output) for _ in range(num_workers)]

    def __enter__(self) -> Self:
        try:
            for worker in self._workers:
                worker.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def check(self) -> None:
        """Start those again that have died, each after its pause.

        Raises `WorkerEnded` where that does not help: one that could not start the first time, five
        ends of one within a minute or of all (more, where there are more workers), or when all
        were told to stop by somebody else.
        """
        for worker in self._workers:
            worker.check()
        num_ends = [worker.num_ends() for worker in self._workers]
        if max(num_ends) >= MAX_ENDS or sum(num_ends) >= max(MAX_ENDS, len(self._workers) + 1):
            last = max(self._workers, key=lambda worker: worker.ended_at)
            raise WorkerEnded(
                f"workers have ended {sum(num_ends)} times within {ENDS_SECONDS:g} s, the last one "
                f"with {last.spoken_code}: their output says why"
            )
        if all(worker.is_told_to_stop for worker in self._workers):
            raise WorkerEnded("all workers were told to stop")

    def stop(self) -> None:
        """Ask all of them to end, and wait until they have."""
        for worker in reversed(self._workers):
            worker.stop()


class _Worker:
    """One of them, through all its lives."""

    def __init__(
        self, command: Sequence[str], environment: Mapping[str, str], output: IO[bytes] | None
    ) -> None:
        self._command = command
        self._environment = environment
        self._output = output
        self._process: subprocess.Popen[bytes] | None = None
        self._num_starts = 0
        self._started_at = 0.0
        self._starts_at = 0.0
        self._pause = FIRST_PAUSE_SECONDS
        self._ends: list[float] = []
        self.is_told_to_stop = False
        self.spoken_code = ""

    @property
    def ended_at(self) -> float:
        """The last time; 0 for never."""
        return self._ends[-1] if self._ends else 0.0

    def num_ends(self) -> int:
        """How often it has died lately."""
        return sum(monotonic() - at < ENDS_SECONDS for at in self._ends)

    def start(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  # our own command
            # Tied to our life like the servers: left behind, it would keep the GPU, and it would
            # find the servers of the next `visionq up`.
            [*LAUNCH, str(os.getpid()), *self._command],
            env=self._environment,
            stdout=self._output,
            stderr=self._output,
            # Ctrl-C in the terminal is for us: we stop the worker before its servers.
            start_new_session=True,
        )
        self._num_starts += 1
        self._started_at = monotonic()

    def check(self) -> None:
        if self._process is not None:
            code = self._process.poll()
            if code is not None:
                self._process = None
                self._note_end(code)
        elif not self.is_told_to_stop and monotonic() >= self._starts_at:
            self.start()

    def _note_end(self, code: int) -> None:
        self.spoken_code = f"exit code {code}" if code >= 0 else f"signal {-code}"
        if code == TOLD_TO_STOP:
            self.is_told_to_stop = True
            log.warning(
                "visionq: a worker was told to stop, and is not started again; stop `visionq up`"
                " and start it again to have it back"
            )
            return
        if self._num_starts == 1 and code in CANNOT_START:
            raise WorkerEnded(f"a worker has ended with {self.spoken_code}")
        now = monotonic()
        self._ends = [*self._ends[-MAX_ENDS:], now]
        if now - self._started_at > WELL_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self._starts_at = now + self._pause
        log.warning(
            "visionq: a worker has ended with %s; it is started again in %g s, and its own lines"
            " say why it ended",
            self.spoken_code,
            self._pause,
        )
        self._pause = min(2 * self._pause, LONGEST_PAUSE_SECONDS)

    def stop(self) -> None:
        process = self._process
        if process is None:
            return
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
