"""A managed Redis that lets nobody use some commands: they are unknown there."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace

import pytest
import redis

from tests.support.waiting import wait_until
from tests.worker.test_broker_checks import answers, found
from visionq import Client, State, StoreAddress
from visionq.connections import connect
from visionq.local import LocalUrls
from visionq.local.binaries import find_valkey
from visionq.local.ports import choose_port, propose_port
from visionq.names import Names
from visionq_worker.findings import Level
from visionq_worker.leases import Leases

GONE = ("INFO", "CONFIG", "SCRIPT", "CLIENT", "BLMOVE", "SCAN", "KEYS")


@pytest.fixture(scope="module")
def managed(urls: LocalUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalUrls]:
    folder = tmp_path_factory.mktemp("managed")
    port = choose_port(None, propose_port())
    file = folder / "valkey.conf"
    renamed = "".join(f'rename-command {name} ""\n' for name in GONE)
    file.write_text(f"port {port}\nbind 127.0.0.1\ndir {folder}\n{renamed}")
    with subprocess.Popen([find_valkey(), file], stdout=subprocess.DEVNULL) as process:
        url = f"redis://127.0.0.1:{port}/0"
        with redis.Redis.from_url(url) as raw:
            wait_until(lambda: answers(raw), what="the server to answer")
        yield replace(urls, broker_url=url)
        process.terminate()


def test_check_says_what_is_not_there_and_a_worker_may_start(managed: LocalUrls) -> None:
    lines = found(managed)
    assert {one.level for one in lines.values()} == {Level.WARN}
    assert "BLMOVE" in lines["broker.commands"].text
    assert "INFO is refused" in lines["broker.info"].text


def test_client_and_leases_do_without_them(managed: LocalUrls, address: StoreAddress) -> None:
    key = "inputs/2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    with Client(managed.broker_url, address) as client:
        handle = client.ocr(key)
        assert handle.cancel() is State.REVOKED
    with connect(managed.broker_url, timeout_seconds=2) as own:
        leases = Leases(
            own,
            Names(),
            owner="host:1",
            lease_seconds=0.05,
            max_attempts=3,
            record_ttl_seconds=600,
        )
        wait_until(lambda: leases.sweep() is not None and leases._sweeps_from is not None)
        assert leases._uptime() == 0.0
