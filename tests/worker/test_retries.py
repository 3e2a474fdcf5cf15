"""Answers that are not good are tried again, as their kind says; the best one counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import pytest

from tests.support.scripted import ScriptedEngine
from tests.support.waiting import wait_until
from tests.worker.workbench import HeldEngine, Workbench, running
from visionq.contract import Options, Result, State, Try, Verdict
from visionq.kinds import Kind, Retry
from visionq_worker.engine.errors import RequestTooLong
from visionq_worker.engine.request import Completion, FinishReason, Handle, Request

BenchWith = Callable[[ScriptedEngine], Workbench]

GOOD = "a scripted answer"
LADDER = (Retry(temperature=0.4), Retry(temperature=0.8, num_crops=2))


class Turns(ScriptedEngine):
    """Another answer at each request: a text, and how it ended."""

    def __init__(self, *answers: tuple[str, FinishReason]) -> None:
        super().__init__()
        self._answers = list(answers)
        self._texts: list[str] = []

    def submit(self, request: Request) -> Handle:
        self.requests.append(request)
        text, reason = self._answers[len(self.requests) - 1]
        self._texts.append(text)
        handle = Handle()
        handle.complete(
            Completion(
                token_ids=(len(self._texts) - 1,) if text else (),
                finish_reason=reason,
                prefill_seconds=0.0,
                decode_seconds=0.0,
            )
        )
        return handle

    def decode(self, token_ids: Iterable[int]) -> str:
        return "".join(self._texts[token_id] for token_id in token_ids)


def with_retries(bench: Workbench, retries: Sequence[Retry] = LADDER) -> Workbench:
    bench.executor._kinds = {"ask": Kind(max_images=8, retries=tuple(retries), num_crops=4)}
    return bench


@pytest.fixture
def run_with(bench_with: BenchWith) -> Callable[..., tuple[Turns, Result]]:
    def run(*answers: tuple[str, FinishReason], **options: int) -> tuple[Turns, Result]:
        engine = Turns(*answers)
        bench = with_retries(bench_with(engine))
        task = bench.task(options=Options(**options))  # type: ignore[arg-type]
        result = bench.run(task)
        assert bench.stored(task) == result
        return engine, result

    return run


RunWith = Callable[..., tuple[Turns, Result]]


def test_good_answer_is_the_only_one(run_with: RunWith) -> None:
    engine, result = run_with((GOOD, "stop"))
    assert len(engine.requests) == 1
    assert result.tries == (
        Try(
            temperature=0.0,
            num_crops=4,
            finish_reason="stop",
            verdict=Verdict(outcome="ok"),
            completion_tokens=1,
        ),
    )


def test_ladder_is_climbed_until_an_answer_is_good(run_with: RunWith) -> None:
    engine, result = run_with(("", "stop"), ("round and round", "loop"), (GOOD, "stop"), seed=7)
    assert [request.temperature for request in engine.requests] == [0.0, 0.4, 0.8]
    assert [request.seed for request in engine.requests] == [7, 8, 9]
    assert [one.num_crops for one in result.tries] == [4, 4, 2]
    assert [one.verdict.reasons for one in result.tries] == [("empty",), ("loop",), ()]
    assert (result.text, result.provenance.seed, result.provenance.num_crops) == (GOOD, 9, 2)
    assert result.verdict == Verdict(outcome="ok")


@pytest.mark.parametrize(("most", "crops"), [(None, [4, 4, 2]), (3, [3, 3, 2]), (1, [1, 1, 1])])
def test_no_try_has_more_crops_than_the_model_was_trained_for(
    bench_with: BenchWith, most: int | None, crops: list[int]
) -> None:
    engine = Turns(("", "stop"), ("", "stop"), (GOOD, "stop"))
    engine.info = replace(engine.info, max_num_crops=most)
    bench = with_retries(bench_with(engine))
    result = bench.run(bench.task())
    assert [one.num_crops for one in result.tries] == crops
    assert result.provenance.num_crops == crops[-1]


MORE_CROPS, WARMER = Retry(num_crops=16), Retry(temperature=0.4)


@pytest.mark.parametrize(
    ("temperature", "seed", "retries", "tried"),
    [
        (0.0, None, [MORE_CROPS, WARMER], [0.0, 0.4]),
        (0.0, None, [WARMER, MORE_CROPS], [0.0, 0.4]),
        (0.0, None, [Retry(temperature=0.0)], [0.0]),
        (0.7, 7, [MORE_CROPS], [0.7]),
        (0.7, None, [MORE_CROPS], [0.7, 0.7]),  # by chance it says something else
        (0.7, 7, [Retry(temperature=0.7)], [0.7, 0.7]),  # with a seed of its own
    ],
)
def test_a_try_that_must_repeat_another_is_passed_over(
    bench_with: BenchWith,
    temperature: float,
    seed: int | None,
    retries: list[Retry],
    tried: list[float],
) -> None:
    engine = Turns(("", "stop"), ("", "stop"), ("", "stop"))
    engine.info = replace(engine.info, max_num_crops=4)
    bench = with_retries(bench_with(engine), retries)
    result = bench.run(bench.task(options=Options(temperature=temperature, seed=seed)))
    assert [one.temperature for one in result.tries] == tried
    assert len(engine.requests) == len(tried)


def test_best_answer_counts_when_none_is_good(run_with: RunWith) -> None:
    _, result = run_with(("", "stop"), ("round and round", "loop"), ("I'm sorry.", "stop"))
    assert (result.text, result.finish_reason) == ("round and round", "loop")
    assert len(result.tries) == 3


def test_first_of_answers_that_are_alike_counts(run_with: RunWith) -> None:
    _, result = run_with(("first", "loop"), ("second", "loop"), ("third", "loop"))
    assert result.text == "first"


def test_answer_that_was_cut_off_is_not_tried_again(run_with: RunWith) -> None:
    engine, result = run_with(("a long sto", "length"))
    assert len(engine.requests) == 1
    assert result.verdict == Verdict(outcome="degraded", reasons=("truncated",))


def test_retries_without_a_seed_of_the_task_are_repeatable(run_with: RunWith) -> None:
    engine, _ = run_with(("", "stop"), ("", "stop"), ("", "stop"))
    assert [request.seed for request in engine.requests] == [None, 1, 2]


def test_retry_that_does_not_fit_ends_the_climb(bench_with: BenchWith) -> None:
    class Tight(Turns):
        def submit(self, request: Request) -> Handle:
            if self.requests:
                raise RequestTooLong("too many crops")
            return super().submit(request)

    bench = with_retries(bench_with(Tight(("so so", "loop"))))
    result = bench.run(bench.task())
    assert (result.text, len(result.tries)) == ("so so", 1)


def test_cancel_during_a_retry_ends_the_task(bench_with: BenchWith) -> None:
    engine = HeldEngine("so so so")
    bench = with_retries(bench_with(engine))
    task = bench.task()
    with running(bench, task) as outcome:
        wait_until(lambda: engine.handles)
        ended = Completion(
            token_ids=(0,), finish_reason="loop", prefill_seconds=0.0, decode_seconds=0.0
        )
        engine.handles[0].complete(ended)
        wait_until(lambda: len(engine.handles) == 2)
        bench.records.cancel(task.id)
        wait_until(lambda: engine.handles[1].is_cancelled)
        engine.end(1)
        result = outcome.result(10)
    assert not isinstance(result, State)
    assert result.state is State.REVOKED


def test_text_of_a_loop_is_what_was_said_once(bench_with: BenchWith) -> None:
    class Looping(ScriptedEngine):
        def submit(self, request: Request) -> Handle:
            handle = super().submit(request)
            done = handle.result()
            again = replace(
                done,
                token_ids=done.token_ids * 100,
                finish_reason="loop",
                num_repeated=99 * len(done.token_ids),
            )
            looped = Handle()
            looped.complete(again)
            return looped

    bench = bench_with(Looping("round and "))
    result = bench.run(bench.task())
    assert result.text == "round and"
    assert result.usage is not None
    assert result.usage.completion_tokens == 200
    assert result.verdict == Verdict(outcome="degraded", reasons=("loop",))


def test_engine_is_told_when_to_end_a_loop(bench: Workbench) -> None:
    bench.run(bench.task())
    (request,) = bench.engine.requests
    assert request.loop_tokens == 200
