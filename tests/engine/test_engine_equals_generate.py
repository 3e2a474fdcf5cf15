"""Whatever shares the batch, a request gets the tokens and scores it gets from `generate` alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import pytest
import torch

from tests.engine.rig import (
    Rig,
    Said,
    image_inputs,
    open_rig,
    said_by_generate,
    text_inputs,
)
from tests.support.tiny import tiny_model
from visionq_worker.engine.request import Handle, Request
from visionq_worker.engine.scheduler import Chunk
from visionq_worker.model.processor import ModelInputs

ATOL = 1e-5  # float32, another order of additions than the reference's
SHORT_TOKENS = 4_096
NO_STOP: frozenset[int] = frozenset()
SIZES = ((64, 48), (300, 90), (90, 300))
MOST_NEW = 24


@dataclass(frozen=True)
class Shape:
    """One sort of prompt; equal shapes are equal prompts, and their answers are computed once."""

    sort: str  # text, images
    num_text: int
    seeds: tuple[int, ...] = ()
    num_crops: int = 1
    text_seed: int = 0


@cache
def inputs_of(shape: Shape) -> ModelInputs:
    loaded = tiny_model()
    if shape.sort == "text":
        return text_inputs(loaded, shape.num_text, shape.text_seed)
    sizes = [SIZES[seed % len(SIZES)] for seed in shape.seeds]
    return image_inputs(
        loaded,
        shape.seeds,
        sizes=sizes,
        num_crops=shape.num_crops,
        text_seed=shape.text_seed,
        num_text=shape.num_text,
    )


@cache
def said(shape: Shape) -> Said:
    return said_by_generate(tiny_model(), inputs_of(shape), MOST_NEW)


def random_shape(rng: random.Random) -> Shape:
    """Texts, one to three images (often the same ones), now and then one with long rotary factors
    or one that grows into them."""
    sort = rng.random()
    if sort < 0.35:
        return Shape(
            "text", num_text=rng.choice([1, 2, 63, 64, 65, 200]), text_seed=rng.randrange(4)
        )
    if sort < 0.9:
        seeds = tuple(rng.randrange(4) for _ in range(rng.choice([1, 1, 1, 2, 3])))
        num_crops = rng.choice([1, 1, 4])
        return Shape(
            "images",
            num_text=rng.choice([1, 9, 70]),
            seeds=seeds,
            num_crops=num_crops,
            text_seed=rng.randrange(2),
        )
    return Shape("text", num_text=rng.choice([4_090, 4_096, 4_097, 4_300]), text_seed=0)


def request(shape: Shape, num_new: int) -> Request:
    return Request(inputs=inputs_of(shape), max_new_tokens=num_new, stop_token_ids=NO_STOP)


def assert_equals_generate(rig: Rig, handle: Handle, shape: Shape, num_new: int) -> None:
    completion = handle.result()
    reference = said(shape)
    assert completion.finish_reason == "length"
    assert completion.token_ids == reference.token_ids[:num_new]
    torch.testing.assert_close(rig.logits(handle), reference.logits[:num_new], rtol=0, atol=ATOL)


@pytest.mark.parametrize(
    ("num_requests", "seed", "steps"), [(1, 1, 0), (5, 2, 9), (12, 3, 24), (32, 4, 60), (32, 5, 3)]
)
def test_mixed_requests_get_what_each_gets_alone(num_requests: int, seed: int, steps: int) -> None:
    """Arriving at different steps, some cancelled midway, in a cache too small for them all."""
    rng = random.Random(seed)
    orders = [(random_shape(rng), rng.randint(1, MOST_NEW)) for _ in range(num_requests)]
    arrivals = sorted(rng.randint(0, steps) for _ in orders[1:])
    doomed = set(rng.sample(range(1, num_requests), num_requests // 6))
    handles: list[Handle] = []

    def at(step: int, _chunks: Sequence[Chunk] = ()) -> None:
        if not handles:
            return
        while len(handles) < num_requests and step >= arrivals[len(handles) - 1]:
            shape, num_new = orders[len(handles)]
            handles.append(rig.engine.submit(request(shape, num_new)))
        for number in doomed & set(range(len(handles))):
            if handles[number].num_tokens >= 3:
                handles[number].cancel()

    with open_rig(
        num_pages=280, page_tokens=16, step_tokens=300, max_running=24, before_step=at
    ) as rig:
        shape, num_new = orders[0]
        handles.append(rig.engine.submit(request(shape, num_new)))
        for number, (shape, num_new) in enumerate(orders):
            # Who arrives later is submitted by the steps of those before; the last may be left.
            while number >= len(handles):
                handles[number - 1].result()
                at(10**9)
            if number in doomed:
                handles[number].wait()
                tokens = handles[number].result().token_ids
                assert tokens == said(shape).token_ids[: len(tokens)]
            else:
                assert_equals_generate(rig, handles[number], shape, num_new)
        metrics = rig.engine.metrics()
    if num_requests == 32:
        assert metrics.prompt_tokens_cached_total > 0
        assert metrics.feature_hits_total > 0
    assert metrics.failures_total == 0


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_requests_that_lose_their_pages_midway_say_the_same(seed: int) -> None:
    """Twelve at once in a cache that holds their prompts, but not their answers."""
    rng = random.Random(seed)
    shapes = [
        Shape("text", num_text=rng.randint(10, 30), text_seed=number % 4) for number in range(10)
    ]
    shapes += [Shape("images", num_text=9, seeds=(seed, number)) for number in range(2)]
    with open_rig(num_pages=90, page_tokens=16, step_tokens=400) as rig:
        handles = [rig.engine.submit(request(shape, MOST_NEW)) for shape in shapes]
        for handle, shape in zip(handles, shapes, strict=True):
            assert_equals_generate(rig, handle, shape, MOST_NEW)
        metrics = rig.engine.metrics()
    assert metrics.preemptions_total > 0
    assert sum(handle.result().num_preemptions for handle in handles) == metrics.preemptions_total


@pytest.mark.parametrize("num_text", [4_080, 4_095, 4_096, 4_097])
def test_request_that_grows_past_the_short_factors_is_computed_anew(num_text: int) -> None:
    shape = Shape("text", num_text=num_text)
    neighbour = Shape("images", num_text=9, seeds=(1,))
    with open_rig(num_pages=160, step_tokens=1_000) as rig:
        handles = [rig.engine.submit(request(each, MOST_NEW)) for each in (shape, neighbour)]
        assert_equals_generate(rig, handles[0], shape, MOST_NEW)
        assert_equals_generate(rig, handles[1], neighbour, MOST_NEW)
        num_restarts = rig.engine.metrics().long_restarts_total
    assert num_restarts == (1 if num_text <= SHORT_TOKENS else 0)


def test_images_that_grow_past_the_short_factors_keep_their_features() -> None:
    """`generate` drops images after its first step; both have to find them again."""
    shape = Shape("images", num_text=3_135, seeds=(0, 1, 2), num_crops=1)
    assert inputs_of(shape).num_tokens < SHORT_TOKENS < inputs_of(shape).num_tokens + MOST_NEW
    with open_rig(num_pages=160) as rig:
        handle = rig.engine.submit(request(shape, MOST_NEW))
        assert_equals_generate(rig, handle, shape, MOST_NEW)
        assert rig.engine.metrics().long_restarts_total == 1


@pytest.mark.parametrize("step_tokens", [16, 17, 100, 4_096])
@pytest.mark.parametrize("page_tokens", [16, 256])
def test_chunks_and_pages_of_any_size_change_nothing(step_tokens: int, page_tokens: int) -> None:
    shapes = [Shape("images", num_text=9, seeds=(1, 2)), Shape("text", num_text=65)]
    num_pages = 2_048 // page_tokens
    with open_rig(num_pages=num_pages, page_tokens=page_tokens, step_tokens=step_tokens) as rig:
        handles = [rig.engine.submit(request(shape, 8)) for shape in shapes]
        for handle, shape in zip(handles, shapes, strict=True):
            assert_equals_generate(rig, handle, shape, 8)


def test_same_image_with_another_question_shares_its_pages() -> None:
    first = Shape("images", num_text=9, seeds=(1,), text_seed=0)
    second = Shape("images", num_text=70, seeds=(1,), text_seed=0)
    with open_rig(num_pages=40, page_tokens=64) as rig:
        assert_equals_generate(rig, rig.engine.submit(request(first, 4)), first, 4)
        handle = rig.engine.submit(request(second, 4))
        assert_equals_generate(rig, handle, second, 4)
        # 4 words, an image of 313 tokens, 2 words and 9 more: 5 full pages of 64 are alike.
        assert handle.result().num_cached_tokens == 5 * 64


def test_another_image_of_the_same_size_shares_nothing_behind_the_words() -> None:
    shapes = [Shape("images", num_text=9, seeds=(seed,)) for seed in (0, 3)]
    assert torch.equal(*(inputs_of(shape).input_ids for shape in shapes))
    with open_rig(num_pages=40, page_tokens=64) as rig:
        for shape in shapes:
            handle = rig.engine.submit(request(shape, 6))
            assert_equals_generate(rig, handle, shape, 6)
            assert handle.result().num_cached_tokens == 0


def test_requests_about_one_image_at_once_compute_it_once() -> None:
    shapes = [Shape("images", num_text=num, seeds=(2,), num_crops=4) for num in (5, 6, 7, 8)]
    with open_rig(num_pages=80, page_tokens=64, step_tokens=4_096) as rig:
        handles = [rig.engine.submit(request(shape, 5)) for shape in shapes]
        for handle, shape in zip(handles, shapes, strict=True):
            assert_equals_generate(rig, handle, shape, 5)
        metrics = rig.engine.metrics()
    assert metrics.feature_misses_total == 1
    # 4 words and an image of 3 x 1 tiles, which takes 625 tokens: 9 full pages of 64.
    assert metrics.prompt_tokens_cached_total == 3 * 9 * 64
    assert metrics.prompt_tokens_total < 2 * inputs_of(shapes[0]).num_tokens


def test_prefix_cache_that_is_switched_off_shares_nothing() -> None:
    shape = Shape("images", num_text=9, seeds=(1,))
    with open_rig(num_pages=40, keeps_prefixes=False) as rig:
        handles = [rig.engine.submit(request(shape, 4)) for _ in range(3)]
        for handle in handles:
            assert_equals_generate(rig, handle, shape, 4)
            assert handle.result().num_cached_tokens == 0


def test_picture_that_the_feature_cache_cannot_hold_is_computed_again() -> None:
    shape = Shape("images", num_text=9, seeds=(1,))
    with open_rig(num_pages=40, step_tokens=100, feature_cache_bytes=0) as rig:
        handle = rig.engine.submit(request(shape, 4))
        assert_equals_generate(rig, handle, shape, 4)
        assert rig.engine.metrics().feature_misses_total > 1
