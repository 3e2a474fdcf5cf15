"""What the figures were taken on, and whether it stayed the same machine meanwhile."""

from __future__ import annotations

import importlib.util
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import redis

MAX_DRIFT = 1.5
"""A run whose raw round trip moved by more than this factor compares two machines."""

PROBE_KEY = "bench:probe"
PACKAGES = ("celery", "kombu", "redis", "boto3", "pydantic", "torch", "transformers", "pillow")


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """Medians of a lone PING and a lone LPUSH of 1 KB, in microseconds, and the load then."""

    ping_us: float
    lpush_us: float
    load: float

    def __str__(self) -> str:
        return f"PING {self.ping_us:.0f} us, LPUSH {self.lpush_us:.0f} us, load {self.load:.2f}"

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def round_trip(client: redis.Redis, num_probes: int) -> RoundTrip:
    """Take the median of `num_probes` commands of each sort on one connection."""
    value = b"x" * 1024
    pings, pushes = [], []
    for _ in range(num_probes):
        began = perf_counter()
        client.ping()
        middle = perf_counter()
        client.lpush(PROBE_KEY, value)
        pings.append(middle - began)
        pushes.append(perf_counter() - middle)
    client.delete(PROBE_KEY)
    return RoundTrip(median(pings) * 1e6, median(pushes) * 1e6, os.getloadavg()[0])


def drift(before: RoundTrip, after: RoundTrip) -> float:
    """The factor between the slower and the faster of two round trips; 1 when they are equal."""
    pairs = ((before.ping_us, after.ping_us), (before.lpush_us, after.lpush_us))
    return max(max(pair) / min(pair) for pair in pairs)


def facts(client: redis.Redis) -> dict[str, Any]:
    """Machine and software, for the head of the report."""
    server: Any = client.info("server")
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": f"{server.get('server_name', 'redis')} "
        f"{server.get('valkey_version', server['redis_version'])}",
        "hiredis": importlib.util.find_spec("hiredis") is not None,
        **{name: version(name) for name in PACKAGES},
    }


def _cpu_model() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor()
