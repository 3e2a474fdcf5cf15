"""What the tests of the embedded servers share: clients that read no environment, and one run."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import redis
from botocore.config import Config

from visionq.local import LocalServers, LocalUrls


@pytest.fixture(scope="module")
def state_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def running(state_folder: Path) -> Iterator[LocalServers]:
    """Servers for the tests that break nothing."""
    with LocalServers(state_folder) as servers:
        yield servers


@pytest.fixture
def broker() -> Iterator[Callable[[LocalUrls], redis.Redis]]:
    clients: list[redis.Redis] = []

    def connect(urls: LocalUrls) -> redis.Redis:
        clients.append(redis.Redis.from_url(urls.broker_url, decode_responses=True))
        return clients[-1]

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def store() -> Iterator[Callable[[LocalUrls], Any]]:
    clients: list[Any] = []

    def connect(urls: LocalUrls) -> Any:
        client = boto3.session.Session().client(
            "s3",
            endpoint_url=urls.s3_endpoint,
            aws_access_key_id=urls.s3_access_key,
            aws_secret_access_key=urls.s3_secret_key,
            region_name=urls.s3_region,
            config=Config(proxies={}, s3={"addressing_style": "path"}),
        )
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def programs_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that is the whole PATH, while no bundled program is found."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr("visionq.local.binaries.bundled", lambda *_: None)
    return folder
