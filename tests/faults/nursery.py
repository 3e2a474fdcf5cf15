"""Worker processes at the price of a fork: `python -m tests.faults.nursery` has imported it all.

torch, transformers and Celery take seconds to import, and a test that kills workers starts many.
The nursery imports them, starts no thread and runs no tensor, and forks a worker whenever it is
asked to. Its children die with it, and it dies when its standard input ends, so that nothing is
left behind by a test that was killed itself.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.disk import through_a_pipe
from tests.faults.spec import WorkerSpec

REPOSITORY = Path(__file__).parent.parent.parent
PR_SET_PDEATHSIG = 1
STOP_SECONDS = 10.0


class Nursery:
    """Starts workers, and says how they ended. Thread-safe.

    `more`: of the environment in which its workers' code is loaded.
    """

    def __init__(self, more: Mapping[str, str] | None = None) -> None:
        self._lock = threading.Lock()
        env = {name: value for name, value in os.environ.items() if name[:8] != "VISIONQ_"}
        # A library's pool of threads would not survive the fork, and there are few cores.
        env |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        env |= more or {}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=REPOSITORY,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._ended: dict[int, int] = {}

    def __enter__(self) -> Self:
        assert self._hear() == "ready"
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def bear(self, spec: WorkerSpec) -> int:
        """Start a worker; its process id. It says in the journal when it is up."""
        return int(self._ask({"bear": spec.as_json()}))

    def exit_code(self, pid: int) -> int | None:
        """As `subprocess` has it, negative for a signal; None while the process lives."""
        with self._lock:
            if pid not in self._ended:
                answer = self._ask_locked({"ended": True})
                self._ended |= {int(ended): code for ended, code in answer.items()}
            return self._ended.get(pid)

    def _ask(self, command: dict[str, Any]) -> Any:
        with self._lock:
            return self._ask_locked(command)

    def _ask_locked(self, command: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._hear()

    def _hear(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the nursery has ended with {self._process.wait()}"
        return json.loads(line)


def main() -> None:
    """In the nursery, until standard input ends."""
    from tests.faults import bodies

    bodies.get_ready()
    gc.freeze()  # what is never written to stays shared with the children
    _die_with_parent()
    children: set[int] = set()
    _say("ready")
    for line in iter(sys.stdin.readline, ""):
        command = json.loads(line)
        if "ended" in command:
            _say(_reap(children))
            continue
        spec = WorkerSpec.from_json(command["bear"])
        pid = os.fork()
        if pid == 0:
            _become(spec)
            bodies.live(spec)
            return
        children.add(pid)
        _say(pid)
    for pid in children:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _become(spec: WorkerSpec) -> None:
    """Take leave of the nursery: own session, own log, own settings and none of the folder's."""
    _die_with_parent()
    os.setsid()
    os.chdir(spec.folder)
    nothing = os.open(os.devnull, os.O_RDONLY)
    log = Path(spec.folder, spec.log_name)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if spec.is_disk_full:
        output = through_a_pipe(output)
    for number, file in enumerate((nothing, output, output)):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(spec.env)


def _reap(children: set[int]) -> dict[int, int]:
    ended = {}
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            children.discard(pid)
            ended[pid] = os.waitstatus_to_exitcode(status)
    return ended


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _say(answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    try:
        main()
    except Exception:
        traceback.print_exc()
        raise
