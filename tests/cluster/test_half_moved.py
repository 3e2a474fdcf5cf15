"""A script that stops half way, because a key of its is on another node already, loses nothing.

Redis refuses a script whose declared keys are not all there. Records are not declared, as scripts
find out themselves whose they need: so with all declared keys still there, a script begins.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.support.cluster import Cluster
from visionq.contract import ImageRef, Task
from visionq.names import Names
from visionq.records import Records
from visionq_worker.leases import Leases

TAG = "halfway"
NAMES = Names(TAG, hash_tag=True)
QUEUE = NAMES.queue("interactive")


@pytest.fixture
def source(tmp_path: Path) -> Iterator[tuple[Cluster, redis.Redis]]:
    """A cluster of its own, and a plain connection to the slot's owner."""
    with Cluster(tmp_path / "nodes") as cluster:
        yield cluster, cluster.node(cluster.owner(TAG))


def message(task_id: str) -> str:
    return f'{{"headers": {{"id": "{task_id}"}}, "properties": {{"delivery_tag": "t"}}}}'


SETTLE: dict[str, Callable[[Leases, str], object]] = {
    "give back": lambda leases, claim: leases._run(leases._give_back, claim),
    "strike": lambda leases, claim: leases._run(leases._strike, claim, 5, "it broke"),
    "sweep": lambda leases, _: leases._run(leases._sweep, 0, 5, 500, ""),
}


@pytest.mark.parametrize("settle", SETTLE.values(), ids=SETTLE)
def test_a_message_is_where_it_was(
    source: tuple[Cluster, redis.Redis], settle: Callable[[Leases, str], object]
) -> None:
    cluster, owner = source
    task = Task(id=str(uuid.uuid4()), kind="ocr", images=(ImageRef(ref="inputs/x"),))
    Records(owner, NAMES, ttl_seconds=600).create(task)
    leases = Leases(
        owner, NAMES, owner="hand", lease_seconds=1, max_attempts=5, record_ttl_seconds=600
    )
    leases.load_claim()
    # All keys that are declared: a dead letter, suspects, and who drains for them.
    owner.lpush(QUEUE, "no JSON")
    claim_of(owner, leases)
    owner.lpush(QUEUE, message(task.id))
    claim = claim_of(owner, leases)
    owner.lpush(NAMES.suspects(), "another")
    owner.set(NAMES.draining(), "another", ex=60)
    with cluster.moving(TAG, cluster.other_primary(TAG)) as moving:
        moving.move([NAMES.record(task.id)])
        with pytest.raises(redis.ResponseError, match="non local key"):
            settle(leases, claim)
        assert owner.hexists(NAMES.unacked(), claim)
        assert owner.hexists(NAMES.leases(), claim)
        assert owner.zscore(NAMES.unacked_index(), claim)


def claim_of(owner: redis.Redis, leases: Leases) -> str:
    reply: Any = owner.execute_command(*leases.claim_command([QUEUE]))  # type: ignore[no-untyped-call]
    return str(reply[2]) if reply else ""
