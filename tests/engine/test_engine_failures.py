"""What fails, fails alone: memory, bad scores, strangers' code, requests that cannot be run."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic
from typing import Any

import pytest
import torch

from tests.engine.rig import image_inputs, open_rig, said_by_generate, text_inputs
from tests.support.tiny import tiny_model
from tests.support.waiting import wait_until
from visionq_worker.engine.errors import (
    DeviceFull,
    EngineBroken,
    EngineClosed,
    EngineError,
    RequestFailed,
    RequestInvalid,
    RequestTooLong,
)
from visionq_worker.engine.request import Handle, Request
from visionq_worker.engine.scheduler import Chunk

FAR_TOO_MANY = 1_500
NO_STOP: frozenset[int] = frozenset()


def request(num_tokens: int = 20, seed: int = 0, **more: Any) -> Request:
    inputs = text_inputs(tiny_model(), num_tokens, seed)
    given: dict[str, Any] = {"max_new_tokens": 6, "stop_token_ids": NO_STOP} | more
    return Request(inputs=inputs, **given)


def expected(asked: Request) -> tuple[int, ...]:
    return said_by_generate(tiny_model(), asked.inputs, asked.max_new_tokens).token_ids


def assert_answers(handles: Sequence[Handle], requests: Sequence[Request]) -> None:
    for handle, asked in zip(handles, requests, strict=True):
        assert handle.result().token_ids == expected(asked)


def is_about(chunks: Sequence[Chunk], asked: Request) -> bool:
    return any(chunk.sequence.request is asked for chunk in chunks)


def test_step_that_does_not_fit_is_halved_until_it_does() -> None:
    requests = [request(30, seed) for seed in range(8)]
    sizes: list[int] = []

    def full(_step: int, chunks: Sequence[Chunk]) -> None:
        num_tokens = sum(chunk.num_tokens for chunk in chunks)
        sizes.append(num_tokens)
        if num_tokens > 70:
            raise torch.OutOfMemoryError

    with open_rig(num_pages=40, before_step=full) as rig:
        handles = [rig.engine.submit(asked) for asked in requests]
        assert_answers(handles, requests)
        assert rig.runner.num_freed > 0
        assert rig.engine.metrics().retried_steps_total > 0
    assert max(sizes) > 70


def test_long_prompt_that_does_not_fit_is_computed_in_smaller_pieces() -> None:
    asked = request(900)

    def full(_step: int, chunks: Sequence[Chunk]) -> None:
        if sum(chunk.num_tokens for chunk in chunks) > 130:
            raise torch.OutOfMemoryError

    with open_rig(num_pages=40, before_step=full) as rig:
        assert_answers([rig.engine.submit(asked)], [asked])


def test_budget_grows_again_after_memory_was_short() -> None:
    sizes: list[int] = []

    def full_once(step: int, chunks: Sequence[Chunk]) -> None:
        sizes.append(sum(chunk.num_tokens for chunk in chunks))
        if step == 0:
            raise torch.OutOfMemoryError

    with open_rig(num_pages=60, step_tokens=256, before_step=full_once) as rig:
        rig.engine.submit(request(300, max_new_tokens=120)).result()
        sizes.clear()
        rig.engine.submit(request(900, seed=1)).result()
    assert max(sizes) == 256


def test_request_that_never_fits_fails_alone_and_may_be_tried_again() -> None:
    sound, huge = request(20), request(200, seed=1)

    def full(_step: int, chunks: Sequence[Chunk]) -> None:
        if is_about(chunks, huge):
            raise torch.OutOfMemoryError

    with open_rig(num_pages=40, before_step=full) as rig:
        handles = [rig.engine.submit(asked) for asked in (sound, huge)]
        with pytest.raises(DeviceFull) as caught:
            handles[1].result()
        assert caught.value.is_transient
        assert_answers(handles[:1], [sound])


def test_request_that_breaks_the_model_fails_alone() -> None:
    requests = [request(20, seed) for seed in range(9)]
    culprit = requests[4]

    def broken(_step: int, chunks: Sequence[Chunk]) -> None:
        if is_about(chunks, culprit):
            raise RuntimeError("no such kernel")

    with open_rig(num_pages=40, before_step=broken) as rig:
        handles = [rig.engine.submit(asked) for asked in requests]
        with pytest.raises(RequestFailed, match=r"^the model failed on this request$") as caught:
            handles[4].result()
        assert not caught.value.is_transient
        assert isinstance(caught.value.__cause__, RuntimeError)
        assert_answers(handles[:4] + handles[5:], requests[:4] + requests[5:])
        assert rig.engine.metrics().failures_total == 1


@pytest.mark.parametrize("score", [torch.nan, torch.inf])
def test_scores_that_are_no_numbers_end_their_request_alone(score: float) -> None:
    requests = [request(40, seed) for seed in range(4)]
    culprit = requests[2]

    def spoil(chunks: Sequence[Chunk], logits: torch.Tensor) -> None:
        rows = [chunk for chunk in chunks if chunk.is_last]
        for row, chunk in enumerate(rows):
            if chunk.sequence.request is culprit and chunk.sequence.num_generated == 3:
                logits[row, 17] = score

    with open_rig(num_pages=40, page_tokens=16) as rig:
        rig.runner.spoil = spoil  # type: ignore[method-assign]
        handles = [rig.engine.submit(asked) for asked in requests]
        with pytest.raises(RequestFailed, match=r"^the model gave no finite scores$"):
            handles[2].result()
        assert_answers(handles[:2] + handles[3:], requests[:2] + requests[3:])
        # What it computed is not offered to the next one of the same prompt.
        again = rig.engine.submit(replace(culprit, max_new_tokens=2))
        assert again.result().num_cached_tokens == 0


def test_token_callback_that_raises_is_dropped_and_the_answer_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    heard: list[int] = []

    def callback(token_id: int) -> None:
        heard.append(token_id)
        if len(heard) == 2:
            raise ValueError("a listener's own trouble")

    asked = request(on_token=callback)
    with open_rig(num_pages=10) as rig, caplog.at_level(logging.ERROR):
        completion = rig.engine.submit(asked).result()
    assert completion.token_ids == expected(asked)
    assert tuple(heard) == completion.token_ids[:2]
    assert "a token callback failed" in caplog.text


class Mask:
    """Allows what it is told to, by the number of tokens so far."""

    def __init__(self, allowed: Sequence[Sequence[int]]) -> None:
        self.allowed_ids = allowed
        self.asked: list[list[int]] = []

    def allowed(self, token_ids: Sequence[int]) -> torch.Tensor | None:
        self.asked.append(list(token_ids))
        if len(token_ids) == len(self.allowed_ids):
            raise LookupError("the grammar has no rule")
        mask = torch.zeros(tiny_model().config.vocab_size, dtype=torch.bool)
        mask[list(self.allowed_ids[len(token_ids)])] = True
        return mask


def test_logit_mask_decides_what_may_come() -> None:
    mask = Mask([[300], [301, 302], [303], [304]])
    neighbour = request(seed=1)
    with open_rig(num_pages=10) as rig:
        handles = [
            rig.engine.submit(request(logit_mask=mask, max_new_tokens=4)),
            rig.engine.submit(neighbour),
        ]
        tokens = handles[0].result().token_ids
        assert_answers(handles[1:], [neighbour])
    assert (tokens[0], tokens[2], tokens[3]) == (300, 303, 304)
    assert tokens[1] in (301, 302)
    assert mask.asked == [list(tokens[:count]) for count in range(4)]


def test_logit_mask_that_raises_ends_its_request_alone() -> None:
    neighbours = [request(seed=seed) for seed in (1, 2)]
    with open_rig(num_pages=10) as rig:
        first = rig.engine.submit(neighbours[0])
        masked = rig.engine.submit(request(logit_mask=Mask([[300], [301]])))
        second = rig.engine.submit(neighbours[1])
        with pytest.raises(RequestFailed, match=r"^the request's logit mask failed$") as caught:
            masked.result()
        assert isinstance(caught.value.__cause__, LookupError)
        assert_answers([first, second], neighbours)


def test_logit_mask_that_allows_nothing_ends_its_request() -> None:
    with open_rig(num_pages=10) as rig, pytest.raises(RequestFailed, match="no finite scores"):
        rig.engine.submit(request(logit_mask=Mask([[]]))).result()


def test_cancelled_request_has_freed_its_pages_one_step_later() -> None:
    free_at: dict[int, int] = {}
    cancelled_at: list[int] = []

    def watch(step: int, _chunks: Sequence[Chunk]) -> None:
        free_at[step] = rig.engine.metrics().pages_free
        if handles and handles[0].num_tokens >= 5 and not cancelled_at:
            handles[0].cancel()
            cancelled_at.append(step)

    handles: list[Handle] = []
    with open_rig(num_pages=60, keeps_prefixes=False, before_step=watch) as rig:
        handles += [
            rig.engine.submit(request(100, max_new_tokens=FAR_TOO_MANY)),
            rig.engine.submit(request(50, seed=1, max_new_tokens=60)),
        ]
        assert handles[0].result().finish_reason == "cancelled"
        assert 5 <= len(handles[0].result().token_ids) <= 6
        handles[1].result()
    # 100 tokens and those said: 2 pages of 64.
    assert free_at[cancelled_at[0] + 1] == free_at[cancelled_at[0]] + 2


def test_request_past_its_deadline_is_let_go() -> None:
    with open_rig(num_pages=60) as rig:
        late = rig.engine.submit(request(deadline=monotonic() - 1))
        running = rig.engine.submit(
            request(seed=1, max_new_tokens=FAR_TOO_MANY, deadline=monotonic() + 0.2)
        )
        assert late.result().finish_reason == "expired"
        assert late.result().token_ids == ()
        assert running.result().finish_reason == "expired"
        assert 0 < len(running.result().token_ids) < FAR_TOO_MANY


def test_request_longer_than_the_context_is_refused() -> None:
    with open_rig(num_pages=20, max_context_tokens=100) as rig:
        message = r"^101 tokens do not fit into a context of 100$"
        with pytest.raises(RequestTooLong, match=message):
            rig.engine.submit(request(95))
        rig.engine.submit(request(94)).result()


def test_request_longer_than_the_cache_is_refused() -> None:
    with open_rig(num_pages=2) as rig:
        message = r"^130 tokens do not fit into a cache of 128$"
        with pytest.raises(RequestTooLong, match=message):
            rig.engine.submit(request(124))
        # The last token is never computed, so it needs no place.
        rig.engine.submit(request(123)).result()


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": 0},
        {"temperature": -0.1},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"temperature": float("nan")},
    ],
    ids=str,
)
def test_request_with_impossible_options_is_refused(wrong: dict[str, Any]) -> None:
    with open_rig(num_pages=10) as rig, pytest.raises(RequestInvalid):
        rig.engine.submit(request(**wrong))


@pytest.mark.parametrize("token_id", [-1, 576, 1_000_000])
def test_request_with_an_unknown_token_is_refused(token_id: int) -> None:
    asked = request()
    asked.inputs.input_ids[0, 3] = token_id
    with open_rig(num_pages=10) as rig, pytest.raises(RequestInvalid, match="between 0 and 575"):
        rig.engine.submit(asked)


def test_request_whose_placeholders_are_elsewhere_is_refused() -> None:
    inputs = image_inputs(tiny_model(), [1], sizes=[(64, 48)], num_crops=1)
    with open_rig(num_pages=10) as rig:
        for wrong in (
            replace(inputs, image_starts=(5,)),
            replace(inputs, pictures=(), image_starts=()),
            replace(inputs, image_starts=(-400,)),
        ):
            with pytest.raises(RequestInvalid, match="placeholders are not where"):
                rig.engine.submit(Request(inputs=wrong, max_new_tokens=2))


def test_closed_engine_refuses_and_every_handle_has_ended() -> None:
    with open_rig(num_pages=60) as rig:
        handles = [rig.engine.submit(request(seed=seed)) for seed in range(5)]
        rig.engine.close()
        assert [handle.wait(0) for handle in handles] == [True] * 5
        assert [len(handle.result().token_ids) for handle in handles] == [6] * 5
        with pytest.raises(EngineClosed) as caught:
            rig.engine.submit(request())
        assert caught.value.is_transient


def test_closing_by_force_cancels_what_runs_and_what_waits() -> None:
    with open_rig(num_pages=60, max_running=2) as rig:
        handles = [
            rig.engine.submit(request(seed=seed, max_new_tokens=FAR_TOO_MANY)) for seed in range(4)
        ]
        wait_until(lambda: handles[0].num_tokens > 3)
        rig.engine.close(cancel=True)
        assert [handle.result().finish_reason for handle in handles] == ["cancelled"] * 4


def test_step_that_hangs_ends_every_request_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(step: int, _chunks: Sequence[Chunk]) -> None:
        if step == 3:
            hangs.set()
            goes_on.wait(30)

    with open_rig(num_pages=20, before_step=hang, hang_seconds=0.2, survives=False) as rig:
        handles = [rig.engine.submit(request(seed=seed)) for seed in range(3)]
        assert hangs.wait(30)
        for handle in handles:
            with pytest.raises(EngineBroken, match=r"^a step took longer than 0.2 s$") as caught:
                handle.result()
            assert caught.value.is_transient
        with pytest.raises(EngineBroken):
            rig.engine.submit(request())
        wait_until(lambda: rig.broken == ["broken"])
        goes_on.set()
    assert "the engine is broken" in caplog.text
    assert "thread visionq-engine:" in caplog.text
    assert ", in hang\n" in caplog.text  # where it hangs


def test_engine_says_for_how_long_nothing_has_moved() -> None:
    waits, goes_on = threading.Event(), threading.Event()

    def wait(step: int, _chunks: Sequence[Chunk]) -> None:
        if step == 3:
            waits.set()
            goes_on.wait(30)

    with open_rig(num_pages=20, before_step=wait) as rig:
        assert rig.engine.stalled_seconds() == 0.0, "there is nothing to do"
        handle = rig.engine.submit(request())
        assert waits.wait(30)
        wait_until(lambda: rig.engine.stalled_seconds() > 0.1)
        goes_on.set()
        handle.result()
        wait_until(lambda: rig.engine.stalled_seconds() == 0.0)


def test_wrong_books_break_the_engine_and_no_handle_is_left_waiting() -> None:
    with open_rig(num_pages=20, survives=False) as rig:
        plan = rig.engine._scheduler.plan

        def spoilt() -> list[Chunk]:
            chunks = plan()
            rig.engine._scheduler.pool._holders[7] += 1
            return chunks

        rig.engine._scheduler.plan = spoilt  # type: ignore[method-assign]
        handle = rig.engine.submit(request())
        with pytest.raises(EngineBroken, match="books are wrong") as caught:
            handle.result()
        assert isinstance(caught.value.__cause__, AssertionError)
        assert rig.broken == ["broken"]


def test_stranger_error_types_are_engine_errors() -> None:
    kinds = (DeviceFull, EngineBroken, EngineClosed, RequestFailed, RequestInvalid, RequestTooLong)
    assert all(issubclass(kind, EngineError) for kind in kinds)
    assert [kind("text").is_transient for kind in kinds] == [True, True, True, False, False, False]
