"""Memory that threads share: never more than there is, in order, and nobody waits for ever."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Event, Lock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.waiting import wait_until
from visionq_worker.budget import Budget

SECONDS = 10.0


class Holder:
    """A thread that takes some bytes and keeps them until it is told."""

    def __init__(self, budget: Budget, num_bytes: int, order: list[int]) -> None:
        self._budget, self._num_bytes, self._order = budget, num_bytes, order
        self._may_go = Event()
        self.has_it = Event()

    def run(self) -> None:
        with self._budget.take(self._num_bytes):
            self._order.append(self._num_bytes)
            self.has_it.set()
            assert self._may_go.wait(SECONDS)

    def let_go(self) -> None:
        self._may_go.set()


@contextmanager
def holders(budget: Budget, *wishes: int) -> Iterator[tuple[list[Holder], list[int]]]:
    """One after the other they ask; yields them, and the list of what was given."""
    order: list[int] = []
    made = [Holder(budget, num_bytes, order) for num_bytes in wishes]
    with ThreadPoolExecutor(len(wishes)) as pool:
        asked = []
        for holder in made:
            asked.append(pool.submit(holder.run))
            wait_until(lambda: len(order) + len(budget._queue) == len(asked))
        try:
            yield made, order
        finally:
            for holder in made:
                holder.let_go()
        for one in asked:
            one.result(SECONDS)


def test_as_many_as_fit_have_their_bytes_at_the_same_time() -> None:
    budget, meeting = Budget(100), Barrier(4, timeout=SECONDS)

    def work() -> None:
        with budget.take(25):
            meeting.wait()

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(work) for _ in range(4)]:
            done.result(SECONDS)


def test_who_does_not_fit_waits_until_there_is_room() -> None:
    with holders(Budget(100), 60, 50) as ((first, second), _):
        assert first.has_it.is_set()
        assert not second.has_it.is_set()
        first.let_go()
        assert second.has_it.wait(SECONDS)


def test_small_wish_does_not_overtake_a_large_one() -> None:
    with holders(Budget(100), 60, 90, 10) as ((first, _, small), order):
        assert not small.has_it.is_set()
        first.let_go()
        assert small.has_it.wait(SECONDS)
        assert order == [60, 90, 10]


def test_bytes_come_back_from_a_block_that_raises() -> None:
    budget = Budget(100)
    with pytest.raises(ZeroDivisionError), budget.take(100):
        _ = 1 / 0
    with budget.take(100):
        pass


def test_more_than_there_is_cannot_be_asked_for() -> None:
    with pytest.raises(AssertionError, match="waited for for ever"), Budget(100).take(101):
        pass


@settings(max_examples=20, deadline=None)
@given(wishes=st.lists(st.integers(0, 100), min_size=1, max_size=60))
def test_whatever_is_wished_for_is_given_and_never_more_than_there_is(wishes: list[int]) -> None:
    budget, lock = Budget(100), Lock()
    held, most = 0, 0

    def work(num_bytes: int) -> None:
        nonlocal held, most
        with budget.take(num_bytes):
            with lock:
                held += num_bytes
                most = max(most, held)
            with lock:
                held -= num_bytes

    with ThreadPoolExecutor(16) as pool:
        for done in [pool.submit(work, num_bytes) for num_bytes in wishes]:
            done.result(SECONDS)
    assert held == 0
    assert most <= 100
