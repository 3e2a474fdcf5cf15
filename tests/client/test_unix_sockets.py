"""A Unix socket that leads nowhere. One that leads to a Redis: tests/service/test_ways_to_redis."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from visionq import AsyncClient, BrokerUnavailable, Client
from visionq.broker import Publisher
from visionq.contract import ImageRef, Task
from visionq.names import Names

TASK = Task(
    id="0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11", kind="ocr", images=(ImageRef(ref="inputs/a"),)
)


@pytest.fixture(params=["missing", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "redis.sock"
    if request.param == "file":
        path.touch()
    return f"unix://:hunter2@{path}"


def test_socket_that_leads_nowhere_is_named(url: str) -> None:
    async def status() -> None:
        async with AsyncClient(url) as client:
            await client.status(TASK.id)

    with Client(url) as client:
        for call in (
            lambda: client.ocr("inputs/a"),
            lambda: client.wait(TASK.id, 0.2),
            lambda: asyncio.run(status()),
            lambda: Publisher(url, Names(), timeout_seconds=1.0).publish(TASK),
        ):
            with pytest.raises(BrokerUnavailable) as caught:
                call()
            assert "redis.sock" in str(caught.value)
            assert "hunter2" not in str(caught.value)
