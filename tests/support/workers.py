"""Worker processes for tests: the real command, with settings in its environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.waiting import wait_until
from visionq.local import LocalUrls
from visionq.up import settings_environment

BIN = Path(sys.executable).parent
READY_SECONDS = 60.0


def environment(urls: LocalUrls, namespace: str, **more: str) -> dict[str, str]:
    """The environment that points the commands at the test servers; `more` are VISIONQ_ keys."""
    inherited = {name: value for name, value in os.environ.items() if name[:8] != "VISIONQ_"}
    return inherited | {
        **settings_environment(urls),
        "VISIONQ_BROKER__NAMESPACE": namespace,
        "VISIONQ_MODEL__SOURCE": "tiny",
        "VISIONQ_MODEL__DEVICE": "cpu",
        "VISIONQ_WORKER__PROGRESS_SECONDS": "0.1",
        "VISIONQ_WORKER__RETRY_SECONDS": "0.2",
        # Tests ask the same again and again, and look at what the engine makes of it.
        "VISIONQ_WORKER__REUSE": "false",
        **more,
    }


@contextmanager
def running_worker(
    env: Mapping[str, str], log: Path, *arguments: str
) -> Iterator[subprocess.Popen[bytes]]:
    """`visionq-worker run`, consuming; stopped at the end and required to exit 0."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [BIN / "visionq-worker", "run", *arguments],
            env=env,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_until(
            lambda: b"ready." in log.read_bytes() or process.poll() is not None,
            seconds=READY_SECONDS,
            what="the worker to be ready",
        )
        assert process.poll() is None, log.read_text()
        yield process
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, log.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
