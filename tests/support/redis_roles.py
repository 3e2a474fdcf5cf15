"""The users of Redis that SECURITY.md has rules for, made from that text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.support.redis_users import RedisUser, redis_user
from visionq.local import LocalUrls
from visionq.names import DEFAULT_NAMESPACE

PAGE = Path(__file__).parents[2] / "SECURITY.md"
ROLES = ("worker", "client", "sender", "operator")
_LINE = re.compile(r"^ACL SETUSER visionq-(\w+) reset on >password (.+)$", re.MULTILINE)


def rules_of(role: str, namespace: str = DEFAULT_NAMESPACE) -> list[str]:
    """As the page says, with its own instruction for another namespace followed."""
    lines: dict[str, str] = dict(_LINE.findall(PAGE.read_text()))
    rules = lines[role].split()
    if namespace == DEFAULT_NAMESPACE:
        return rules
    return [
        rule.replace("celery", f"{namespace}:celery").replace("visionq", namespace)
        for rule in rules
    ]


@contextmanager
def redis_roles(
    urls: LocalUrls, namespace: str = DEFAULT_NAMESPACE
) -> Iterator[Mapping[str, RedisUser]]:
    """A user for each role, as long as the block runs."""
    with ExitStack() as stack:
        yield {
            role: stack.enter_context(redis_user(urls, *rules_of(role, namespace)))
            for role in ROLES
        }
