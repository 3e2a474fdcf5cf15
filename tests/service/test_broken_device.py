"""A worker whose device is lost gives its tasks back and leaves with a code of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import redis

from tests.conftest import REPOSITORY
from tests.support.waiting import wait_until
from tests.support.workers import environment, running_worker
from visionq import Client, State
from visionq.local import LocalUrls

SECONDS = 60.0
EXIT_BROKEN = 70


def test_tasks_of_a_hanging_device_go_back_and_the_next_worker_answers_them(
    client: Client,
    urls: LocalUrls,
    namespace: str,
    raw: redis.Redis,
    pictures: Path,
    tmp_path: Path,
) -> None:
    tasks = [client.ask(pictures / "shelf_after.png", "What?", max_new_tokens=2) for _ in range(3)]
    env = environment(urls, namespace)
    hanging = subprocess.run(
        [sys.executable, "-m", "tests.service.hanging_worker"],
        cwd=REPOSITORY,
        env=env,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert hanging.returncode == EXIT_BROKEN, hanging.stderr
    assert "a step took longer than 0.5 s" in hanging.stderr
    for task in tasks:
        status = task.status()
        assert status.state is State.RETRY
        assert status.failure is not None
        assert status.failure.code == "model_error"
    wait_until(lambda: raw.llen(f"{namespace}.interactive") == 3)
    with running_worker(env, tmp_path / "log"):
        assert [task.wait(timeout=SECONDS).state for task in tasks] == [State.SUCCESS] * 3
