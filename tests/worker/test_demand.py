"""A client's bounds of a prompt hold for the prompt that the worker makes of the task."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.support.tiny import tiny_model
from visionq.contract import ImageRef, Options, Task
from visionq.estimates import demand
from visionq.image_tokens import num_image_tokens
from visionq.kinds import BUILTIN_KINDS, Kind
from visionq_worker.errors import TaskError
from visionq_worker.kinds import render

TASK_ID = "00000000-0000-4000-8000-000000000001"
ANY = Kind(max_images=64)
SCHEMAS: list[dict[str, Any] | None] = [None, {"type": "object", "properties": {"größe": {}}}]


def num_text_tokens(task: Task, kind: Kind) -> int:
    sizes = [(640, 480)] * len(task.images)
    prompt = render(task, kind)
    total = tiny_model().processor.num_prompt_tokens(prompt.text, sizes, prompt.num_crops)
    return total - sum(num_image_tokens(*size, prompt.num_crops) for size in sizes)


@given(
    question=st.text(st.characters(codec="utf-8"), max_size=300),
    num_images=st.integers(1, 5),
    schema=st.sampled_from(SCHEMAS),
)
@example(question="</s>" + " " * 300, num_images=1, schema=None)
@example(question="falls below a red square. " * 40, num_images=3, schema=None)
@example(question="", num_images=1, schema=None)
@settings(max_examples=60, deadline=None)
def test_the_text_has_no_fewer_and_no_more_tokens(
    question: str, num_images: int, schema: dict[str, Any] | None
) -> None:
    task = Task(
        id=TASK_ID,
        kind="any",
        images=tuple(ImageRef(ref=f"inputs/{number}") for number in range(num_images)),
        question=question,
        options=replace(Options(), reuse=True),
    )
    object.__setattr__(task.options, "schema", schema)  # a schema that need not be carried out
    try:
        found = num_text_tokens(task, ANY)
    except TaskError:
        return  # a tag of the model's
    asked = demand(task, ANY, num_images)
    assert asked.min_text_tokens <= found <= asked.max_text_tokens


@pytest.mark.parametrize("name", BUILTIN_KINDS)
def test_crops_and_new_tokens_are_those_of_the_prompt(name: str) -> None:
    kind = BUILTIN_KINDS[name]
    images = (ImageRef(ref="inputs/a"),) * kind.max_images
    task = Task(id=TASK_ID, kind=name, images=images, question="Which?")
    prompt, asked = render(task, kind), demand(task, kind, len(images))
    assert (asked.num_crops, asked.max_new_tokens, asked.is_max_chosen) == (
        prompt.num_crops,
        prompt.max_new_tokens,
        prompt.is_max_chosen,
    )
    assert asked.words in prompt.text
