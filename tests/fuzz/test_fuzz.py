"""A seeded part of `python -m tests.fuzz`."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.fuzz.mutations import messages
from tests.fuzz.trial import Trial, batches, running_worker
from visionq.local import LocalServers
from visionq.names import Names

COUNT = 600
SEED = 20
NAMES = Names("fuzz")


def test_mutated_messages_come_to_one_end_each_and_the_worker_lives(tmp_path: Path) -> None:
    with (
        LocalServers(tmp_path / "state") as servers,
        redis.Redis.from_url(servers.urls.broker_url) as raw,
        running_worker(servers.urls, NAMES, tmp_path / "log") as worker,
    ):
        trial = Trial(raw, NAMES, worker)
        for _, batch in batches(SEED, COUNT, COUNT // 2, raw):
            ends = trial.run(batch).ends
            assert min(ends["run"], ends["refused (FAILURE)"], ends["dead-lettered"]) > 10


def test_same_seed_makes_the_same_messages() -> None:
    assert list(messages(1, 50, 0.0)) == list(messages(1, 50, 0.0))
    assert list(messages(1, 50, 0.0)) != list(messages(2, 50, 0.0))
