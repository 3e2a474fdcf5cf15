"""An outage of Redis is told from connections of the worker's own that lead nowhere.

With two real Valkeys. The worker's connections go through a proxy that leads to the first, also
those that it makes anew; what is opened to find out goes to where the address leads now.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.proxy import Proxy
from tests.support.killing import kill_valkey, paused
from tests.support.pairs import Pair, running_pair
from tests.support.waiting import wait_until
from visionq.connections import connect
from visionq.names import Names
from visionq_worker import health, keeper, monitor
from visionq_worker.health import Health, Pulse, problem
from visionq_worker.keeper import Keeper
from visionq_worker.leases import Leases
from visionq_worker.monitor import Monitor
from visionq_worker.write_check import check_write

NAMES = Names("monitored")
OWNER = "host:1"
TIMEOUT_SECONDS = 0.2
MAX_AGE_SECONDS = 0.6
STUCK_SECONDS = 1.5


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    with running_pair(tmp_path) as running:
        yield running


@pytest.fixture(autouse=True)
def _small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "MAX_AGE_SECONDS", MAX_AGE_SECONDS)
    monkeypatch.setattr(health, "MAX_WRITE_AGE_SECONDS", MAX_AGE_SECONDS)
    monkeypatch.setattr(keeper, "WRITE_SECONDS", 0.1)
    monkeypatch.setattr(monitor, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(monitor, "FRESH_SECONDS", 0.1)


@dataclass
class Watched:
    """A heartbeat and a monitor; the event loop and its claims are the test's to play."""

    file: Path
    proxy: Proxy
    pulse: Pulse
    reasons: list[str]
    fresh_port: int
    num_fresh: int = 0
    is_claiming: bool = True

    def ready(self) -> str | None:
        return problem(self.file, must_be_ready=True)

    def live(self) -> str | None:
        return problem(self.file, must_be_ready=False)


@contextmanager
def watched(pair: Pair, folder: Path) -> Iterator[Watched]:
    with Proxy(pair.ports[0]) as proxy:
        own = connect(pair.url(proxy.port), timeout_seconds=TIMEOUT_SECONDS)
        pulse = Pulse()
        state = Watched(folder / "health.json", proxy, pulse, [], fresh_port=pair.ports[0])
        leases = Leases(
            own, NAMES, owner=OWNER, lease_seconds=1.0, max_attempts=3, record_ttl_seconds=60
        )

        def look() -> Health:
            pulse.loop_turned()
            if state.is_claiming:
                pulse.claim_accepted()
            return pulse.health(
                num_in_hand=0,
                may_claim=True,
                is_full=False,
                is_engine_well=True,
                stuck_seconds=STUCK_SECONDS,
            )

        def write_freshly() -> None:
            state.num_fresh += 1
            url = pair.url(state.fresh_port)
            with closing(connect(url, timeout_seconds=TIMEOUT_SECONDS)) as client:
                check_write(client, NAMES, OWNER)

        parts = (
            Keeper(leases, pulse, lambda: True, lambda: check_write(own, NAMES, OWNER)),
            Monitor(
                pulse,
                look,
                write_freshly,
                file=state.file,
                on_stuck=lambda _, reason: state.reasons.append(reason),
            ),
        )
        for part in parts:
            part.start()
        try:
            wait_until(lambda: state.ready() is None)
            yield state
        finally:
            for part in parts:
                part.stop()
            own.close()


@contextmanager
def _killed(pair: Pair) -> Iterator[None]:
    kill_valkey(pair.servers)
    try:
        yield
    finally:
        pair.servers.restart("valkey")


@contextmanager
def _set(pair: Pair, name: str, value: int) -> Iterator[None]:
    pair.first.config_set(name, value)
    try:
        yield
    finally:
        pair.first.config_set(name, 0)


@contextmanager
def _read_only(pair: Pair) -> Iterator[None]:
    """The address leads to a replica, for everybody."""
    pair.first.replicaof("127.0.0.1", pair.ports[1])
    try:
        yield
    finally:
        pair.first.execute_command("REPLICAOF", "NO", "ONE")  # type: ignore[no-untyped-call]


OUTAGES: dict[str, Callable[[Pair], AbstractContextManager[None]]] = {
    "killed": _killed,
    "paused": lambda pair: paused(pair.servers.pid("valkey")),
    "full": lambda pair: _set(pair, "maxmemory", 1),
    "without the replicas it asks for": lambda pair: _set(pair, "min-replicas-to-write", 3),
    "read-only": _read_only,
}


@pytest.mark.parametrize("how", OUTAGES)
def test_outage_leaves_a_worker_live_and_not_ready(pair: Pair, tmp_path: Path, how: str) -> None:
    with watched(pair, tmp_path) as worker:
        with OUTAGES[how](pair):
            wait_until(lambda: "has taken no write of this worker's" in (worker.ready() or ""))
            begun, tried = threading.Event(), worker.num_fresh
            threading.Timer(2 * STUCK_SECONDS, begun.set).start()
            while not begun.wait(0.05):
                assert worker.live() is None
                assert worker.ready() is not None
            assert worker.num_fresh > tried
        wait_until(lambda: worker.ready() is None)
        assert worker.live() is None
        assert worker.reasons == []


def test_worker_that_is_left_on_the_old_primary_does_not_live(pair: Pair, tmp_path: Path) -> None:
    with watched(pair, tmp_path) as worker:
        pair.change_places()
        worker.fresh_port = pair.ports[1]
        wait_until(worker.live, what="live to fail")
        (reason,) = wait_until(lambda: worker.reasons)
        assert reason.startswith("Redis has taken no write of this worker's for ")
        assert " and over new connections it has taken writes for " in reason
        assert worker.ready() is not None


def test_worker_that_finds_the_new_primary_itself_lives(pair: Pair, tmp_path: Path) -> None:
    with watched(pair, tmp_path) as worker:
        pair.change_places()
        worker.fresh_port = pair.ports[1]
        wait_until(worker.ready)
        worker.proxy.point_to(pair.ports[1])
        worker.proxy.reset()
        wait_until(lambda: worker.ready() is None)
        assert worker.live() is None
        assert worker.reasons == []


def test_worker_whose_claims_alone_get_no_answer_does_not_live(pair: Pair, tmp_path: Path) -> None:
    with watched(pair, tmp_path) as worker:
        worker.is_claiming = False
        (reason,) = wait_until(lambda: worker.reasons)
        assert reason.startswith("Redis has answered no claim for messages for ")
        assert worker.live() is not None


def test_connection_is_opened_only_while_something_stands_still(
    pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watched(pair, tmp_path) as worker:
        monkeypatch.setattr(health, "MAX_AGE_SECONDS", 60.0)
        monkeypatch.setattr(health, "MAX_WRITE_AGE_SECONDS", 60.0)
        num_before, last = worker.num_fresh, worker.pulse.write_at
        assert last is not None
        wait_until(lambda: (worker.pulse.write_at or 0) > last + 1)
        assert worker.num_fresh <= num_before + 1, "but for one that was under way"


def test_file_is_written_while_the_heartbeat_waits(pair: Pair, tmp_path: Path) -> None:
    """A name that is resolved for a minute, say: the file would be taken for a dead worker's."""
    pulse, goes_on, waits = Pulse(), threading.Event(), threading.Event()
    file = tmp_path / "health.json"

    def wait() -> None:
        waits.set()
        goes_on.wait()

    client = connect(pair.urls.broker_url, timeout_seconds=TIMEOUT_SECONDS)
    leases = Leases(
        client, NAMES, owner=OWNER, lease_seconds=1.0, max_attempts=3, record_ttl_seconds=60
    )

    def look() -> Health:
        pulse.loop_turned()
        pulse.claim_accepted()
        return pulse.health(num_in_hand=0, may_claim=True, is_full=False, is_engine_well=True)

    parts = (Keeper(leases, pulse, lambda: True, wait), Monitor(pulse, look, wait, file=file))
    for part in parts:
        part.start()
    try:
        assert waits.wait(10)
        waits.clear()
        for _ in range(3):  # a write over a new connection that waits as well, and is only one
            file.unlink(missing_ok=True)
            wait_until(file.exists)
        assert problem(file, must_be_ready=False) is None
        assert len([thread for thread in threading.enumerate() if thread.name == "fresh"]) <= 1
    finally:
        goes_on.set()
        for part in parts:
            part.stop()
        client.close()
