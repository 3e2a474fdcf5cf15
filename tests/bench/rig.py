"""What a bar is given: running servers, a plain connection to look with, and how much to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import redis

from visionq import Client, QueueLimits, StoreAddress
from visionq.local import LocalServers, LocalUrls

NAMESPACE = "bench"
LIMITS = QueueLimits(max_waiting=10_000_000)
"""No bar is to be refused."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rig:
    """One Valkey and one S3 server of the bench's own. `folder` is for the logs of workers."""

    urls: LocalUrls
    raw: redis.Redis
    valkey_pid: int
    folder: Path
    rounds: int
    scale: float

    def count(self, full: int, *, least: int = 10) -> int:
        """`full` operations, or fewer where the bench is only tried out."""
        return max(least, round(full * self.scale))

    def client(self, namespace: str = NAMESPACE) -> Client:
        address = StoreAddress(
            bucket=self.urls.s3_bucket,
            endpoint_url=self.urls.s3_endpoint,
            region=self.urls.s3_region,
            access_key=self.urls.s3_access_key,
            secret_key=self.urls.s3_secret_key,
        )
        return Client(self.urls.broker_url, address, namespace=namespace, limits=LIMITS)

    def clear(self) -> None:
        """Forget all tasks, so that no bar works in what another has left."""
        # Valkey frees in the background unless told otherwise, and memory is measured here.
        self.raw.execute_command("FLUSHALL", "SYNC")  # type: ignore[no-untyped-call]


@contextmanager
def open_rig(*, rounds: int, scale: float) -> Iterator[Rig]:
    """Servers in a folder that is gone afterwards."""
    with ExitStack() as closing:
        folder = Path(closing.enter_context(TemporaryDirectory(prefix="visionq-bench-")))
        servers = closing.enter_context(LocalServers(folder / "state"))
        raw = redis.Redis.from_url(servers.urls.broker_url, decode_responses=True)
        closing.callback(raw.close)
        # Rewriting the append-only file would land in the middle of somebody's round.
        raw.config_set("auto-aof-rewrite-percentage", 0)
        yield Rig(
            urls=servers.urls,
            raw=raw,
            valkey_pid=servers.pid("valkey"),
            folder=folder,
            rounds=rounds,
            scale=scale,
        )
