"""A task's progress: the words for each state, on a terminal and where there is none."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import pytest
import redis

from tests.support.waiting import wait_until
from visionq import Client
from visionq.contract import Failure, State, Status, read_task
from visionq.errors import TaskUnknown, VisionqError, WaitTimeout
from visionq.names import Names
from visionq.progress import ProgressLine, describe, follow
from visionq.records import Records

TASK_ID = "00000000-0000-4000-8000-000000000001"


def status(state: State, **more: Any) -> Status:
    return Status(id=TASK_ID, state=state, **more)


WAITING = status(State.PENDING, position=2)
NEXT = status(State.PENDING, position=0)
STARTED = status(State.STARTED, max_new_tokens=100)
HALF = status(State.PROGRESS, max_new_tokens=100, generated_tokens=50)
DONE = status(State.SUCCESS, max_new_tokens=100, generated_tokens=60)


@pytest.mark.parametrize(
    ("shown", "text"),
    [
        (NEXT, "PENDING  next in the queue"),
        (WAITING, "PENDING  2 before it in the queue"),
        (STARTED, "STARTED  [........................] 0 of at most 100 tokens"),
        (
            status(State.PROGRESS, max_new_tokens=100, generated_tokens=1),
            "PROGRESS [........................] 1 of at most 100 tokens",
        ),
        (HALF, "PROGRESS [############............] 50 of at most 100 tokens"),
        (
            status(State.PROGRESS, max_new_tokens=100, generated_tokens=99),
            "PROGRESS [#######################.] 99 of at most 100 tokens",
        ),
        # An answer that ended by itself is complete, however long it might have been.
        (DONE, "SUCCESS  [########################] 60 of at most 100 tokens"),
        (
            status(
                State.RETRY,
                position=0,
                failure=Failure(code="storage_unavailable", message="waiting for the object store"),
            ),
            "RETRY    next in the queue storage_unavailable: waiting for the object store",
        ),
        (
            status(State.FAILURE, failure=Failure(code="model_error", message="out of memory")),
            "FAILURE  model_error: out of memory",
        ),
        (
            status(State.PENDING, position=0, has_workers=False),
            "PENDING  next in the queue (no worker is running)",
        ),
        (status(State.PENDING, position=0, has_workers=True), "PENDING  next in the queue"),
        # One that has begun may have a worker that has not reported yet.
        (status(State.STARTED, has_workers=False), "STARTED "),
        (status(State.REVOKED), "REVOKED "),
        (
            status(State.EXPIRED, failure=Failure(code="expired", message="ended after 3 tokens")),
            "EXPIRED  expired: ended after 3 tokens",
        ),
        (status(State.UNKNOWN), "UNKNOWN "),
    ],
)
def test_each_state_has_its_words(shown: Status, text: str) -> None:
    assert describe(shown) == text


def test_without_a_terminal_each_change_is_a_line() -> None:
    stream = io.StringIO()
    line = ProgressLine(stream)
    for shown in (WAITING, WAITING, NEXT, DONE, DONE):
        line.show(shown)
    line.end()
    assert stream.getvalue() == (
        "PENDING  2 before it in the queue\n"
        "PENDING  next in the queue\n"
        "SUCCESS  [########################] 60 of at most 100 tokens\n"
    )


def test_label_stands_before_each_line() -> None:
    stream = io.StringIO()
    ProgressLine(stream, "chart.png").show(NEXT)
    assert stream.getvalue() == "chart.png PENDING  next in the queue\n"


@contextmanager
def terminal() -> Iterator[tuple[int, TextIO]]:
    """What a terminal would receive, and the stream that writes to it."""
    ours, theirs = os.openpty()
    try:
        with os.fdopen(theirs, "w") as stream:
            assert stream.isatty()
            yield ours, stream
    finally:
        os.close(ours)


def read_until(received: int, end: bytes) -> bytes:
    """What came up to `end`: a terminal hands over pieces of what was written, as they pass."""
    text = b""
    while not text.endswith(end):
        text += os.read(received, 4_096)
    return text


def test_on_a_terminal_the_line_is_written_over() -> None:
    with terminal() as (received, stream):
        line = ProgressLine(stream)
        for shown in (WAITING, WAITING, NEXT, DONE):
            line.show(shown)
        line.end()
        text = read_until(received, b"\n").decode()
    assert text == (
        "\rPENDING  2 before it in the queue"
        # Blanks over what the longer line before it has left.
        "\rPENDING  next in the queue       "
        "\rSUCCESS  [########################] 60 of at most 100 tokens"
        "\r\n"
    )


def test_terminal_gets_no_empty_line_when_nothing_was_shown() -> None:
    with terminal() as (received, stream):
        ProgressLine(stream).end()
        stream.write("next")
        stream.flush()
        assert read_until(received, b"t") == b"next"


def test_following_shows_changes_until_the_end(
    client: Client, records: Records, names: Names, raw: redis.Redis
) -> None:
    handle = client.ocr("inputs/0")
    stream = io.StringIO()

    def work() -> None:
        wait_until(lambda: "PENDING" in stream.getvalue())
        task = read_task(json.loads(str(raw.hget(names.record(handle.id), "task"))))
        attempt = records.start(task, owner="hand", max_new_tokens=8)
        wait_until(lambda: "STARTED" in stream.getvalue())
        records.move(handle.id, State.SUCCESS, fence=attempt.fence, tokens="5")

    worker = threading.Thread(target=work)
    worker.start()
    final = follow(handle, ProgressLine(stream), 20)
    worker.join()
    assert final.state is State.SUCCESS
    assert stream.getvalue() == (
        "PENDING  next in the queue (no worker is running)\n"
        "STARTED  [........................] 0 of at most 8 tokens\n"
        "SUCCESS  [########################] 5 of at most 8 tokens\n"
    )


def test_following_ends_when_the_time_is_up(client: Client) -> None:
    handle = client.ocr("inputs/0")
    for seconds in (0, 0.3, 0.25001):
        with pytest.raises(WaitTimeout) as caught:
            follow(handle, ProgressLine(io.StringIO()), seconds)
        asked = f"{seconds:.2f}".rstrip("0").rstrip(".")
        assert str(caught.value) == (
            f"task {handle.id} is PENDING after {asked} s; no worker is running"
        )
        assert caught.value.status is not None


def test_following_an_unknown_task_ends_at_once(client: Client) -> None:
    with pytest.raises(TaskUnknown):
        follow(client.task(TASK_ID), ProgressLine(io.StringIO()))


def test_following_ends_with_what_the_check_in_between_raises(client: Client) -> None:
    """As when the worker of `visionq up` has ended: nobody would ever answer."""

    def check() -> None:
        raise VisionqError("a worker has ended")

    with pytest.raises(VisionqError, match=r"^a worker has ended$"):
        follow(client.ocr("inputs/0"), ProgressLine(io.StringIO()), check=check)
