"""What a Redis says of itself (INFO), as far as a worker wants to know it.

A user may be forbidden to ask, and a managed Redis may leave out what it likes: then it is None.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

from visionq.connections import mapped_errors
from visionq.refusals import is_for_good

if TYPE_CHECKING:
    from redis import Redis

MIN_VERSION = (6, 2)
"""Of Redis: LMOVE, BLMOVE and ZADD LT came with it. Every Valkey is newer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RedisServer:
    """`version` is Redis's, also where `name` is Valkey. `is_replica`, `is_cluster` and so on: None
    where it is not said.
    """

    name: str = "Redis"
    own_version: str | None = None
    version: tuple[int, ...] | None = None
    is_sentinel: bool = False
    is_replica: bool | None = None
    is_cluster: bool | None = None
    num_replicas: int | None = None
    eviction: str | None = None
    max_bytes: int | None = None
    has_aof: bool | None = None
    writes_aof: bool | None = None
    writes_snapshots: bool | None = None

    @property
    def title(self) -> str:
        return f"{self.name} {self.own_version}" if self.own_version else self.name

    @property
    def is_too_old(self) -> bool:
        return self.version is not None and self.version < MIN_VERSION


def read_server(client: Redis) -> RedisServer | None:
    """None where the user may not ask. Raises `BrokerUnavailable`."""
    with mapped_errors():
        try:
            said: Any = client.info()
        except ResponseError as error:  # but not a login that is refused
            if is_for_good(error):
                return None
            raise
    return _parse(said if isinstance(said, Mapping) else {})


def _parse(said: Mapping[str, Any]) -> RedisServer:
    valkey, redis = _text(said, "valkey_version"), _text(said, "redis_version")
    role = _text(said, "role")
    return RedisServer(
        name="Valkey" if valkey else "Redis",
        own_version=valkey or redis,
        version=_version(redis),
        is_replica=None if role is None else role in ("slave", "replica"),
        is_sentinel="sentinel" in (said.get("redis_mode"), said.get("server_mode")),
        is_cluster=_flag(said, "cluster_enabled", "1"),
        num_replicas=_number(said, "connected_slaves"),
        eviction=_text(said, "maxmemory_policy"),
        max_bytes=_number(said, "maxmemory"),
        has_aof=_flag(said, "aof_enabled", "1"),
        writes_aof=_flag(said, "aof_last_write_status", "ok"),
        writes_snapshots=_flag(said, "rdb_last_bgsave_status", "ok"),
    )


def _text(said: Mapping[str, Any], name: str) -> str | None:
    value = said.get(name)
    return None if value is None or value == "" else str(value)


def _flag(said: Mapping[str, Any], name: str, meaning_yes: str) -> bool | None:
    text = _text(said, name)
    return None if text is None else text == meaning_yes


def _number(said: Mapping[str, Any], name: str) -> int | None:
    text = _text(said, name)
    return int(text) if text is not None and text.isdecimal() else None


def _version(text: str | None) -> tuple[int, ...] | None:
    parts = (text or "").split(".")[:2]
    return tuple(map(int, parts)) if all(part.isdecimal() for part in parts) else None
