"""Users of Redis that may do less than everything."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

import redis

from visionq.local import LocalUrls

PASSWORD = "kept-safe"  # of a Redis that lives as long as a test
EVERYTHING = ("~*", "&*", "+@all")


class RedisUser:
    """One user, whose rules may change while somebody is connected as this user."""

    def __init__(self, urls: LocalUrls, name: str) -> None:
        host = urlsplit(urls.broker_url)
        self.name = name
        self.urls = replace(
            urls,
            broker_url=f"redis://{name}:{PASSWORD}@{host.hostname}:{host.port}{host.path}",
        )
        self._owner_url = urls.broker_url

    def may(self, *rules: str) -> None:
        """Exactly that from now on, also over connections that are open."""
        self._acl("SETUSER", self.name, "reset", "on", f">{PASSWORD}", *rules)

    def add(self, *rules: str) -> None:
        self._acl("SETUSER", self.name, *rules)

    def delete(self) -> None:
        """Its connections end, and it cannot log in."""
        self._acl("DELUSER", self.name)

    def _acl(self, *words: str) -> None:
        with redis.Redis.from_url(self._owner_url) as owner:
            owner.execute_command("ACL", *words)


@contextmanager
def redis_user(urls: LocalUrls, *rules: str) -> Iterator[RedisUser]:
    """A user with these rules, as long as the block runs."""
    user = RedisUser(urls, f"u{uuid.uuid4().hex[:12]}")
    user.may(*rules)
    try:
        yield user
    finally:
        user.delete()
