"""Both embedded servers as one context manager: start, wait until usable, supervise, stop."""

import time
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

from visionq.local.binaries import find_rclone, find_valkey
from visionq.local.commands import Command, ServerName, rclone_command, valkey_command
from visionq.local.errors import LocalServerError, NotAnswering, ServerDied
from visionq.local.folder import own
from visionq.local.identity import Identity
from visionq.local.ports import HOST, choose_port, refuse_if_taken
from visionq.local.probes import StoreProbe, ping_broker
from visionq.local.process import ServerProcess
from visionq.local.urls import LocalUrls, remove_urls, write_urls

REGION = "us-east-1"
START_SECONDS = 30.0  # Valkey answers only when it has read its append-only file
POLL_SECONDS = 0.02


class LocalServers:
    """A Valkey and an S3 server on the loopback interface, for as long as the block runs.

    Data, keys and ports stay in the state folder between runs. On Linux the servers never outlive
    this process, not even if it is SIGKILLed; elsewhere they do then, and the folder stays locked.
    Entering raises BinaryMissing, PortTaken, FolderInUse, DamagedState, ServerDied, NotAnswering
    or WrongKeys, with everything stopped again. Use it from one thread at a time.
    """

    def __init__(
        self,
        state_folder: Path,
        *,
        redis_port: int | None = None,
        s3_port: int | None = None,
        bucket: str = "visionq",
    ) -> None:
        self._folder = state_folder.absolute()
        self._asked_ports = (redis_port, s3_port)
        self._bucket = bucket
        self._processes: dict[ServerName, ServerProcess] = {}
        self._urls: LocalUrls | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        binaries = (find_valkey(), find_rclone())
        with ExitStack() as cleanup:
            lock = cleanup.enter_context(own(self._folder))
            cleanup.callback(self._forget)
            identity = self._decide_identity()
            self._urls = _urls_of(identity, self._bucket)
            spawner = cleanup.enter_context(ThreadPoolExecutor(1, "visionq-local"))
            for command in _commands(binaries, identity, self._folder):
                self._add(command, spawner, lock, cleanup)
            identity.save(self._identity_path)
            cleanup.callback(remove_urls, self._folder)
            write_urls(self._folder, self._urls)
            self._cleanup = cleanup.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    @property
    def urls(self) -> LocalUrls:
        if self._urls is None:
            raise LocalServerError("the local servers were not started")
        return self._urls

    def pid(self, name: ServerName) -> int:
        return self._process(name).pid

    def check(self) -> None:
        """Raise ServerDied if a server ended without being asked to."""
        for process in self._processes.values():
            process.check()

    def kill(self, name: ServerName) -> None:
        """SIGKILL a server and wait until it is gone, as a fault test does."""
        self._process(name).kill()

    def restart(self, name: ServerName) -> None:
        """Start a server again, stopping it first if it runs: same port, same keys, same data."""
        process = self._process(name)
        process.stop()
        self._start(process)

    def _process(self, name: ServerName) -> ServerProcess:
        if name not in self._processes:
            raise LocalServerError("the local servers were not started")
        return self._processes[name]

    def _decide_identity(self) -> Identity:
        kept = Identity.load_or_create(self._identity_path)
        asked_redis, asked_s3 = self._asked_ports
        redis_port = choose_port(asked_redis, kept.redis_port, avoid=asked_s3)
        s3_port = choose_port(asked_s3, kept.s3_port, avoid=redis_port)
        return replace(kept, redis_port=redis_port, s3_port=s3_port)

    def _add(self, command: Command, spawner: Executor, lock: int, cleanup: ExitStack) -> None:
        _keep_one_old_log(command.log_path)
        process = ServerProcess(command, spawner=spawner, lock=lock)
        self._processes[command.name] = process
        cleanup.callback(process.stop)
        self._start(process)

    def _start(self, process: ServerProcess) -> None:
        process.start()
        try:
            _wait_until_ready(process, self._probe(process.command.name))
        except ServerDied:
            # It may have lost a race for its port; if so, say that.
            refuse_if_taken(process.command.port)
            raise

    def _probe(self, name: ServerName) -> Callable[[], None]:
        """What a server must be able to do before it counts as started."""
        urls = self.urls
        if name == "valkey":
            return lambda: ping_broker(urls.broker_url, urls.broker_address)
        store = StoreProbe(urls.s3_endpoint, urls.s3_access_key, urls.s3_secret_key, urls.s3_region)
        return lambda: store.ensure_bucket(urls.s3_bucket)

    def _forget(self) -> None:
        self._processes.clear()
        self._urls = None

    @property
    def _identity_path(self) -> Path:
        return self._folder / "identity.json"


def _urls_of(identity: Identity, bucket: str) -> LocalUrls:
    return LocalUrls(
        broker_url=f"redis://:{identity.redis_password}@{HOST}:{identity.redis_port}/0",
        s3_endpoint=f"http://{HOST}:{identity.s3_port}",
        s3_access_key=identity.s3_access_key,
        s3_secret_key=identity.s3_secret_key,
        s3_bucket=bucket,
        s3_region=REGION,
    )


def _commands(binaries: tuple[Path, Path], identity: Identity, folder: Path) -> tuple[Command, ...]:
    """In starting order."""
    valkey, rclone = binaries
    return (
        valkey_command(
            valkey,
            port=identity.redis_port,
            password=identity.redis_password,
            state_folder=folder,
        ),
        rclone_command(
            rclone,
            port=identity.s3_port,
            access_key=identity.s3_access_key,
            secret_key=identity.s3_secret_key,
            state_folder=folder,
        ),
    )


def _wait_until_ready(process: ServerProcess, probe: Callable[[], None]) -> None:
    """Raises ServerDied, WrongKeys, or NotAnswering after START_SECONDS."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        process.check()
        try:
            return probe()
        except NotAnswering:
            if time.monotonic() > deadline:
                raise
        time.sleep(POLL_SECONDS)


def _keep_one_old_log(path: Path) -> None:
    """A run starts with an empty log; the one of the run before stays beside it."""
    if path.exists():
        path.replace(path.with_suffix(".log.1"))
