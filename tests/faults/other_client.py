"""A client in a process of its own: a web backend, as the test's process is none."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.faults.newer import NEW_OPTION, NEWER

REPOSITORY = Path(__file__).parent.parent.parent
STOP_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Submitted:
    id: str


class OtherClient:
    """A client in a process of its own, of another version or with another clock. Thread-safe."""

    def __init__(self, env: Mapping[str, str], more: Mapping[str, str]) -> None:
        """`env`: the settings it connects by. `more`: what else its process starts with."""
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.other_client"],
            cwd=REPOSITORY,
            env={**env, **more},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Self:
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

    def submit(self, kind: str, image: str, question: str, **options: Any) -> Submitted:
        """As `Client.submit`, with the new option where the question has the word `NEWER`."""
        given = {"kind": kind, "images": image, "question": question, **options}
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(given) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, f"the client has ended with {self._process.wait()}"
        return Submitted(json.loads(line))


def main() -> None:
    """In that process, until standard input ends."""
    from visionq import Client

    with Client.from_settings() as client:
        for line in iter(sys.stdin.readline, ""):
            given = json.loads(line)
            if NEWER in given["question"]:
                given[NEW_OPTION] = "red"
            kind, images = given.pop("kind"), given.pop("images")
            handle = client.submit(kind, images, given.pop("question"), **given)
            print(json.dumps(handle.id), flush=True)


if __name__ == "__main__":
    main()
