"""Processes that answer commands, one JSON object a line, and are held still in between.

What is compared runs in processes of its own: threads, caches and `torch.set_num_threads` of one
engine would disturb the other inside one process, and spinning OpenMP threads even beside it.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Any

from tests.bench.children import REPOSITORY

READY = {"ready": True}


class Child:
    """A process that runs `serve`. It is stopped (SIGSTOP) unless it works on an answer."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._to: IO[str] = process.stdin
        self._from: IO[str] = process.stdout

    def wait_until_ready(self) -> None:
        """Wait for its imports, its model and the like; then hold it still."""
        answer = self._hear()
        assert answer == READY, answer
        self.pause()

    def ask(self, do: str, **given: Any) -> Any:
        """What the child's function `do` returns for these keywords."""
        self.resume()
        self._to.write(json.dumps({"do": do, **given}) + "\n")
        self._to.flush()
        answer = self._hear()
        self.pause()
        return answer

    def pause(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def _hear(self) -> Any:
        line = self._from.readline()
        assert line, f"{self._process.args!r} has ended with {self._process.wait()}"
        return json.loads(line)


@contextmanager
def starting_child(
    module: str, *arguments: str, env: Mapping[str, str] | None = None
) -> Iterator[Child]:
    """`python -m module arguments`, on its way to be ready; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=REPOSITORY,
        env=env,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield Child(process)
    finally:
        process.kill()  # a held one would not hear anything else
        process.communicate()


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """In the child: answer commands until standard input ends."""
    _say(READY)
    for line in sys.stdin:
        command = json.loads(line)
        _say(functions[command.pop("do")](**command))


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)
