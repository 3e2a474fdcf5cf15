"""What an engine is doing, as plain numbers."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from time import perf_counter

WINDOW_SECONDS = 10.0
"""Rates and step times are of the steps of this last while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineMetrics:
    """A moment's figures. Those that end in _total only grow."""

    num_waiting: int
    num_running: int
    pages_free: int  # free, or kept only for prompts that may come
    pages_total: int
    step_seconds: float | None  # mean of the recent steps; None: there were none
    tokens_in_per_second: float  # prompt tokens computed
    tokens_out_per_second: float
    steps_total: int
    requests_total: int
    failures_total: int
    prompt_tokens_total: int
    prompt_tokens_cached_total: int  # of prompts, found in the prefix cache
    generated_tokens_total: int
    feature_hits_total: int  # pictures found in the feature cache
    feature_misses_total: int
    preemptions_total: int
    long_restarts_total: int  # requests that outgrew the short rotary factors
    retried_steps_total: int  # steps that were split after an error


class Meter:
    """Counts steps. Written by the engine's thread, read by any."""

    def __init__(self) -> None:
        self.num_steps = 0
        self.num_requests = 0
        self.num_failures = 0
        self.num_prompt_tokens = 0
        self.num_cached_tokens = 0
        self.num_generated_tokens = 0
        self.num_retried_steps = 0
        self._recent: deque[tuple[float, float, int, int]] = deque()

    def step(self, seconds: float, num_in: int, num_out: int) -> None:
        """One step took so long, computed so many prompt tokens and gave so many new ones."""
        now = perf_counter()
        self.num_steps += 1
        self.num_prompt_tokens += num_in
        self.num_generated_tokens += num_out
        self._recent.append((now, seconds, num_in, num_out))
        while self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()

    def recent(self) -> tuple[float | None, float, float]:
        """Mean step time, prompt tokens and new tokens per second of the last while."""
        since = perf_counter() - WINDOW_SECONDS
        steps = [step for step in list(self._recent) if step[0] >= since]
        if not steps:
            return None, 0.0, 0.0
        # At least as long as the oldest step took: a lone step is no rate of ten seconds.
        seconds = max(perf_counter() - steps[0][0] + steps[0][1], 1e-9)
        mean = sum(step[1] for step in steps) / len(steps)
        return mean, sum(s[2] for s in steps) / seconds, sum(s[3] for s in steps) / seconds
