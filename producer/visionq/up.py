"""The whole service on one machine and in one terminal: servers first, then workers.

Workers are other processes of another distribution; nothing of theirs is imported here.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from visionq.errors import VisionqError
from visionq.local import LocalServers, LocalUrls
from visionq.settings import FILE_VARIABLE
from visionq.worker_processes import WorkerProcesses


class WorkerMissing(VisionqError):
    """There is no `visionq-worker` beside this Python: pip install visionq-worker."""


def default_state_folder() -> Path:
    """Where `visionq up` keeps its data, and where other commands find its servers."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "visionq"


@contextmanager
def running_service(
    state_folder: Path,
    *,
    num_workers: int = 1,
    worker_flags: Sequence[str] = (),
    worker_log: Path | None = None,
    settings_file: Path | None = None,
) -> Iterator[Service]:
    """Servers and workers, started in that order and stopped in reverse.

    Workers write to `worker_log`, or to this terminal; they read `settings_file`, or what they
    would find by themselves, and in any case use these servers. `Service.check` watches over them.
    """
    with ExitStack() as stack:
        servers = stack.enter_context(LocalServers(state_folder))
        environment = os.environ | settings_environment(servers.urls)
        if settings_file is not None:
            environment[FILE_VARIABLE] = str(settings_file)
        log = stack.enter_context(worker_log.open("wb")) if worker_log else None
        workers = WorkerProcesses(
            [_find_worker(), "run", *worker_flags],
            num_workers=num_workers,
            environment=environment,
            output=log,
        )
        yield Service(servers, stack.enter_context(workers))


class Service:
    """A running service: where it listens, and its workers."""

    def __init__(self, servers: LocalServers, workers: WorkerProcesses) -> None:
        self.urls = servers.urls
        self._servers = servers
        self._workers = workers

    def check(self) -> None:
        """Start workers that have died again, in the thread that has started the service.

        Raises `ServerDied`, or `WorkerEnded` where starting again does not help.
        """
        self._servers.check()
        self._workers.check()


def settings_flags(urls: LocalUrls) -> dict[str, dict[str, str]]:
    """The settings that point a visionq program at these servers, for `load_settings`."""
    return {
        "broker": {"url": urls.broker_url},
        "storage": {
            "endpoint_url": urls.s3_endpoint,
            "region": urls.s3_region,
            "access_key": urls.s3_access_key,
            "secret_key": urls.s3_secret_key,
            "bucket": urls.s3_bucket,
        },
    }


def settings_environment(urls: LocalUrls) -> dict[str, str]:
    """The same settings as environment variables, for another process."""
    return {
        f"VISIONQ_{section}__{key}".upper(): value
        for section, values in settings_flags(urls).items()
        for key, value in values.items()
    }


def call_worker(*arguments: str) -> int:
    """Exit code of `visionq-worker ARGUMENTS`, run in this terminal. Raises `WorkerMissing`."""
    return subprocess.call([_find_worker(), *arguments])  # noqa: S603  # our own command


def _find_worker() -> str:
    """The command of the worker's distribution. Raises `WorkerMissing`."""
    beside = Path(sys.executable).with_name("visionq-worker")
    found = str(beside) if beside.exists() else shutil.which("visionq-worker")
    if found is None:
        raise WorkerMissing
    return found
