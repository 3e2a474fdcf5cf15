"""Clocks that are wrong: of processes that are started with them, and of a Redis.

A small library is compiled and preloaded (`clock.c`); nothing of the machine is set.
"""

from __future__ import annotations

import os
import secrets
import shutil
import struct
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path
from time import time
from types import TracebackType
from typing import Self

import redis

from tests.support.waiting import wait_until
from visionq.local.binaries import find_valkey
from visionq.local.commands import valkey_command
from visionq.local.folder import own
from visionq.local.ports import HOST, choose_port, propose_port
from visionq.local.process import ServerProcess

SOURCE = Path(__file__).with_name("clock.c")
READY_SECONDS = 15.0


class NoClocks(Exception):
    """This machine cannot run a program under another clock; the message says why."""


class Clock:
    """The clock of whatever is started with `env`; it can be set while that runs."""

    def __init__(self, folder: Path, seconds: int = 0) -> None:
        """Raises `NoClocks`."""
        folder.mkdir(parents=True, exist_ok=True)
        self._file = folder / "seconds"
        self.set(seconds)
        self.env = {"LD_PRELOAD": str(_library(folder)), "TEST_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """So many seconds ahead of the machine's clock; behind it, if below 0."""
        with open(self._file, "r+b" if self._file.exists() else "wb", buffering=0) as file:
            file.write(struct.pack("=q", seconds))


def _library(folder: Path) -> Path:
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if sys.platform != "linux" or compiler is None:
        raise NoClocks("no program can have a clock of its own here: it takes Linux and a compiler")
    library = folder / "clock.so"
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(library), str(SOURCE), "-ldl"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        raise NoClocks(f"{SOURCE.name} cannot be compiled here: {made.stderr[-300:]}")
    return library


class ClockedRedis:
    """A Redis with a clock of its own, for as long as the block runs."""

    def __init__(self, folder: Path) -> None:
        """Raises `NoClocks`."""
        self._folder = folder
        self._clock = Clock(folder / "clock")
        password, self._port = secrets.token_hex(16), choose_port(None, propose_port())
        self.url = f"redis://:{password}@{HOST}:{self._port}/0"
        command = valkey_command(
            find_valkey(), port=self._port, password=password, state_folder=folder
        )
        env: Mapping[str, str] = {**os.environ, **self._clock.env}
        self._command = replace(command, environment=env)
        self._closing = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            lock = stack.enter_context(own(self._folder))
            # A server ends with the thread that has started it.
            spawner = stack.enter_context(ThreadPoolExecutor(1, "clocked"))
            process = ServerProcess(self._command, spawner=spawner, lock=lock)
            stack.callback(process.kill)
            process.start()
            self.client = redis.Redis.from_url(self.url, decode_responses=True)
            stack.callback(self.client.close)
            wait_until(self._answers, seconds=READY_SECONDS, what="Redis to start")
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing.close()

    def set_clock(self, seconds: int) -> None:
        """So far ahead of the machine's; returns when commands go by it."""
        self._clock.set(seconds)
        wait_until(lambda: abs(self._now() - time() - seconds) < 60, what="Redis's clock to jump")

    def _now(self) -> float:
        seconds, micros = self.client.time()
        return float(seconds) + float(micros) / 1e6

    def _answers(self) -> bool:
        with suppress(redis.RedisError):
            return bool(self.client.ping())
        return False
