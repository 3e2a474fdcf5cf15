"""A Redis that has gone silent costs one time-out, not one for each idle connection."""

from __future__ import annotations

import pytest
import redis

from visionq.connections import connect
from visionq.local import LocalUrls

TIMEOUT_SECONDS = 0.2
NUM_IDLE = 4


def test_idle_connections_are_dropped_when_one_times_out(
    own_urls: LocalUrls, own_raw: redis.Redis
) -> None:
    client = connect(own_urls.broker_url, timeout_seconds=TIMEOUT_SECONDS)
    pool = client.connection_pool
    taken = [pool.get_connection() for _ in range(NUM_IDLE)]
    for connection in taken:
        pool.release(connection)
    assert all(connection._sock is not None for connection in taken)
    own_raw.client_pause(1_000, all=True)
    with pytest.raises(redis.TimeoutError):
        client.ping()
    assert [connection._sock for connection in taken] == [None] * NUM_IDLE
    own_raw.client_unpause()
    assert client.ping()
    client.close()
