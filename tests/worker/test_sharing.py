"""Identical work once: on one request of the engine, or from the result of an earlier task."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from time import time
from typing import Any

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.pdf_bytes import A4, filled, pdf
from tests.worker.picture_bytes import DOT
from tests.worker.workbench import LONG, Workbench, workbench
from visionq.contract import ImageRef, Options, Result, State, Task
from visionq.objects import ObjectStore
from visionq.records import Records

SECONDS = 20.0


@pytest.fixture
def bench(records: Records, bucket: ObjectStore) -> Workbench:
    return workbench(ScriptedEngine(), records, bucket, reuses=True)


@pytest.fixture
def slow(records: Records, bucket: ObjectStore) -> Workbench:
    """Its answers take for ever, until they are cancelled."""
    return workbench(ScriptedEngine(LONG, seconds_per_token=0.01), records, bucket, reuses=True)


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as threads:
        yield threads


def test_task_that_asks_the_same_is_answered_from_the_earlier_result(bench: Workbench) -> None:
    first, second = bench.task(), bench.task(labels={"page": "2"})
    made, reused = bench.run(first), bench.run(second)
    assert len(bench.engine.requests) == 1
    assert (reused.text, reused.usage, reused.verdict) == (made.text, made.usage, made.verdict)
    assert (reused.task_id, reused.labels) == (second.id, {"page": "2"})
    assert made.provenance.reused_from is None
    assert reused.provenance.reused_from == first.id
    assert reused.provenance.input_digests == made.provenance.input_digests
    assert bench.stored(second) == reused
    assert bench.state(second) is State.SUCCESS
    assert bench.status(second).generated_tokens == bench.status(first).generated_tokens


def test_chain_of_reuse_names_the_task_that_was_computed(bench: Workbench) -> None:
    tasks = [bench.task() for _ in range(3)]
    results = [bench.run(task) for task in tasks]
    assert [result.provenance.reused_from for result in results[1:]] == [tasks[0].id] * 2


@pytest.mark.parametrize(
    "other",
    [
        {"question": "Another question?"},
        {"kind": "ocr"},
        {"tenant": "somebody-else"},
        {"options": Options(max_new_tokens=2)},
        {"options": Options(num_crops=1)},
        {"options": Options(temperature=0.5, seed=1)},
        {"options": Options(reuse=False)},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_work_is_done_anew(bench: Workbench, other: dict[str, Any]) -> None:
    bench.run(bench.task())
    assert bench.run(bench.task(**other)).provenance.reused_from is None
    assert len(bench.engine.requests) == 2


def test_answer_about_other_pixels_is_not_reused(
    bench: Workbench, records: Records, bucket: ObjectStore
) -> None:
    exact = workbench(ScriptedEngine(), records, bucket, reuses=True, decoding="exact")
    made, made_exactly = bench.run(bench.task()), exact.run(exact.task())
    assert made_exactly.provenance.reused_from is None
    assert (made.provenance.decoding, made_exactly.provenance.decoding) == ("fast", "exact")


def test_other_bytes_under_the_same_key_are_other_work(bench: Workbench) -> None:
    bench.store.put("photos/today.png", DOT)
    images = (ImageRef(ref="photos/today.png"),)
    bench.run(bench.task(images=images))
    bench.store.put("photos/today.png", DOT + b"\0")
    assert bench.run(bench.task(images=images)).provenance.reused_from is None


def test_other_page_of_the_same_file_is_other_work(bench: Workbench) -> None:
    bench.store.put("inputs/a.pdf", pdf(b"", filled((1, 0, 0), (0, 0, *A4))))
    pages = [ImageRef(ref="inputs/a.pdf", page=number) for number in (None, 1, 2)]
    first, again, other = (bench.run(bench.task(images=(page,))) for page in pages)
    assert (first.provenance.input_pages, other.provenance.input_pages) == ((1,), (2,))
    assert again.provenance.reused_from == first.task_id
    assert other.provenance.reused_from is None


def test_sampled_answers_are_not_shared(bench: Workbench) -> None:
    for _ in range(2):
        result = bench.run(bench.task(options=Options(temperature=0.5, seed=1)))
        assert result.provenance.reused_from is None
    assert len(bench.engine.requests) == 2


def test_sharing_can_be_switched_off(records: Records, bucket: ObjectStore) -> None:
    bench = workbench(ScriptedEngine(), records, bucket, reuses=False)
    for _ in range(2):
        assert bench.run(bench.task()).provenance.reused_from is None
    assert len(bench.engine.requests) == 2


def test_earlier_result_that_is_gone_is_done_without(bench: Workbench) -> None:
    first = bench.task()
    bench.run(first)
    bench.store.delete(first.result_key)
    assert bench.run(bench.task()).provenance.reused_from is None


def test_failure_is_not_reused(bench: Workbench) -> None:
    damaged = (ImageRef(ref="photos/damaged.png"),)
    bench.store.put("photos/damaged.png", DOT[:30])
    for _ in range(2):
        result = bench.run(bench.task(images=damaged))
        assert (result.state, result.provenance.reused_from) == (State.FAILURE, None)


# At the same time.


def underway(
    bench: Workbench, pool: ThreadPoolExecutor, *tasks: Task
) -> list[Future[Result | State]]:
    """All of them are executed and report tokens, on one request of the engine."""
    futures = [pool.submit(bench.executor.execute, task) for task in tasks]
    for task in tasks:
        wait_until(lambda task=task: bench.state(task) is State.PROGRESS)  # type: ignore[misc]
    assert len(bench.engine.requests) == 1
    return futures


def test_tasks_at_the_same_time_share_one_request(
    records: Records, bucket: ObjectStore, pool: ThreadPoolExecutor
) -> None:
    engine = ScriptedEngine("a slow answer of six words", seconds_per_token=0.1)
    bench = workbench(engine, records, bucket, reuses=True)
    tasks = [bench.task() for _ in range(3)]
    for future, task in zip(underway(bench, pool, *tasks), tasks, strict=True):
        result = future.result(SECONDS)
        assert isinstance(result, Result)
        assert (result.task_id, result.text) == (task.id, "a slow answer of six words")
        assert result.usage is not None
        assert result.usage.completion_tokens == 6
        assert bench.stored(task) == result
    assert len(engine.requests) == 1


def test_cancelled_task_leaves_the_others_their_answer(
    slow: Workbench, pool: ThreadPoolExecutor
) -> None:
    leaving, staying = slow.task(), slow.task()
    gone, going_on = underway(slow, pool, leaving, staying)
    slow.records.cancel(leaving.id)
    result = gone.result(SECONDS)
    assert isinstance(result, Result)
    assert result.state is State.REVOKED
    assert not going_on.done()
    tokens = slow.status(staying).generated_tokens
    wait_until(lambda: slow.status(staying).generated_tokens > tokens)
    slow.records.cancel(staying.id)
    ended = going_on.result(SECONDS)
    assert isinstance(ended, Result)
    assert ended.state is State.REVOKED
    assert len(slow.engine.requests) == 1


def test_deadline_is_each_tasks_own(slow: Workbench, pool: ThreadPoolExecutor) -> None:
    hurried, patient = slow.task(deadline=time() + 1), slow.task()
    gone, going_on = underway(slow, pool, hurried, patient)
    result = gone.result(SECONDS)
    assert isinstance(result, Result)
    assert result.state is State.EXPIRED
    assert not going_on.done()
    slow.records.cancel(patient.id)
    going_on.result(SECONDS)


def test_deadline_of_a_lone_task_frees_the_device(slow: Workbench) -> None:
    task = slow.task(deadline=time() + 0.3)
    result = slow.run(task)
    assert result.state is State.EXPIRED
    assert slow.stored(task) == result


def test_next_task_after_all_have_left_begins_anew(
    slow: Workbench, pool: ThreadPoolExecutor
) -> None:
    first = slow.task()
    (gone,) = underway(slow, pool, first)
    slow.records.cancel(first.id)
    gone.result(SECONDS)
    second = slow.task(deadline=time() + 0.5)
    assert slow.run(second).state is State.EXPIRED
    assert len(slow.engine.requests) == 2


def test_first_ones_failure_does_not_strand_the_others(
    bench: Workbench, pool: ThreadPoolExecutor
) -> None:
    damaged = (ImageRef(ref="photos/damaged.png"),)
    bench.store.put("photos/damaged.png", DOT[:30])
    futures = [pool.submit(bench.executor.execute, bench.task(images=damaged)) for _ in range(4)]
    for future in futures:
        result = future.result(SECONDS)
        assert isinstance(result, Result)
        assert result.failure is not None
        assert result.failure.code == "not_an_image"
