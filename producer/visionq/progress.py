"""A task's progress on one line of a terminal, or as a line per change where there is none."""

from __future__ import annotations

from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, TextIO

from visionq.contract import State, Status
from visionq.errors import BrokerDenied, BrokerUnavailable, WaitTimeout
from visionq.terminal import one_line
from visionq.watch import timed_out

if TYPE_CHECKING:
    from visionq.client import TaskHandle

BAR_CHARS = 24
LOOK_SECONDS = 0.2


class ProgressLine:
    """Draws the latest status over the one before. `label` tells several tasks apart."""

    def __init__(self, stream: TextIO, label: str = "") -> None:
        self._stream = stream
        self._label = f"{one_line(label)} " if label else ""
        self._is_live = stream.isatty()
        self._last_text = ""

    def show(self, status: Status) -> None:
        text = f"{self._label}{describe(status)}"
        if text == self._last_text:
            return
        if self._is_live:
            self._stream.write(f"\r{text.ljust(len(self._last_text))}")
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()
        self._last_text = text

    def end(self) -> None:
        if self._is_live and self._last_text:
            self._stream.write("\n")
            self._stream.flush()


def follow(
    handle: TaskHandle,
    line: ProgressLine,
    timeout_seconds: float | None = None,
    *,
    check: Callable[[], None] | None = None,
) -> Status:
    """Wait for the task's end and show what happens until then.

    Raises what `TaskHandle.wait` raises, and what `check` raises, which is called in between.
    """
    deadline = None if timeout_seconds is None else monotonic() + timeout_seconds
    try:
        while True:
            left = LOOK_SECONDS if deadline is None else min(LOOK_SECONDS, deadline - monotonic())
            try:
                status = handle.wait(max(0.0, left))
            except WaitTimeout as late:
                if deadline is not None and monotonic() >= deadline:
                    # What was asked for, not what was left of it.
                    raise timed_out(
                        late.status or handle.status(), timeout_seconds or 0.0
                    ) from None
                # Looked at as well: over a slow link one wait may be too short to learn anything.
                status = handle.status()
            except BrokerDenied:
                raise
            except BrokerUnavailable:
                # An outage is sat out for as long as there is time.
                if deadline is not None and monotonic() >= deadline:
                    raise
                if check is not None:
                    check()
                continue
            line.show(status)
            if status.is_done:
                return status
            if check is not None:
                check()
    finally:
        line.end()


def describe(status: Status) -> str:
    """The status in one line: state, bar, tokens, place in the queue."""
    parts = [f"{status.state:<8}"]
    if status.max_new_tokens and status.state in (State.STARTED, State.PROGRESS, State.SUCCESS):
        filled = BAR_CHARS * min(status.generated_tokens, status.max_new_tokens)
        full = BAR_CHARS if status.is_done else filled // status.max_new_tokens
        parts.append(f"[{'#' * full}{'.' * (BAR_CHARS - full)}]")
        parts.append(f"{status.generated_tokens} of at most {status.max_new_tokens} tokens")
    if status.position is not None:
        before = status.position
        parts.append("next in the queue" if before == 0 else f"{before} before it in the queue")
    if status.failure is not None:
        parts.append(one_line(f"{status.failure.code}: {status.failure.message}"))
    if status.has_workers is False and status.state in (State.PENDING, State.RETRY):
        parts.append("(no worker is running)")
    if status.source == "store":
        parts.append("(by its result in the store; its record is gone)")
    return " ".join(parts)
