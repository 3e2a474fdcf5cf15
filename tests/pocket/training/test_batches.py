"""What a batch of the trainer holds: the service's pixels and prompts, answers, patches."""

from __future__ import annotations

import json
from uuid import UUID

import pytest
import torch

from tests.support.lessons import HARD, answers_of, asked_of_kind
from visionq.contract import ImageRef, Options, Task
from visionq.kinds import BUILTIN_KINDS
from visionq_worker.kinds import render
from visionq_worker.model.geometry import PATCH_PX, TILE_PX
from visionq_worker.model.pixels import Picture, views_of
from visionq_worker.model.small import special_id
from visionq_worker.pocket.network import NUM_CROPS, SIDE_PX, processor
from visionq_worker.pocket.text import answer_ids, tokenizer
from visionq_worker.pocket.training.batches import batch
from visionq_worker.pocket.training.examples import FORM_WEIGHT, NOTHING, THINGS, example, shown
from visionq_worker.pocket.training.lesson import views
from visionq_worker.pocket.world.level import LONGER_SIDE_PX
from visionq_worker.pocket.world.samples import SORTS, sample, samples


@pytest.mark.parametrize("sort", SORTS)
def test_targets_are_the_answers_and_their_ends(sort: str) -> None:
    made = batch([example(sort, 5, HARD)])
    wanted = [[*answer_ids(one.answer), special_id("end")] for one in samples(sort, 5)]
    assert sorted(answers_of(made)) == sorted(wanted)
    for asked in made.asked:
        assert asked.ids.flatten()[asked.before + 1].equal(asked.answers), "each is asked before it"


def test_each_question_of_a_batch_has_its_own_answer_and_pictures() -> None:
    examples = [example("cover", 1, HARD), example("document", 2, HARD), example("table", 3, HARD)]
    made = batch(examples)
    rows = torch.cat([asked.of for asked in made.asked]).tolist()
    answers = answers_of(made)
    assert len(made.asked) > 1, "short and long ones are apart"
    for number, one in enumerate(examples):
        assert made.prefixes[number].tolist() == one.prefix
        own = [task for task, row in enumerate(rows) if row == number]
        assert {made.sorts[task] for task in own} == {one.sort}
        assert sorted((made.kinds[task], answers[task]) for task in own) == sorted(
            (question.kind, question.answer) for question in one.questions
        )


@pytest.mark.parametrize("sort", SORTS)
def test_the_prompts_are_what_the_service_would_give_the_model(sort: str) -> None:
    made = example(sort, 5, HARD)
    for question, drawn in zip(made.questions, samples(sort, 5), strict=True):
        prompt = [*made.prefix, *question.prompt]
        said = tokenizer().decode(prompt, skip_special_tokens=False)
        assert said.endswith("<|end|> \n<|assistant|>")
        assert prompt.count(special_id("image")) == len(drawn.canvases) * 757
        task = Task(
            id=str(UUID(int=0)),
            kind=drawn.kind,
            images=(ImageRef(ref="inputs/a"),) * len(drawn.canvases),
            question=drawn.question,
            options=Options(schema=drawn.schema),
        )
        rendered = render(task, BUILTIN_KINDS[drawn.kind], NUM_CROPS)
        pictures = [canvas.image for canvas in drawn.canvases]
        wanted = processor()(rendered.text, pictures, rendered.num_crops).input_ids
        assert prompt == wanted[0].tolist()


@pytest.mark.parametrize("sort", SORTS)
def test_pixels_become_the_views_that_the_service_makes(sort: str) -> None:
    made = example(sort, 6, HARD)
    pictures = [Picture.of(one.image, NUM_CROPS) for one in sample(sort, 6).canvases]
    torch.testing.assert_close(views(torch.from_numpy(made.pixels)), views_of(pictures))


def test_no_picture_is_resized() -> None:
    assert LONGER_SIDE_PX == SIDE_PX


def test_patches_show_the_letters_that_stand_on_them() -> None:
    (canvas,) = sample("cover", 7).canvases
    classes = shown(canvas).reshape(5, 24, 24)
    left = (2 * TILE_PX - canvas.image.width) / 2
    seen = 0
    for number, tile in enumerate(classes[1:]):
        for row, column in zip(*tile.nonzero(), strict=True):
            x = (column + 0.5) * PATCH_PX + TILE_PX * (number % 2) - left
            y = (row + 0.5) * PATCH_PX + TILE_PX * (number // 2)
            there = {
                mark.what
                for mark in canvas.marks
                if mark.box[0] - 1 <= x <= mark.box[2] + 1
                and mark.box[1] - 1 <= y <= mark.box[3] + 1
            }
            assert THINGS[tile[row, column] - 1] in there
            seen += 1
    assert seen > 10
    assert (classes[0] != NOTHING).any(), "the global view has them, too"


def test_edges_of_boxes_hardly_count_and_labels_do() -> None:
    (question,) = asked_of_kind("detect").questions
    light, heavy = (
        tokenizer().decode(
            [
                token
                for token, weight in zip(question.answer, question.weights, strict=True)
                if (weight < 1) is is_light
            ]
        )
        for is_light in (True, False)
    )
    assert light.isdigit()
    assert not any(letter.isdigit() for letter in heavy)
    (question,) = example("chart", 1, HARD).questions
    assert set(question.weights) == {1.0}


@pytest.mark.parametrize("seed", range(6))
def test_what_a_schema_leaves_no_choice_about_hardly_counts(seed: int) -> None:
    for drawn, question in zip(
        samples("document", seed), example("document", seed, HARD).questions, strict=True
    ):
        *said, end = zip(question.answer, question.weights, strict=True)
        assert end == (special_id("end"), FORM_WEIGHT)
        counted = tokenizer().decode([token for token, weight in said if weight == 1])
        assert drawn.schema is not None
        keys, required = [*drawn.value], drawn.schema.get("required", [])
        expected = ""
        for number, key in enumerate(keys, 1):
            may_be_null = "anyOf" in drawn.schema["properties"][key]
            written = json.dumps(drawn.value[key])
            expected += f'"{key}": {written}' if may_be_null else written.removeprefix('"')
            rest = {*keys[number:]}
            expected += ", " if rest and rest.isdisjoint(required) else ""
        assert counted == expected
