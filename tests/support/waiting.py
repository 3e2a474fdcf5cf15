"""Waiting in tests: for a condition, with a bound, never for a fixed time."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic, sleep
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], *, seconds: float = 10.0, what: str = "") -> T:
    """The first true value of `condition`. Fails the test when the time is up."""
    deadline = monotonic() + seconds
    while monotonic() < deadline:
        if value := condition():
            return value
        sleep(0.01)
    raise AssertionError(f"not within {seconds} s: {what or condition}")
