"""`sentinels://`: TLS to the sentinels and to the servers that they name."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trustme

from tests.connections.test_sentinels import NAMES, new_records, new_task
from tests.faults.proxy import HOST
from tests.support.guarded import NAME, Guarded, guarded
from tests.support.tls import TlsProxy, papers
from tests.support.waiting import wait_until
from visionq import BrokerAddress, BrokerUnavailable, Lane, State
from visionq.broker import Publisher
from visionq.primaries import ROLE_SECONDS
from visionq.settings import load_settings
from visionq.watch import Watch
from visionq_worker.broker_checks import check_broker
from visionq_worker.findings import Level


@dataclass(frozen=True, slots=True)
class Encrypted:
    """Two servers behind TLS; the sentinel that names the first, or the second after `swap`."""

    group: Guarded
    sentinel: TlsProxy
    second: int
    address: BrokerAddress

    def swap(self) -> None:
        first, other = self.group.ports
        with self.group.raw(other) as new, self.group.raw(first) as old:
            new.replicaof("NO", "ONE")
            self.sentinel.point_to(self.second)
            old.replicaof(HOST, other)


@pytest.fixture
def encrypted(tmp_path: Path) -> Iterator[Encrypted]:
    authority = trustme.CA()
    ours = papers(authority, tmp_path)
    with ExitStack() as stack:
        group = stack.enter_context(guarded(tmp_path / "group", num_sentinels=0))
        sentinels = []
        for port in group.ports:
            front = TlsProxy(port, authority, name=HOST, takes_plain=True)
            named = stack.enter_context(front).port
            lone = group.lone_sentinel(tmp_path / str(port), names=named)
            sentinels.append(stack.enter_context(lone))
        proxy = stack.enter_context(TlsProxy(sentinels[0], authority))
        address = BrokerAddress(
            f"sentinels://:{group.password}@localhost:{proxy.port}/{NAME}",
            sentinel_password=group.sentinel_password,
            tls_ca_file=ours.ca,
            tls_cert_file=ours.cert,
            tls_key_file=ours.key,
        )
        yield Encrypted(group, proxy, sentinels[1], address)


def test_every_door_finds_the_primary_and_its_successor(encrypted: Encrypted) -> None:
    records, task = new_records(encrypted.address), new_task()
    publisher = Publisher(encrypted.address, NAMES, timeout_seconds=2)

    async def wait_through_a_failover() -> State:
        watch = Watch(encrypted.address, NAMES, timeout_seconds=2)
        waiting = asyncio.create_task(watch.wait(task.id, 30))
        await asyncio.to_thread(encrypted.swap)
        await asyncio.to_thread(wait_until, goes_on, seconds=2 * ROLE_SECONDS + 2)
        await asyncio.to_thread(records.cancel, task.id)
        status = await waiting
        await watch.close()
        return status.state

    def goes_on() -> bool:
        try:
            records.create(new := new_task())
        except BrokerUnavailable:
            return False
        with encrypted.group.raw(encrypted.group.ports[1]) as primary:
            return bool(primary.exists(NAMES.record(new.id)))

    records.create(task)
    publisher.publish(task)
    with encrypted.group.raw(encrypted.group.ports[0]) as first:
        assert first.llen(NAMES.queue(Lane.INTERACTIVE)) == 1
    assert asyncio.run(wait_through_a_failover()) is State.REVOKED
    publisher.publish(new_task())
    with encrypted.group.raw(encrypted.group.ports[1]) as second:
        assert second.llen(NAMES.queue(Lane.INTERACTIVE)) == 2
    records.close()
    publisher.close()


def test_check_of_a_worker_passes_and_names_the_setting_that_lacks(encrypted: Encrypted) -> None:
    broker = {
        "url": encrypted.address.url,
        "sentinel_password": encrypted.address.sentinel_password,
        "tls_cert_file": encrypted.address.tls_cert_file,
        "tls_key_file": encrypted.address.tls_key_file,
    }
    settings = load_settings(broker={**broker, "tls_ca_file": encrypted.address.tls_ca_file})
    assert {one.level for one in check_broker(settings)} == {Level.OK}
    (finding,) = check_broker(load_settings(broker=broker))
    assert finding.level is Level.FAIL
    assert "set broker.tls_ca_file" in finding.text


def test_node_of_a_cluster_whose_certificate_is_not_trusted_is_told_apart(
    encrypted: Encrypted,
) -> None:
    url = f"rediss://localhost:{encrypted.sentinel.port}/0"
    with pytest.raises(BrokerUnavailable, match=r"set broker\.tls_ca_file"):
        new_records(BrokerAddress(url, hash_tag=True)).ping()


def test_sentinel_that_does_not_trust_the_client_is_told_apart(encrypted: Encrypted) -> None:
    stranger = replace(encrypted.address, tls_cert_file=None, tls_key_file=None)
    with pytest.raises(BrokerUnavailable, match=r"broker\.tls_cert_file"):
        new_records(stranger).ping()
