"""An answer about a page whose text could not all be drawn says so, whatever its form."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.pdf_bytes import filled, lettered, pdf
from tests.worker.test_pdf_text import shown, wide_font, written
from tests.worker.workbench import Workbench, workbench
from visionq.contract import ImageRef, Result, State, Task, Verdict
from visionq.kinds import Kind, Retry
from visionq.objects import ObjectStore
from visionq.records import Records
from visionq_worker.verdict import FONT_MISSING, is_better, is_worth_another_try, with_input_reasons

SECONDS = 30
KEY = "inputs/a.pdf"
NAMELESS = wide_font("Identity", "Identity-H", name="Foo")
"""A font that is nowhere, with letters that nobody knows, so that no machine can draw them."""


@pytest.fixture
def page(bucket: ObjectStore) -> tuple[ImageRef, ...]:
    bucket.put(KEY, written(shown(bytes.fromhex("002400250026")), NAMELESS))
    return (ImageRef(ref=KEY),)


def verdict(result: object) -> tuple[str, tuple[str, ...]]:
    assert isinstance(result, Result)
    assert result.verdict is not None
    return result.verdict.outcome, result.verdict.reasons


def test_answer_about_a_page_without_its_font_is_degraded(
    bench: Workbench, page: tuple[ImageRef, ...]
) -> None:
    result = bench.run(bench.task(images=page))
    assert result.state is State.SUCCESS
    assert verdict(result) == ("degraded", (FONT_MISSING,))
    assert verdict(bench.run(bench.task())) == ("ok", ())


def test_page_with_fonts_that_pdfium_has_is_ok(bench: Workbench) -> None:
    bench.store.put(KEY, pdf(filled((1, 0, 0), (0, 0, 300, 300)) + lettered("Invoice 2041")))
    result = bench.run(bench.task(images=(ImageRef(ref=KEY),)))
    assert verdict(result) == ("ok", ())


def test_one_such_page_among_several_images_is_enough(
    bench: Workbench, page: tuple[ImageRef, ...]
) -> None:
    several = (*bench.task(is_submitted=False).images, *page)
    result = bench.run(bench.task("compare", images=several))
    assert verdict(result) == ("degraded", (FONT_MISSING,))


def test_empty_answer_about_such_a_page_stays_rejected(
    records: Records, bucket: ObjectStore, page: tuple[ImageRef, ...]
) -> None:
    bench = workbench(ScriptedEngine(""), records, bucket)
    result = bench.run(bench.task(images=page))
    assert verdict(result) == ("rejected", ("empty", FONT_MISSING))


def test_another_try_is_not_made_for_a_missing_font(
    bench: Workbench, page: tuple[ImageRef, ...]
) -> None:
    bench.executor._kinds = {"ask": Kind(max_images=8, retries=(Retry(temperature=0.4),))}
    assert len(bench.run(bench.task(images=page)).tries) == 1


def test_such_an_answer_is_not_reused_since_the_next_worker_may_have_the_font(
    records: Records, bucket: ObjectStore, page: tuple[ImageRef, ...]
) -> None:
    bench = workbench(ScriptedEngine(), records, bucket, reuses=True)
    for _ in range(2):
        result = bench.run(bench.task(images=page))
        assert result.provenance.reused_from is None
        assert verdict(result) == ("degraded", (FONT_MISSING,))


def test_tasks_that_share_a_generation_share_what_is_wrong_with_its_images(
    records: Records, bucket: ObjectStore, page: tuple[ImageRef, ...]
) -> None:
    engine = ScriptedEngine("a slow answer of six words", seconds_per_token=0.1)
    bench = workbench(engine, records, bucket, reuses=True)
    tasks = [bench.task(images=page) for _ in range(3)]
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(bench.executor.execute, task) for task in tasks]
        for task in tasks:
            wait_until(in_progress(bench, task))
        for future in futures:
            assert verdict(future.result(SECONDS)) == ("degraded", (FONT_MISSING,))
    assert len(engine.requests) == 1


def in_progress(bench: Workbench, task: Task) -> Callable[[], bool]:
    return lambda: bench.state(task) is State.PROGRESS


def test_what_is_wrong_with_the_images_ranks_no_try_before_another() -> None:
    fine = Verdict(outcome="ok")
    looped = Verdict(outcome="degraded", reasons=("loop",))
    without_font, both = (with_input_reasons(one, (FONT_MISSING,)) for one in (fine, looped))
    assert with_input_reasons(fine, ()) == fine
    assert (without_font.outcome, both.reasons) == ("degraded", ("loop", FONT_MISSING))
    assert is_better(without_font, both)
    assert not is_better(both, without_font)
    assert not is_worth_another_try(without_font)
    assert is_worth_another_try(both)
