"""The rate of a steady state, out of requests that come and go. Knows of no engine and no queue."""

from __future__ import annotations

from collections.abc import Sequence

SPREAD = (-8, -4, 0, 4, 8)
"""Added to the mean number of tokens, in turn. Requests that all take alike would end in step, and
the rate between two completions would be that of an empty or of a full device by chance."""


def numbers_of_tokens(mean: int, count: int) -> list[int]:
    """Of each of `count` requests; all the same where the mean leaves no room for less."""
    spread = SPREAD if mean > -SPREAD[0] else (0,)
    return [mean + spread[number % len(spread)] for number in range(count)]


def rate(ended: Sequence[float], num_aside: int) -> float:
    """Completions per second, without the first and the last `num_aside` of them.

    The first find an idle engine, and behind the last ones it runs empty.
    """
    inner = sorted(ended)[num_aside : len(ended) - num_aside]
    return (len(inner) - 1) / (inner[-1] - inner[0])
