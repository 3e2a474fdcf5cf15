"""The plain engine with the tiny model: what `generate` says, one request at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from PIL import Image

from tests.support.tiny import tiny_model
from tests.support.waiting import wait_until
from visionq_worker.engine.errors import EngineError
from visionq_worker.engine.reference import ReferenceEngine
from visionq_worker.engine.request import EngineInfo, Handle, Request
from visionq_worker.model.processor import ModelInputs, Phi3VProcessor

ONE_IMAGE = "<|user|>\n<|image_1|>\nWhat is this?<|end|>\n<|assistant|>\n"
TWO_IMAGES = "<|user|>\n<|image_1|>\n<|image_2|>\nWhat differs?<|end|>\n<|assistant|>\n"
NO_IMAGE = "<|user|>\nWho are you?<|end|>\n<|assistant|>\n"
FAR_TOO_MANY = 5_000
SECONDS = 30.0


@pytest.fixture(scope="session")
def engine() -> Iterator[ReferenceEngine]:
    engine = ReferenceEngine(tiny_model(), model_name="tiny", max_context_tokens=16_384)
    yield engine
    engine.close()


def picture(colour: str) -> Image.Image:
    return Image.new("RGB", (64, 48), colour)


def question(engine: ReferenceEngine) -> ModelInputs:
    """A question about one picture: 340 tokens or so, an answer takes milliseconds."""
    return engine.encode(ONE_IMAGE, [picture("red")], 1)


def answer(engine: ReferenceEngine, request: Request) -> tuple[int, ...]:
    return engine.submit(request).result().token_ids


def started(engine: ReferenceEngine) -> Handle:
    """A request in the middle of its answer, with a long way to go."""
    handle = engine.submit(Request(inputs=question(engine), max_new_tokens=FAR_TOO_MANY))
    wait_until(lambda: handle.num_tokens > 2, seconds=SECONDS)
    return handle


def test_engine_says_what_answers(engine: ReferenceEngine) -> None:
    assert engine.info == EngineInfo(
        model="tiny",
        revision=None,
        dtype="float32",
        device="cpu",
        attention="sdpa",
        max_context_tokens=16_384,
    )


@pytest.mark.parametrize(
    ("prompt", "colours"),
    [(NO_IMAGE, []), (ONE_IMAGE, ["red"]), (TWO_IMAGES, ["red", "blue"])],
    ids=["no image", "one image", "two images"],
)
def test_greedy_answer_is_what_generate_says(
    engine: ReferenceEngine, prompt: str, colours: list[str]
) -> None:
    inputs = engine.encode(prompt, [picture(colour) for colour in colours], 4)
    images: dict[str, Any] = {}
    if colours:
        images = {"pixel_values": inputs.pixel_values, "image_sizes": inputs.image_sizes}
    with torch.inference_mode():
        whole = cast("Any", engine._loaded.model).generate(
            input_ids=inputs.input_ids,
            attention_mask=torch.ones_like(inputs.input_ids),
            max_new_tokens=24,
            do_sample=False,
            **images,
        )
    expected = tuple(whole[0, inputs.num_tokens :].tolist())
    assert answer(engine, Request(inputs=inputs, max_new_tokens=24)) == expected
    assert len(expected) == 24


def test_answer_ends_with_length_when_nothing_else_ends_it(engine: ReferenceEngine) -> None:
    handle = engine.submit(Request(inputs=question(engine), max_new_tokens=5))
    completion = handle.result()
    assert (len(completion.token_ids), completion.finish_reason) == (5, "length")
    assert handle.num_tokens == 5
    assert completion.prefill_seconds > 0
    assert completion.decode_seconds > 0


def test_stop_token_ends_the_answer_and_is_not_in_its_text(engine: ReferenceEngine) -> None:
    """The tiny model rarely stops, so a token that it does say is made one that ends."""
    said = answer(engine, Request(inputs=question(engine), max_new_tokens=12))
    stop = next(token for token in said[4:] if token not in said[:4])
    before = said[: said.index(stop)]
    processor = engine._loaded.processor
    stopping = ReferenceEngine(
        replace(
            engine._loaded,
            processor=Phi3VProcessor(
                processor.tokenizer,
                image_token_id=processor.image_token_id,
                stop_token_ids={stop},
            ),
        ),
        model_name="stopping",
        max_context_tokens=4_096,
    )
    completion = stopping.submit(Request(inputs=question(engine), max_new_tokens=12)).result()
    stopping.close()
    assert completion.finish_reason == "stop"
    assert completion.token_ids == (*before, stop)
    assert stopping.decode(completion.token_ids) == engine.decode(before)


def test_sampled_answer_repeats_with_its_seed_whatever_runs_between(
    engine: ReferenceEngine,
) -> None:
    inputs = question(engine)

    def sampled(seed: int) -> tuple[int, ...]:
        request = Request(inputs=inputs, max_new_tokens=16, temperature=1.5, top_p=0.95, seed=seed)
        return answer(engine, request)

    first = sampled(7)
    others = sampled(8), sampled(9)
    assert sampled(7) == first
    assert first not in others
    assert others[0] != others[1]


def test_seed_leaves_the_global_generator_alone(engine: ReferenceEngine) -> None:
    before = torch.get_rng_state()
    answer(engine, Request(inputs=question(engine), max_new_tokens=4, temperature=1.0, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


def test_sampling_without_a_seed_varies(engine: ReferenceEngine) -> None:
    request = Request(inputs=question(engine), max_new_tokens=16, temperature=2.0)
    assert len({answer(engine, request) for _ in range(3)}) > 1


def test_token_count_rises_while_the_request_runs(engine: ReferenceEngine) -> None:
    handle = started(engine)
    seen = handle.num_tokens
    wait_until(lambda: handle.num_tokens > seen, seconds=SECONDS)
    assert not handle.wait(0)
    handle.cancel()
    completion = handle.result()
    assert handle.num_tokens == len(completion.token_ids)


def test_cancel_stops_between_two_tokens(engine: ReferenceEngine) -> None:
    handle = started(engine)
    handle.cancel()
    completion = handle.result()
    assert completion.finish_reason == "cancelled"
    assert 2 < len(completion.token_ids) < FAR_TOO_MANY


def test_request_cancelled_while_it_waits_is_never_run(engine: ReferenceEngine) -> None:
    running = started(engine)
    waiting = engine.submit(Request(inputs=question(engine), max_new_tokens=5))
    waiting.cancel()
    assert not waiting.wait(0)
    running.cancel()
    completion = waiting.result()
    assert (completion.token_ids, completion.finish_reason) == ((), "cancelled")
    assert waiting.num_tokens == 0


def test_request_the_model_cannot_take_fails_alone(engine: ReferenceEngine) -> None:
    inputs = engine.encode(NO_IMAGE, [], 1)
    no_such_token = replace(inputs, input_ids=torch.full_like(inputs.input_ids, 1_000_000))
    broken = engine.submit(Request(inputs=no_such_token, max_new_tokens=3))
    sound = engine.submit(Request(inputs=inputs, max_new_tokens=3))
    with pytest.raises(EngineError, match=r"^the model failed on this request$") as caught:
        broken.result()
    assert not caught.value.is_transient
    assert isinstance(caught.value.__cause__, IndexError)
    assert len(sound.result().token_ids) == 3


def test_close_ends_every_request_that_was_submitted(engine: ReferenceEngine) -> None:
    other = ReferenceEngine(engine._loaded, model_name="other", max_context_tokens=4_096)
    handles = [
        other.submit(Request(inputs=question(engine), max_new_tokens=tokens)) for tokens in (9, 2)
    ]
    other.close()
    assert all(handle.wait(0) for handle in handles)
    assert [len(handle.result().token_ids) for handle in handles] == [9, 2]
