"""The watchdog: what lasts too long is noticed once, what does not is left alone."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from tests.support.waiting import wait_until
from visionq_worker.engine import watchdog
from visionq_worker.engine.watchdog import Watchdog

SECONDS = 0.02


class Clock:
    """Stands until it is moved, and counts how often the watchdog has looked at it."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.num_looks = 0

    def __call__(self) -> float:
        if threading.current_thread().name == "visionq-watchdog":
            self.num_looks += 1
        return self.now

    def wait_for_looks(self) -> None:
        """Until the watchdog has looked at what is watched, as it is now."""
        enough = self.num_looks + 2
        wait_until(lambda: self.num_looks >= enough, what="the watchdog looks")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(watchdog, "monotonic", clock)
    return clock


@contextmanager
def opened(on_hang: Callable[[], None], seconds: float = SECONDS) -> Iterator[Watchdog]:
    dog = Watchdog(seconds, on_hang)
    try:
        yield dog
    finally:
        dog.close()


def _is_awake(dog: Watchdog) -> bool:
    return dog._thread.is_alive()


def test_step_that_lasts_too_long_is_noticed_while_it_lasts() -> None:
    hung = threading.Event()
    with opened(hung.set) as dog, dog.watching():
        assert hung.wait(10)


def test_hang_is_noticed_once_and_by_a_thread_of_its_own(clock: Clock) -> None:
    calls: list[str] = []
    with opened(lambda: calls.append(threading.current_thread().name)) as dog:
        for _ in range(2):
            with dog.watching():
                clock.now += 1
                wait_until(lambda: not _is_awake(dog), what="the watchdog has seen enough")
    assert calls == ["visionq-watchdog"]


def test_stacks_of_all_threads_are_logged_at_a_hang(caplog: pytest.LogCaptureFixture) -> None:
    hung = threading.Event()
    with opened(hung.set) as dog, dog.watching():
        assert hung.wait(10)
    (record,) = caplog.records
    assert record.levelno == logging.CRITICAL
    assert "a step has lasted for" in record.getMessage()
    assert "thread MainThread:" in record.getMessage()
    assert "test_stacks_of_all_threads_are_logged_at_a_hang" in record.getMessage()


def test_hang_is_reported_where_stderr_is_no_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    hung = threading.Event()
    with opened(hung.set) as dog, dog.watching():
        wait_until(lambda: hung.is_set() or not _is_awake(dog), what="a hang or a dead watchdog")
        assert hung.is_set()


def test_steps_that_end_in_time_are_left_alone_however_long_they_take_together(
    clock: Clock,
) -> None:
    hung = threading.Event()
    with opened(hung.set) as dog:
        for _ in range(5):
            with dog.watching():
                clock.now += 0.9 * SECONDS
                clock.wait_for_looks()
    assert not hung.is_set()


def test_time_between_steps_does_not_count(clock: Clock) -> None:
    hung = threading.Event()
    with opened(hung.set) as dog:
        with dog.watching():
            clock.wait_for_looks()
        clock.now += 100
        with dog.watching():
            clock.wait_for_looks()
    assert not hung.is_set()


def test_step_that_raises_is_over(clock: Clock) -> None:
    hung = threading.Event()
    with opened(hung.set) as dog:
        with pytest.raises(ZeroDivisionError), dog.watching():
            raise ZeroDivisionError
        clock.now += 100
        with dog.watching():
            clock.wait_for_looks()
    assert not hung.is_set()


def test_closed_watchdog_has_no_thread() -> None:
    with opened(lambda: None, seconds=100.0) as dog:
        assert _is_awake(dog)
    assert not _is_awake(dog), "it does not sleep until its time is up"
    dog.close()


def test_watchdog_may_be_closed_by_what_it_calls(clock: Clock) -> None:
    dogs: list[Watchdog] = []

    def close() -> None:
        dogs[0].close()

    with opened(close) as dog:
        dogs.append(dog)
        with dog.watching():
            clock.now += 1
            wait_until(lambda: not _is_awake(dog))
