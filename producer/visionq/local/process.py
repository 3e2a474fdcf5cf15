"""One server as a child process: start, watch, stop, kill. Knows nothing of Valkey or S3."""

import logging
import os
import subprocess
import sys
from concurrent.futures import Executor
from contextlib import suppress
from pathlib import Path

from visionq.local.commands import Command
from visionq.local.errors import LocalServerError, ServerDied
from visionq.local.folder import PRIVATE_FILE, PRIVATE_FOLDER

LAUNCHER = Path(__file__).with_name("launch.py")
PRIVATE_UMASK = 0o077
STOP_SECONDS = 10.0
NUM_TAIL_LINES = 4
NUM_TAIL_BYTES = 4096

log = logging.getLogger("visionq.local")


class ServerProcess:
    """A child in a session of its own, so Ctrl-C in the terminal reaches us and not the server.

    The kernel ends the child when the *thread* that forked it ends, so `spawner` must have one
    thread and live as long as the server. `lock` is inherited by the child (see folder.own).
    """

    def __init__(self, command: Command, *, spawner: Executor, lock: int) -> None:
        self.command = command
        self._spawner = spawner
        self._lock = lock
        self._child: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        if self._child is None:
            raise LocalServerError(f"{self.command.name} was not started")
        return self._child.pid

    def start(self) -> None:
        """Start the server; that it answers is for the caller to find out."""
        self.command.folder.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
        self._spawner.submit(self._spawn).result()
        log.info("%s started on port %d, pid %d", self.command.name, self.command.port, self.pid)

    def check(self) -> None:
        """Raise ServerDied if the server ended without being asked to."""
        if self._child is not None and (status := self._child.poll()) is not None:
            raise ServerDied(self.command.name, status, self._log_tail())

    def stop(self) -> None:
        """Ask the server to end and wait; SIGKILL it if it takes too long or we are interrupted."""
        if self._child is None or self._child.poll() is not None:
            return
        try:
            self._child.terminate()
            self._child.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            log.warning(
                "%s did not stop in %g s and is killed; what it has confirmed is on disk: nothing"
                " to do",
                self.command.name,
                STOP_SECONDS,
            )
        finally:
            self.kill()
        log.info("%s stopped", self.command.name)

    def kill(self) -> None:
        """SIGKILL the server and wait until it is gone."""
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()

    def _spawn(self) -> None:
        launcher = (sys.executable, "-I", "-S", str(LAUNCHER), str(os.getpid()))
        log_file = os.open(
            self.command.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, PRIVATE_FILE
        )
        try:
            self._log_start = os.fstat(log_file).st_size
            self._child = child = subprocess.Popen(  # noqa: S603 (argv is ours)
                (*launcher, *self.command.argv),
                stdin=subprocess.PIPE,
                stdout=log_file,
                stderr=log_file,
                cwd=self.command.folder,
                env=self.command.environment,
                pass_fds=(self._lock,),
                start_new_session=True,
                umask=PRIVATE_UMASK,
            )
        finally:
            os.close(log_file)
        assert child.stdin is not None
        # A broken pipe means that it died at once: check() says so, with its log.
        with suppress(BrokenPipeError), child.stdin:
            child.stdin.write(self.command.stdin.encode())

    def _log_tail(self) -> list[str]:
        """The last lines that this life of the server wrote."""
        with self.command.log_path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, end - NUM_TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()
        return [line.strip() for line in lines if line.strip()][-NUM_TAIL_LINES:]
