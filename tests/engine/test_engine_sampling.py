"""What a request may ask of its answer: seeds, stops, log-probabilities, a stream."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest
import torch

from tests.engine.rig import open_rig, said_by_generate, text_inputs
from tests.support.tiny import tiny_model
from tests.support.waiting import wait_until
from visionq_worker.engine.request import Request
from visionq_worker.engine.sampler import uniform

NO_STOP: frozenset[int] = frozenset()


def request(seed_of_prompt: int = 0, **more: Any) -> Request:
    inputs = text_inputs(tiny_model(), 30, seed_of_prompt)
    given: dict[str, Any] = {"max_new_tokens": 12, "stop_token_ids": NO_STOP} | more
    return Request(inputs=inputs, **given)


def test_seeded_answer_is_the_same_alone_in_company_and_after_preemption() -> None:
    sampled = request(temperature=1.3, top_p=0.9, seed=7, max_new_tokens=24)
    crowd = [request(number, temperature=2.0, max_new_tokens=24) for number in range(1, 9)]
    with open_rig(num_pages=40) as rig:
        alone = rig.engine.submit(sampled).result().token_ids
        assert rig.engine.submit(sampled).result().token_ids == alone
        assert rig.engine.submit(replace(sampled, seed=8)).result().token_ids != alone
    with open_rig(num_pages=14, page_tokens=16) as rig:
        handles = [rig.engine.submit(each) for each in [*crowd[:4], sampled, *crowd[4:]]]
        assert handles[4].result().token_ids == alone
        assert all(handle.wait(30) for handle in handles)
        assert sum(handle.result().num_preemptions for handle in handles) > 0


def test_sampled_tokens_follow_the_scores_and_the_seed() -> None:
    """Against the definition: temperature, the fewest tokens that reach top_p, one draw."""
    asked = request(temperature=1.5, top_p=0.8, seed=11)
    with open_rig(num_pages=20) as rig:
        handle = rig.engine.submit(asked)
        tokens = handle.result().token_ids
        logits = rig.logits(handle)
    logits[:, tiny_model().config.image_token_id] = -torch.inf
    for position, (token, scores) in enumerate(zip(tokens, logits, strict=True)):
        chances = (scores / 1.5).double().softmax(-1)
        order = chances.argsort(descending=True)
        total, kept = 0.0, []
        for candidate in order.tolist():
            kept.append(candidate)
            total += float(chances[candidate])
            if total >= 0.8:
                break
        draw, reached = uniform(11, position) * total, 0.0
        for candidate in kept:
            reached += float(chances[candidate])
            if reached > draw:
                break
        assert token == candidate


def test_answers_without_a_seed_vary() -> None:
    with open_rig(num_pages=20) as rig:
        handles = [rig.engine.submit(request(temperature=2.0)) for _ in range(3)]
        assert len({handle.result().token_ids for handle in handles}) > 1


def test_first_of_several_stop_tokens_ends_the_answer_and_is_its_last() -> None:
    said = said_by_generate(tiny_model(), request().inputs, 12).token_ids
    later, sooner = said[9], said[4]
    assert later not in said[:5]
    stops = frozenset({later, sooner, 500})
    with open_rig(num_pages=20) as rig:
        completion = rig.engine.submit(request(stop_token_ids=stops)).result()
    first = min(said.index(later), said.index(sooner))
    assert completion.token_ids == said[: first + 1]
    assert completion.finish_reason == "stop"


def test_stop_tokens_are_the_models_own_when_none_are_named() -> None:
    stops = tiny_model().processor.stop_token_ids
    masks = []

    class OnlyStop:
        def allowed(self, token_ids: Any) -> torch.Tensor:
            mask = torch.zeros(576, dtype=torch.bool)
            mask[300 if len(token_ids) < 2 else max(stops)] = True
            masks.append(mask)
            return mask

    with open_rig(num_pages=20) as rig:
        asked = request(logit_mask=OnlyStop(), stop_token_ids=None)
        completion = rig.engine.submit(asked).result()
    assert (completion.token_ids, completion.finish_reason) == ((300, 300, max(stops)), "stop")


def test_logprobs_are_those_of_the_scores_before_temperature() -> None:
    neighbour = request(1)
    with open_rig(num_pages=20) as rig:
        handle = rig.engine.submit(request(wants_logprobs=True, temperature=1.7, seed=3))
        silent = rig.engine.submit(neighbour).result()
        completion = handle.result()
        logits = rig.logits(handle)
    assert silent.logprobs is None
    assert completion.logprobs is not None
    logits[:, tiny_model().config.image_token_id] = -torch.inf
    expected = logits.double().log_softmax(-1)[range(12), list(completion.token_ids)]
    assert completion.logprobs == pytest.approx(expected.tolist(), abs=1e-5)


def test_placeholder_is_never_said() -> None:
    class OnlyPlaceholder:
        def allowed(self, _token_ids: Any) -> torch.Tensor:
            mask = torch.zeros(576, dtype=torch.bool)
            mask[[tiny_model().config.image_token_id, 300]] = True
            return mask

    with open_rig(num_pages=20) as rig:
        completion = rig.engine.submit(request(logit_mask=OnlyPlaceholder())).result()
    assert completion.token_ids == (300,) * 12


def test_stream_gives_tokens_while_the_request_runs() -> None:
    goes_on = threading.Event()

    def hold(step: int, _chunks: Any) -> None:
        if step == 6:
            goes_on.wait(30)

    with open_rig(num_pages=20, before_step=hold) as rig:
        handle = rig.engine.submit(request())
        stream = handle.stream()
        first = [next(stream) for _ in range(6)]
        assert not handle.wait(0)
        assert handle.num_tokens == 6
        goes_on.set()
        assert tuple(first + list(stream)) == handle.result().token_ids


def test_completion_says_what_the_request_cost() -> None:
    asked = request()
    with open_rig(num_pages=20, page_tokens=16) as rig:
        first = rig.engine.submit(asked).result()
        second = rig.engine.submit(asked).result()
    assert (first.num_prompt_tokens, first.num_cached_tokens) == (30, 0)
    assert (second.num_prompt_tokens, second.num_cached_tokens) == (30, 16)
    assert first.prefill_seconds > 0
    assert first.decode_seconds > 0
    assert first.waiting_seconds >= 0
    assert first.num_preemptions == 0


def test_metrics_count_what_was_done() -> None:
    with open_rig(num_pages=20, page_tokens=16) as rig:
        for _ in range(2):
            rig.engine.submit(request()).result()
        wait_until(lambda: rig.engine.metrics().num_running == 0)
        metrics = rig.engine.metrics()
    assert metrics.requests_total == 2
    assert metrics.generated_tokens_total == 24
    assert metrics.prompt_tokens_cached_total == 16
    assert metrics.prompt_tokens_total == 60 - 16
    assert metrics.steps_total == 24
    assert metrics.failures_total == 0
    assert metrics.pages_total == 20
    assert metrics.step_seconds is not None
    assert metrics.step_seconds > 0
    assert metrics.tokens_out_per_second > 0
    assert metrics.tokens_in_per_second > 0
