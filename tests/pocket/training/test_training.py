"""That steps teach what the lesson scores, and that a slice goes on where one ended."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional

from tests.support.lessons import CPU, asked_of_kind, pairs, singles, small_model, with_one_document
from visionq_worker.model.tiny import tiny_config
from visionq_worker.pocket.network import NUM_CROPS, is_unused, new_model, processor
from visionq_worker.pocket.training import state
from visionq_worker.pocket.training.batches import batch
from visionq_worker.pocket.training.examples import NUM_CLASSES, Example, example
from visionq_worker.pocket.training.lesson import Lesson
from visionq_worker.pocket.training.trainer import NUM_JUDGED, Curriculum, Trainer
from visionq_worker.pocket.world.level import LEVELS
from visionq_worker.pocket.world.samples import sample


@pytest.mark.parametrize("one", [asked_of_kind("detect"), with_one_document()])
def test_an_answer_with_other_edges_or_of_other_form_is_right(one: Example) -> None:
    """As the evaluation has it, which looks at labels and at values."""
    made = batch([one])
    (asked,) = made.asked
    lesson = Lesson(small_model())
    said = functional.one_hot(asked.answers, 576).float()
    classes = torch.zeros(5, 576, NUM_CLASSES)
    is_judged = asked.weights == 1
    other_form, other_value = said.roll(1, dims=1), said.clone()
    other_form[is_judged] = said[is_judged]
    first = int(is_judged.nonzero()[0])
    other_value[first] = 1 - said[first]
    rights = [
        lesson.outcome(scores, classes, made).right.tolist()
        for scores in (said, other_form, other_value)
    ]
    assert rights == [[True], [True], [False]]


def test_what_the_lesson_scores_is_what_the_model_would_say() -> None:
    """The likeliest tokens after each part of an answer, by the model's own forward."""
    model = small_model()
    examples = [example("cover", 1, 0), example("document", 2, 0)]
    scores, answers, counts = [], [], []
    with torch.no_grad():
        outcome = Lesson(model)(batch(examples))
        for one, (sort, seed) in zip(examples, (("cover", 1), ("document", 2)), strict=True):
            drawn = sample(sort, seed, LEVELS[0]).canvases[0].image
            inputs = processor()("<|image_1|>", [drawn], NUM_CROPS)
            for question in one.questions:
                said = model(
                    input_ids=torch.tensor([[*one.prefix, *question.prompt, *question.answer]]),
                    pixel_values=inputs.pixel_values,
                    image_sizes=inputs.image_sizes,
                ).logits[0]
                scores.append(said[-len(question.answer) - 1 : -1])
                answers.append(torch.tensor(question.answer))
                counts.append(torch.tensor(question.weights))
    assert len(answers) > len(examples), "some have a picture in common"
    wanted, said, weights = torch.cat(answers), torch.cat(scores), torch.cat(counts)
    losses = functional.cross_entropy(said, wanted, reduction="none")
    torch.testing.assert_close(outcome.answer_loss, (losses * weights).sum() / weights.sum())
    errors = (said.argmax(dim=1) != wanted)[weights == 1].float().mean()
    torch.testing.assert_close(outcome.token_errors, errors)
    assert outcome.right.tolist() == [False] * len(answers)


def test_steps_on_the_same_batch_teach_it() -> None:
    trainer = Trainer(small_model(), CPU)
    one, two = singles(), pairs()
    losses = []
    for _ in range(9):
        single, pair = trainer.learn(one, two, rate=20.0)  # the rate is still warming up
        losses.append([single.answer_loss, single.patch_loss, pair.answer_loss])
    for first, last in zip(losses[0], losses[-1], strict=True):
        assert last < 0.95 * first


def test_a_frozen_tower_stays_as_it_is_and_can_thaw(tmp_path: Path) -> None:
    model = small_model()
    begun = {name: weights.detach().clone() for name, weights in model.named_parameters()}
    trainer = Trainer(model, CPU, freezes_tower=True)
    one, two = singles(), pairs()
    first = trainer.learn(one, two, rate=20.0)
    for _ in range(6):
        last = trainer.learn(trainer.prepared(one), trainer.prepared(two), rate=20.0)
    assert last[0].answer_loss < 0.95 * first[0].answer_loss
    assert last[0].patch_loss == first[0].patch_loss, "its head for patches stays, too"
    changed = {name for name, kept in trainer.weights().items() if not kept.equal(begun[name])}
    assert changed
    assert not any(".img_processor." in name for name in changed)
    trainer.save(tmp_path / "state")
    whole = Trainer(new_model(1, tiny_config()), CPU)
    whole.load(tmp_path / "state")
    for name, weights in trainer.weights().items():
        assert whole.weights()[name].equal(weights), name
    whole.learn(one, two, rate=1.0)
    moved = {
        name: float((weights - begun[name]).abs().max())
        for name, weights in whole.weights().items()
        if ".img_processor." in name and not is_unused(name, model.config)
    }
    assert all(0 < far < 1e-3 for far in moved.values()), "it moves, at the warm-up's pace"


def test_what_a_frozen_tower_sees_is_kept_and_teaches_the_same() -> None:
    trainer = Trainer(small_model(), CPU, freezes_tower=True)
    one = singles()
    seen = trainer.prepared(one)
    assert seen.features is not None
    assert not len(seen.pixels)
    assert seen.num_pictures == one.num_pictures
    with torch.no_grad():
        before, after = trainer.lesson(one), trainer.lesson(seen)
    assert before.answer_loss == after.answer_loss
    thawed = Trainer(small_model(), CPU)
    assert thawed.prepared(one) is one, "what it sees changes with every step"


def test_it_can_be_taught_in_bfloat16() -> None:
    trainer = Trainer(small_model(), CPU, dtype=torch.bfloat16)
    one, two = singles(), pairs()
    losses = [trainer.learn(one, two, rate=20.0)[0].answer_loss for _ in range(7)]
    assert losses[-1] < 0.97 * losses[0]
    assert {weights.dtype for weights in trainer.weights().values()} == {torch.float32}


def test_a_slice_goes_on_where_another_has_ended(tmp_path: Path) -> None:
    first, second = Trainer(small_model(), CPU), Trainer(new_model(1, tiny_config()), CPU)
    one, two = singles(), pairs()
    for _ in range(4):
        before, _ = first.learn(one, two, rate=20.0)
    first.save(tmp_path / "state")
    second.load(tmp_path / "state")
    assert second.facts == first.facts
    for name, weights in first.weights().items():
        assert second.weights()[name].equal(weights), name
    losses = [second.learn(one, two, rate=20.0)[0].answer_loss for _ in range(3)]
    assert losses[0] < before.answer_loss
    assert losses[-1] < losses[0], "with the right moments, steps have the right size"


def test_a_state_is_in_files_that_can_travel(tmp_path: Path) -> None:
    tensors = {f"{number}": torch.zeros(1_000_000) for number in range(9)}
    state.save(tmp_path / "state", tensors, state.Facts(steps=3))
    files = sorted((tmp_path / "state").iterdir())
    assert len(files) == 1 + 3
    assert all(file.stat().st_size <= state.MAX_FILE_BYTES + 10_000 for file in files)
    found, facts = state.load(tmp_path / "state")
    assert facts.steps == 3
    assert sorted(found) == sorted(tensors)


def test_a_state_that_was_being_replaced_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    state.save(folder, {"one": torch.ones(1)}, state.Facts(steps=3))
    folder.rename(tmp_path / "state.old")  # where a save was killed between its two renames
    assert state.is_there(folder)
    assert state.load(folder)[1].steps == 3


def test_the_next_level_begins_when_enough_is_answered() -> None:
    curriculum = Curriculum()
    made = singles()
    for number in range(NUM_JUDGED):
        curriculum.judge(made, [False, False, number % 2 == 0])
    assert curriculum.level == 0, "a sixth is not enough"
    for _ in range(NUM_JUDGED):
        curriculum.judge(made, [True] * 3)
    assert curriculum.level == 1
    for _ in range(NUM_JUDGED):
        curriculum.judge(made, [True] * 3)
    assert curriculum.level == 1, "these are of the level before"
