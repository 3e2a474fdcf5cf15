"""Environments for the commands: a service that answers, and queues that nobody works on."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.conftest import SERVICE_NAMESPACE
from tests.support.workers import environment
from visionq import Client
from visionq.local import LocalUrls


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings.toml and no `visionq up` of the developer's is found."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def answering(urls: LocalUrls, service: Client) -> dict[str, str]:
    """Leads to a service with a worker."""
    return only_ours(environment(urls, SERVICE_NAMESPACE))


@pytest.fixture
def idle(urls: LocalUrls, namespace: str) -> dict[str, str]:
    """Leads to the same servers and to queues of the test's own, where tasks wait for ever."""
    return only_ours(environment(urls, namespace))


@pytest.fixture
def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port: int = held.getsockname()[1]
    return port


def only_ours(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("VISIONQ_")}
