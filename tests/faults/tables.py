"""What was played, as tables for the eye and for a document, and what it was played on."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

import redis

from tests.bench.machine import facts
from visionq.local import LocalServers

Table = Sequence[Sequence[str]]
"""Rows of cells, the headings first."""


def as_text(table: Table) -> str:
    """Columns aligned, one row a line."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    )


def as_markdown(table: Table) -> str:
    head, *rows = table
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows))


def when_and_where(servers: LocalServers) -> str:
    """The date, the machine and the versions that figures belong to."""
    with redis.Redis.from_url(servers.urls.broker_url, decode_responses=True) as client:
        of = facts(client)
    today = datetime.now().astimezone().date()
    return (
        f"{today}, {of['cores']} cores ({of['cpu']}), {of['system']}, Python {of['python']}, "
        f"celery {of['celery']}, kombu {of['kombu']}, {of['server']}"
    )
