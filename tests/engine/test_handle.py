"""Handles: one thread writes, others wait, read along, cancel and are called back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.support.waiting import wait_until
from visionq_worker.engine.errors import EngineClosed, EngineError, RequestFailed
from visionq_worker.engine.request import Completion, Handle


def completion(*token_ids: int) -> Completion:
    return Completion(
        token_ids=token_ids, finish_reason="stop", prefill_seconds=0.25, decode_seconds=0.5
    )


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def _wait_for_readers(handle: Handle, count: int) -> None:
    wait_until(lambda: handle._num_streams == count, what=f"{count} streams that wait")


# The end.


def test_new_handle_has_not_ended() -> None:
    handle = Handle()
    assert not handle.wait(0)
    assert not handle.is_cancelled
    assert handle.num_tokens == 0


def test_result_is_the_completion() -> None:
    handle, end = Handle(), completion(1, 2)
    handle.complete(end)
    assert handle.wait(0)
    assert handle.result() is end
    assert handle.result() is end


def test_result_raises_what_the_request_failed_with() -> None:
    handle, error = Handle(), RequestFailed("no luck")
    handle.fail(error)
    assert handle.wait(0)
    for _ in range(2):
        with pytest.raises(RequestFailed, match="no luck") as caught:
            handle.result()
        assert caught.value is error


def test_result_waits_for_the_end(threads: ThreadPoolExecutor) -> None:
    handle, end = Handle(), completion(1)
    results = [threads.submit(handle.result) for _ in range(4)]
    assert not any(result.done() for result in results)
    handle.complete(end)
    assert [result.result(10) for result in results] == [end] * 4


def test_wait_gives_up_after_the_time_given() -> None:
    assert not Handle().wait(0.001)


def test_wait_ends_with_the_request(threads: ThreadPoolExecutor) -> None:
    handle = Handle()
    waiting = threads.submit(handle.wait, 30)
    handle.fail(EngineClosed())
    assert waiting.result(10)


def test_first_end_counts() -> None:
    first, error = completion(1), RequestFailed("too late")
    handle = Handle()
    handle.complete(first)
    handle.fail(error)
    handle.complete(completion(2))
    assert handle.result() is first
    handle = Handle()
    handle.fail(error)
    handle.complete(first)
    with pytest.raises(RequestFailed):
        handle.result()


def test_one_of_many_ends_at_once_counts(threads: ThreadPoolExecutor) -> None:
    for _ in range(50):
        handle, calls = Handle(), list[str]()
        handle.add_done_callback(_note(calls, "ended"))
        start = threading.Barrier(4)
        ends = [threads.submit(_end_together, start, handle, number) for number in range(4)]
        won = [end.result(10) for end in ends]
        assert calls == ["ended"]
        assert handle.result() in won


def _end_together(start: threading.Barrier, handle: Handle, number: int) -> Completion:
    end = completion(number)
    start.wait(10)
    handle.complete(end)
    return end


# Streams.


def test_stream_gives_what_was_said_before_and_what_is_said_after(
    threads: ThreadPoolExecutor,
) -> None:
    handle = Handle()
    handle.push(1)
    handle.push(2)
    stream = handle.stream()
    assert [next(stream), next(stream)] == [1, 2]
    following = threads.submit(next, stream)
    _wait_for_readers(handle, 1)
    assert not following.done()
    handle.push(3)
    assert following.result(10) == 3


def test_stream_ends_with_the_request(threads: ThreadPoolExecutor) -> None:
    handle = Handle()
    reading = threads.submit(list, handle.stream())
    _wait_for_readers(handle, 1)
    handle.push(1)
    handle.push(2)
    handle.complete(completion(1, 2))
    assert reading.result(10) == [1, 2]


def test_stream_that_waits_ends_when_nothing_was_said(threads: ThreadPoolExecutor) -> None:
    handle = Handle()
    reading = threads.submit(list, handle.stream())
    _wait_for_readers(handle, 1)
    handle.complete(completion())
    assert reading.result(10) == []


def test_stream_after_the_end_gives_everything() -> None:
    handle = Handle()
    for token in (1, 2, 3):
        handle.push(token)
    handle.complete(completion(1, 2, 3))
    assert list(handle.stream()) == [1, 2, 3]
    assert list(handle.stream()) == [1, 2, 3], "as often as one likes"


def test_stream_breaks_off_with_the_error_after_what_was_said() -> None:
    handle = Handle()
    handle.push(1)
    handle.fail(RequestFailed("broke off"))
    stream = handle.stream()
    assert next(stream) == 1
    with pytest.raises(RequestFailed, match="broke off"):
        next(stream)


def test_stream_that_waits_breaks_off_with_the_error(threads: ThreadPoolExecutor) -> None:
    handle = Handle()
    reading = threads.submit(list, handle.stream())
    _wait_for_readers(handle, 1)
    handle.fail(EngineClosed())
    with pytest.raises(EngineClosed):
        reading.result(10)


def test_several_threads_read_the_same_tokens(threads: ThreadPoolExecutor) -> None:
    # Some are there from the start, some come on the way, all race with the writer.
    handle, num_tokens = Handle(), 20_000
    readers: list[Future[list[int]]] = [threads.submit(list, handle.stream()) for _ in range(3)]
    _wait_for_readers(handle, 3)
    for token in range(num_tokens):
        handle.push(token)
        if token % 5_000 == 2_500:
            readers.append(threads.submit(list, handle.stream()))
    handle.complete(completion())
    assert [reader.result(30) for reader in readers] == [list(range(num_tokens))] * 7
    assert handle.num_tokens == num_tokens


def test_reader_who_keeps_pace_misses_no_token(threads: ThreadPoolExecutor) -> None:
    # The writer waits for the reader each time: a wake-up that got lost would stop both.
    handle, read = Handle(), threading.Semaphore(0)

    def follow() -> int:
        count = 0
        for _ in handle.stream():
            count += 1
            read.release()
        return count

    reader = threads.submit(follow)
    for token in range(2_000):
        handle.push(token)
        assert read.acquire(timeout=10), f"token {token} was not heard of"
    handle.complete(completion())
    assert reader.result(10) == 2_000


def test_reader_who_leaves_is_not_counted_any_more() -> None:
    handle = Handle()
    handle.push(1)
    stream = handle.stream()
    next(stream)
    del stream
    assert handle._num_streams == 0


# Done callbacks.


def test_callback_is_called_at_the_end_in_the_thread_that_ends_it() -> None:
    handle, calls = Handle(), list[tuple[Handle, str]]()
    handle.add_done_callback(lambda ended: calls.append((ended, threading.current_thread().name)))
    assert calls == []
    ender = threading.Thread(target=handle.complete, args=(completion(),), name="the engine's")
    ender.start()
    ender.join(10)
    assert calls == [(handle, "the engine's")]


def test_callback_is_called_at_once_after_the_end() -> None:
    handle, calls = Handle(), list[Handle]()
    handle.fail(EngineClosed())
    handle.add_done_callback(calls.append)
    assert calls == [handle]


def test_callbacks_are_called_once_each_in_their_order() -> None:
    handle, calls = Handle(), list[str]()
    for name in ("first", "second"):
        handle.add_done_callback(_note(calls, name))
    handle.complete(completion())
    handle.complete(completion())
    handle.fail(EngineClosed())
    assert calls == ["first", "second"]


def test_callback_sees_the_end() -> None:
    handle, seen = Handle(), list[Completion]()
    handle.add_done_callback(lambda ended: seen.append(ended.result()))
    end = completion(4)
    handle.complete(end)
    assert seen == [end]


def test_callback_may_add_another() -> None:
    handle, calls = Handle(), list[str]()
    handle.add_done_callback(lambda ended: ended.add_done_callback(_note(calls, "inner")))
    handle.complete(completion())
    assert calls == ["inner"]


@pytest.mark.parametrize("is_late", [False, True])
def test_callback_that_raises_is_logged_and_stops_nobody(
    is_late: bool, caplog: pytest.LogCaptureFixture
) -> None:
    handle, calls = Handle(), list[str]()
    if is_late:
        handle.complete(completion(5))
    handle.add_done_callback(_raise)
    handle.add_done_callback(_note(calls, "after"))
    handle.complete(completion(5))
    assert calls == ["after"]
    assert handle.result().token_ids == (5,)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.getMessage().startswith("a done callback failed; ")
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def _note(calls: list[str], name: str) -> Callable[[Handle], None]:
    return lambda _: calls.append(name)


def _raise(_: Handle) -> None:
    raise ZeroDivisionError


# Cancelling.


def test_cancel_asks_the_engine_once_per_call_and_ends_nothing() -> None:
    asked: list[int] = []
    handle = Handle(on_cancel=lambda: asked.append(1))
    handle.cancel()
    assert asked == [1]
    assert handle.is_cancelled
    assert not handle.wait(0), "the engine ends it"
    handle.cancel()
    assert asked == [1, 1]


def test_engine_finds_the_request_cancelled_when_it_is_asked() -> None:
    seen: list[bool] = []
    handle = Handle(on_cancel=lambda: seen.append(handle.is_cancelled))
    handle.cancel()
    assert seen == [True]


def test_handle_without_an_engine_can_be_cancelled() -> None:
    handle = Handle()
    handle.cancel()
    assert handle.is_cancelled


def test_cancel_after_the_end_leaves_the_result() -> None:
    handle, end = Handle(), completion(1)
    handle.complete(end)
    handle.cancel()
    assert handle.result() is end


# Errors.


@pytest.mark.parametrize(
    ("error", "is_transient"), [(EngineClosed(), True), (RequestFailed("x"), False)]
)
def test_errors_say_whether_another_try_may_help(error: EngineError, is_transient: bool) -> None:
    assert error.is_transient is is_transient
