"""Whether Redis takes writes: one small write, the same over whichever connection.

That a Redis answers says little. A replica and a full Redis answer questions and refuse what a
task needs. Scripts that find nothing to do write nothing, and so find out nothing. What is written
here is a new value, by a script, because that is how a worker writes: where access rules forbid
scripts, say, it fails over every connection alike, and a new connection is no better than an old
one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from redis import Redis

    from visionq.names import Names

TTL_SECONDS = 60
WRITE = "return redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])"


def check_write(client: Redis, names: Names, owner: str) -> None:
    """Write over one of the client's connections. Raises redis-py's errors, and `OSError`."""
    client.eval(WRITE, 1, names.write_check(), owner, str(TTL_SECONDS))
