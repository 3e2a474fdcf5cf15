"""The housekeeping holds what the process has in hand, while its engine makes progress."""

from __future__ import annotations

import threading
from typing import cast

import pytest

from tests.support.waiting import wait_until
from visionq.errors import BrokerUnavailable
from visionq_worker.health import Pulse
from visionq_worker.keeper import Keeper
from visionq_worker.leases import Leases, Swept


class CountedLeases:
    """Counts what is asked of it. Leases of 60 ms, so that a turn takes 5 ms."""

    lease_seconds = 0.06

    def __init__(self) -> None:
        self.num_renewals = 0
        self.num_retries = 0

    def renew(self) -> list[str]:
        self.num_renewals += 1
        return []

    def retry(self) -> None:
        self.num_retries += 1

    def sweep(self) -> Swept:
        return Swept(0, ())


@pytest.mark.parametrize("is_well", [True, False])
def test_leases_are_renewed_while_the_engine_makes_progress(is_well: bool) -> None:
    leases, engine_is_well = CountedLeases(), threading.Event()
    if is_well:
        engine_is_well.set()
    keeper = Keeper(cast("Leases", leases), Pulse(), engine_is_well.is_set, lambda: None)
    keeper.start()
    try:
        wait_until(lambda: leases.num_retries > 20)
        assert (leases.num_renewals > 0) is is_well
        engine_is_well.set()
        wait_until(lambda: leases.num_renewals)
    finally:
        keeper.stop()


def test_what_the_worker_can_do_is_told_at_once_and_not_at_every_turn() -> None:
    leases, told = CountedLeases(), threading.Event()
    num_told = 0

    def tell() -> None:
        nonlocal num_told
        num_told += 1
        told.set()
        raise BrokerUnavailable

    keeper = Keeper(cast("Leases", leases), Pulse(), lambda: True, lambda: None, tell=tell)
    keeper.start()
    try:
        wait_until(told.is_set)
        renewed = leases.num_retries
        wait_until(lambda: leases.num_retries > renewed + 20)
    finally:
        keeper.stop()
    assert num_told == 1
