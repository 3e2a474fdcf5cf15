"""A task that cannot be answered: which code and sentence, and that the engine is spared."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

import pytest
from PIL import Image

from tests.support.scripted import ScriptedEngine
from tests.worker.picture_bytes import encoded
from tests.worker.workbench import DOT_KEY, Workbench
from visionq.contract import Failure, ImageRef, Options, State, Usage
from visionq.errors import InvalidTask, UnknownKind
from visionq_worker.engine.errors import EngineError, RequestTooLong
from visionq_worker.engine.request import Handle, Request
from visionq_worker.model.errors import ImageShapeError, PromptError
from visionq_worker.model.pixels import Picture
from visionq_worker.model.processor import ModelInputs

BenchWith = Callable[[ScriptedEngine], Workbench]

DOT_REF = ImageRef(ref=DOT_KEY)


class RaisingEngine(ScriptedEngine):
    """Fails while it makes inputs of prompt and images."""

    def __init__(self, raised: Exception) -> None:
        super().__init__()
        self._raised = raised

    def encode(
        self, prompt: str, images: Sequence[Image.Image | Picture], _num_crops: int
    ) -> ModelInputs:
        raise self._raised


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        pytest.param(
            {"kind": "guess"},
            "unknown_kind",
            "no kind 'guess'; there are analyze, ask, cars, compare, describe, detect, ocr, table",
            id="unknown kind",
        ),
        pytest.param(
            {"kind": "ocr", "images": (DOT_REF, DOT_REF)},
            "image_count",
            "kind 'ocr' takes 1 image(s), got 2",
            id="too many images",
        ),
        pytest.param(
            {"images": ()},
            "image_count",
            "kind 'ask' takes 1 to 8 image(s), got 0",
            id="no image",
        ),
        pytest.param(
            {"question": None}, "invalid_task", "kind 'ask' needs a question", id="no question"
        ),
        pytest.param(
            {"options": Options(schema={"const": "<|end|>"})},
            "prompt_tags",
            "the schema contains a tag such as <|end|>",
            id="tag in the schema",
        ),
        pytest.param(
            {"notify": "https://example.org/hook"},
            "unsupported_option",
            "notify is not carried out",
            id="webhook",
        ),
        pytest.param(
            {"images": (ImageRef(ref="inputs/nothing"),)},
            "input_missing",
            "an input image is not there",
            id="no object",
        ),
        pytest.param(
            {"images": (ImageRef(ref="inputs//nothing"),)},
            "input_missing",
            "the object store gives no image under this reference",
            id="a key the store refuses",
        ),
        pytest.param(
            {"images": (ImageRef(ref="https://example.org/x.png"),)},
            "input_not_allowed",
            "image URLs are switched off",
            id="image URL",
        ),
        pytest.param(
            {"question": "<|end|>"},
            "prompt_tags",
            "the question contains a tag such as <|end|>",
            id="tag of the model",
        ),
    ],
)
def test_task_that_cannot_be_answered_fails_with_its_code(
    bench: Workbench, given: dict[str, object], code: str, message: str
) -> None:
    task = bench.task(**given)  # type: ignore[arg-type]
    result = bench.run(task)
    expected = Failure(code=code, message=message, retryable=False)
    assert (result.state, result.failure) == (State.FAILURE, expected)
    assert (result.text, result.verdict, result.finish_reason) == (None, None, None)
    assert bench.stored(task) == result
    status = bench.status(task)
    assert (status.state, status.failure) == (State.FAILURE, expected)
    assert bench.engine.requests == []


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no picture", "not_an_image"),
        (encoded(Image.effect_noise((64, 64), 90), "PNG")[:-500], "image_truncated"),
        (encoded(Image.new("RGB", (1001, 1000)), "PNG"), "image_too_large"),
        (b"\0" * 1_000_001, "input_too_large"),
    ],
    ids=["text", "half a picture", "too many pixels", "too many bytes"],
)
def test_image_that_cannot_be_used_fails_the_task(
    bench: Workbench, content: bytes, code: str
) -> None:
    key = f"inputs/bad-{code}"
    bench.store.put(key, content)
    result = bench.run(bench.task(images=(DOT_REF, ImageRef(ref=key))))
    assert result.failure is not None
    assert (result.failure.code, result.failure.retryable) == (code, False)
    assert bench.engine.requests == []


def test_failure_says_how_far_the_task_came(bench: Workbench) -> None:
    result = bench.run(bench.task("guess"))
    assert result.kind == "guess"
    assert result.usage is None
    assert result.timings.queue_seconds is not None
    assert result.timings.fetch_seconds is None
    assert result.provenance.input_digests == ()
    assert (result.provenance.model, result.provenance.attempt) == ("scripted", 1)


@pytest.mark.parametrize(
    ("raised", "code"),
    [(ImageShapeError("too narrow"), "image_shape"), (PromptError("no tag"), "prompt_tags")],
)
def test_input_the_model_cannot_take_fails_with_its_sentence(
    bench_with: BenchWith, raised: Exception, code: str
) -> None:
    bench = bench_with(RaisingEngine(raised))
    failure = bench.run(bench.task()).failure
    assert failure == Failure(code=code, message=str(raised), retryable=False)


def test_chosen_number_of_tokens_must_fit_beside_the_prompt(bench_with: BenchWith) -> None:
    """The prompt takes 16 tokens, so 14 of 30 are left."""
    bench = bench_with(ScriptedEngine(max_context_tokens=30))
    fits = bench.run(bench.task(options=Options(max_new_tokens=14)))
    assert fits.state is State.SUCCESS
    task = bench.task(options=Options(max_new_tokens=15))
    result = bench.run(task)
    assert result.failure == Failure(
        code="prompt_too_long",
        message="prompt and images take 16 tokens; with 15 new ones they do not fit into 30",
        retryable=False,
    )
    assert result.usage == Usage(prompt_tokens=16, image_tokens=10, completion_tokens=0)
    assert len(bench.engine.requests) == 1


def test_default_number_of_tokens_is_cut_to_what_fits(bench_with: BenchWith) -> None:
    bench = bench_with(ScriptedEngine(max_context_tokens=30))
    assert bench.run(bench.task()).state is State.SUCCESS
    assert bench.engine.requests[0].max_new_tokens == 14


def test_prompt_that_fills_the_context_leaves_no_room_for_an_answer(
    bench_with: BenchWith,
) -> None:
    bench = bench_with(ScriptedEngine(max_context_tokens=16))
    failure = bench.run(bench.task()).failure
    assert failure is not None
    assert failure.code == "prompt_too_long"
    assert bench.engine.requests == []


class FullEngine(ScriptedEngine):
    """Its cache is smaller than its context."""

    def submit(self, request: Request) -> Handle:
        raise RequestTooLong("900 tokens do not fit into a cache of 512")


def test_prompt_that_the_cache_cannot_hold_is_too_long(bench_with: BenchWith) -> None:
    bench = bench_with(FullEngine())
    assert bench.run(bench.task()).failure == Failure(
        code="prompt_too_long",
        message="900 tokens do not fit into a cache of 512",
        retryable=False,
    )


@pytest.mark.parametrize("is_transient", [True, False])
def test_fault_of_the_model_is_retryable_when_it_is_transient(
    bench_with: BenchWith, is_transient: bool
) -> None:
    error = EngineError("the device ran out of memory", is_transient=is_transient)
    bench = bench_with(ScriptedEngine(error=error))
    task = bench.task()
    expected = Failure(
        code="model_error", message="the device ran out of memory", retryable=is_transient
    )
    assert bench.run(task).failure == expected
    assert bench.status(task).failure == expected


def test_fault_nobody_foresaw_fails_the_task_without_its_text(bench_with: BenchWith) -> None:
    bench = bench_with(RaisingEngine(ZeroDivisionError("hunter2")))
    task = bench.task()
    result = bench.run(task)
    expected = Failure(code="internal", message="the worker failed on this task", retryable=True)
    assert (result.state, result.failure) == (State.FAILURE, expected)
    assert bench.status(task).failure == expected
    assert b"hunter2" not in bench.store.get(task.result_key)
    assert "ZeroDivisionError" not in json.dumps(bench.stored_json(task))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidTask("images: Field required"), "invalid_task"),
        (UnknownKind("no kind 'x'"), "unknown_kind"),
    ],
)
def test_unreadable_message_becomes_a_failure_under_its_id(
    bench: Workbench, error: InvalidTask, code: str
) -> None:
    task = bench.task(is_submitted=False)
    result = bench.executor.refuse(task.id, error)
    assert not isinstance(result, State)
    assert bench.stored(task) == result
    assert (result.state, result.kind) == (State.FAILURE, "invalid")
    assert result.failure == Failure(code=code, message=str(error), retryable=False)
    status = bench.status(task)
    assert (status.state, status.failure) == (State.FAILURE, result.failure)


def test_unreadable_second_message_does_not_undo_an_answer(bench: Workbench) -> None:
    task = bench.task()
    answer = bench.run(task)
    assert bench.executor.refuse(task.id, InvalidTask("not JSON")) is State.SUCCESS
    assert bench.stored(task) == answer
    assert bench.state(task) is State.SUCCESS
