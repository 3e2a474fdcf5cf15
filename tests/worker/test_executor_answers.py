"""A task that can be answered: every field of its result and of its record."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from time import time

from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.picture_bytes import DOT_DIGEST
from tests.worker.workbench import DOT_KEY, LONG, VerbatimEngine, Workbench, running
from visionq.contract import (
    ImageRef,
    Options,
    Provenance,
    State,
    Usage,
    Verdict,
    dump_result,
)
from visionq_worker import __version__
from visionq_worker.jpegs import has_fast_decoder
from visionq_worker.service import installed_versions

BenchWith = Callable[[ScriptedEngine], Workbench]

PROMPT_TOKENS = 16
"""Six words with their tags, and ten tokens for the image, as the scripted engine counts."""


def test_result_has_every_field(bench: Workbench) -> None:
    task = bench.task(options=Options(seed=7, num_crops=9), tenant="acme", labels={"ticket": "12"})
    before = time()
    result = bench.run(task)
    assert result.task_id == task.id
    assert result.kind == "ask"
    assert result.state is State.SUCCESS
    assert result.text == "a scripted answer"
    assert result.value is None
    assert result.finish_reason == "stop"
    assert result.verdict == Verdict(outcome="ok", reasons=())
    assert result.usage == Usage(prompt_tokens=PROMPT_TOKENS, image_tokens=10, completion_tokens=3)
    assert result.failure is None
    assert (result.tenant, result.labels) == ("acme", {"ticket": "12"})
    assert result.version == 1
    # Redis's clock is this machine's here.
    assert before - 1 < result.finished_at < time() + 1
    assert result.provenance == Provenance(
        input_digests=(DOT_DIGEST,),
        kind_version=1,
        kind_digest="28f5b04da4a0c0e7",  # printf '{question}\0' | sha256sum
        prompt_digest="dfda59880bfaeea8",  # as in test_render.py
        model="scripted",
        model_revision="1",
        dtype="none",
        device="none",
        attention="none",
        seed=7,
        num_crops=9,
        decoding="fast",
        versions={"torch": "0.0"},
        worker="host:1",
        attempt=1,
    )


def test_timings_name_every_phase_up_to_the_answer(bench: Workbench) -> None:
    timings = bench.run(bench.task()).timings
    phases = (
        timings.queue_seconds,
        timings.fetch_seconds,
        timings.prepare_seconds,
        timings.prefill_seconds,
        timings.decode_seconds,
    )
    for seconds in phases:
        assert seconds is not None
        assert 0 <= seconds < 5


def test_what_is_returned_is_what_is_stored(bench: Workbench) -> None:
    task = bench.task(labels={"name": "Müller"})
    result = bench.run(task)
    assert bench.stored(task) == result
    assert bench.store.get(f"results/{task.id}.json") == dump_result(result)
    assert bench.stored_json(task)["labels"] == {"name": "Müller"}


def test_record_ends_with_the_answers_numbers(bench: Workbench) -> None:
    task = bench.task(options=Options(max_new_tokens=50))
    bench.run(task)
    status = bench.status(task)
    assert (status.state, status.attempt) == (State.SUCCESS, 1)
    assert (status.generated_tokens, status.max_new_tokens) == (3, 50)
    assert status.failure is None
    assert status.store_seconds is not None
    assert 0 < status.store_seconds < 5
    assert status.submitted_at is not None
    assert status.started_at is not None
    assert status.finished_at is not None
    assert status.submitted_at <= status.started_at <= status.finished_at


def test_record_has_the_kinds_limit_when_the_task_names_none(bench: Workbench) -> None:
    task = bench.task("describe")
    bench.run(task)
    assert bench.status(task).max_new_tokens == 300


def test_engine_gets_the_options_of_the_task(bench: Workbench) -> None:
    options = Options(max_new_tokens=2, temperature=0.5, top_p=0.9, seed=11)
    result = bench.run(bench.task(options=options))
    (request,) = bench.engine.requests
    assert request.max_new_tokens == 2
    assert (request.temperature, request.top_p, request.seed) == (0.5, 0.9, 11)
    assert result.text == "a scripted"
    assert result.finish_reason == "length"
    assert result.verdict == Verdict(outcome="degraded", reasons=("truncated",))


def test_several_images_are_fetched_in_order_and_counted(bench: Workbench) -> None:
    images = (ImageRef(ref=DOT_KEY), ImageRef(ref=f"s3://{bench.store.bucket}/{DOT_KEY}"))
    result = bench.run(bench.task("compare", None, images=images))
    assert result.usage is not None
    assert result.usage.image_tokens == 20
    assert result.provenance.input_digests == (DOT_DIGEST, DOT_DIGEST)
    assert result.provenance.num_crops == 4


def test_kind_of_the_operators_own_is_answered_under_its_version(bench: Workbench) -> None:
    result = bench.run(bench.task("cars", "Red ones."))
    assert (result.kind, result.provenance.kind_version) == ("cars", 3)


def test_table_is_parsed(bench_with: BenchWith) -> None:
    bench = bench_with(VerbatimEngine("year,price\n2020,1\n"))
    result = bench.run(bench.task("table", None))
    assert result.text == "year,price\n2020,1"
    rows = {"header": ["year", "price"], "rows": [["2020", "1"]]}
    assert result.value == {**rows, "csv": "year,price\n2020,1\n"}
    assert result.verdict == Verdict(outcome="ok", reasons=())


def test_boxes_are_parsed(bench_with: BenchWith) -> None:
    bench = bench_with(ScriptedEngine('[{"label": "car", "box": [0, 0, 1000, 1000]}]'))
    result = bench.run(bench.task("detect", None))
    assert result.value == [{"label": "car", "box": [0, 0, 1, 1]}], "of one pixel"
    assert result.verdict == Verdict(outcome="ok", reasons=())


def test_empty_answer_is_a_success_that_is_rejected(bench_with: BenchWith) -> None:
    bench = bench_with(ScriptedEngine(""))
    task = bench.task()
    result = bench.run(task)
    assert (result.state, result.text) == (State.SUCCESS, "")
    assert result.verdict == Verdict(outcome="rejected", reasons=("empty",))
    assert result.usage == Usage(prompt_tokens=16, image_tokens=10, completion_tokens=0)
    assert bench.status(task).generated_tokens == 0


def test_task_of_a_sender_that_writes_no_record_gets_one(bench: Workbench) -> None:
    task = bench.task(is_submitted=False)
    assert bench.state(task) is State.UNKNOWN
    result = bench.run(task)
    assert result.timings.queue_seconds == 0.0
    assert bench.state(task) is State.SUCCESS


def test_progress_reaches_the_record_while_the_task_runs(bench_with: BenchWith) -> None:
    bench = bench_with(ScriptedEngine(LONG, seconds_per_token=0.005))
    task = bench.task(options=Options(max_new_tokens=4_000))
    with running(bench, task):
        first = wait_until(lambda: bench.status(task).generated_tokens)
        wait_until(lambda: bench.status(task).generated_tokens > first)
        status = bench.status(task)
        assert (status.state, status.max_new_tokens) == (State.PROGRESS, 4_000)


def test_installed_versions_are_those_of_the_packages() -> None:
    assert installed_versions() == {
        "visionq-worker": __version__,
        "transformers": version("transformers"),
        "torch": version("torch"),
        "llguidance": version("llguidance"),
        "pillow": version("pillow"),
        "celery": version("celery"),
        "kombu": version("kombu"),
        **({"simplejpeg": version("simplejpeg")} if has_fast_decoder() else {}),
    }
