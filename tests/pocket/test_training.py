"""The trainer: what a batch holds, that it teaches, and that a slice goes on where one ended."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional

from visionq.contract import ImageRef, Options, Task
from visionq.kinds import BUILTIN_KINDS
from visionq_worker.kinds import render
from visionq_worker.model.config import Phi3VConfig
from visionq_worker.model.geometry import PATCH_PX, TILE_PX
from visionq_worker.model.phi3v import Phi3VForCausalLM
from visionq_worker.model.pixels import Picture, views_of
from visionq_worker.model.small import special_id
from visionq_worker.model.tiny import tiny_config
from visionq_worker.model.weights import load_model
from visionq_worker.pocket import CHECKPOINT, revision, revision_of
from visionq_worker.pocket.network import (
    NUM_CROPS,
    SIDE_PX,
    is_unused,
    new_model,
    pocket_config,
    processor,
    write_pocket,
)
from visionq_worker.pocket.text import answer_ids, tokenizer
from visionq_worker.pocket.training import state
from visionq_worker.pocket.training.__main__ import main
from visionq_worker.pocket.training.examples import (
    FIRST_TRAINING_SEED,
    NOTHING,
    NUM_CLASSES,
    THINGS,
    Batch,
    batch,
    example,
    shown,
)
from visionq_worker.pocket.training.lesson import Lesson, views
from visionq_worker.pocket.training.supply import Supply
from visionq_worker.pocket.training.trainer import NUM_JUDGED, Curriculum, Trainer
from visionq_worker.pocket.world.level import HARDEST, LEVELS, LONGER_SIDE_PX
from visionq_worker.pocket.world.samples import SORTS, sample

CPU = torch.device("cpu")
HARD = LEVELS.index(HARDEST)


def small_model() -> Phi3VForCausalLM:
    """Of the tokens that the pocket model has, and much quicker."""
    return new_model(0, tiny_config())


def singles() -> Batch:
    return batch([example("cover", 1, 0), example("table", 2, 0)])


def pairs() -> Batch:
    return batch([example("pair", 3, 0)])


@pytest.mark.parametrize("sort", SORTS)
def test_targets_are_the_answer_and_its_end(sort: str) -> None:
    made = batch([example(sort, 5, HARD)])
    wanted = [*answer_ids(sample(sort, 5).answer), special_id("end")]
    assert made.answers.tolist() == wanted
    # Each is asked of the token before it.
    assert made.ids[0][made.asked + 1].tolist() == wanted


def test_each_task_of_a_batch_has_its_own_answer() -> None:
    made = batch([example("cover", 1, HARD), example("table", 2, HARD)])
    for number, (sort, seed) in enumerate([("cover", 1), ("table", 2)]):
        own = made.answers[made.tasks == number].tolist()
        assert own == [*answer_ids(sample(sort, seed).answer), special_id("end")]
        assert made.ids.flatten()[made.asked[made.tasks == number] + 1].tolist() == own


@pytest.mark.parametrize("sort", SORTS)
def test_the_prompt_is_what_the_service_would_give_the_model(sort: str) -> None:
    made = example(sort, 5, HARD)
    said = tokenizer().decode(made.prompt, skip_special_tokens=False)
    assert said.endswith("<|end|> \n<|assistant|>")
    drawn = sample(sort, 5)
    assert made.prompt.count(special_id("image")) == len(drawn.canvases) * 757
    task = Task(
        id=str(UUID(int=0)),
        kind=drawn.kind,
        images=(ImageRef(ref="inputs/a"),) * len(drawn.canvases),
        question=drawn.question,
        options=Options(schema=drawn.schema),
    )
    prompt = render(task, BUILTIN_KINDS[drawn.kind], NUM_CROPS)
    pictures = [canvas.image for canvas in drawn.canvases]
    wanted = processor()(prompt.text, pictures, prompt.num_crops).input_ids
    assert made.prompt == wanted[0].tolist()


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
    made = next(one for seed in range(9) if (one := example("scene", seed, HARD)).kind == "detect")
    light = tokenizer().decode(
        [token for token, weight in zip(made.answer, made.weights, strict=True) if weight < 1]
    )
    heavy = tokenizer().decode(
        [token for token, weight in zip(made.answer, made.weights, strict=True) if weight == 1]
    )
    assert light.isdigit()
    assert not any(letter.isdigit() for letter in heavy)
    assert set(example("chart", 1, HARD).weights) == {1.0}


def test_an_answer_with_other_edges_is_right() -> None:
    """As the evaluation has it, which looks at the labels."""
    made = batch(
        [next(one for seed in range(9) if (one := example("scene", seed, 0)).kind == "detect")]
    )
    lesson = Lesson(small_model())
    said = functional.one_hot(made.answers, 576).float()
    classes = torch.zeros(5, 576, NUM_CLASSES)
    is_edge = made.weights < 1
    other_edges, other_label = said.roll(1, dims=1), said.clone()
    other_edges[~is_edge] = said[~is_edge]
    other_label[0] = 1 - said[0]
    rights = [
        lesson.outcome(scores, classes, made).right.tolist()
        for scores in (said, other_edges, other_label)
    ]
    assert rights == [[True], [True], [False]]


def test_what_the_lesson_scores_is_what_the_model_would_say() -> None:
    """The likeliest tokens after each part of the answer, by the model's own forward."""
    model, made = small_model(), example("cover", 1, 0)
    drawn = sample("cover", 1, LEVELS[0]).canvases[0].image
    inputs = processor()("<|image_1|>", [drawn], NUM_CROPS)
    one = batch([made])
    with torch.no_grad():
        outcome = Lesson(model)(one)
        said = model(
            input_ids=one.ids, pixel_values=inputs.pixel_values, image_sizes=inputs.image_sizes
        ).logits
    scores = said[0, one.asked]
    loss = torch.nn.functional.cross_entropy(scores, one.answers)
    torch.testing.assert_close(outcome.answer_loss, loss)
    errors = (scores.argmax(dim=1) != one.answers).float().mean()
    torch.testing.assert_close(outcome.token_errors, errors)
    assert outcome.right.tolist() == [False]


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
        last = trainer.learn(one, two, rate=20.0)
    assert last[0].answer_loss < 0.95 * first[0].answer_loss
    assert last[0].patch_loss < first[0].patch_loss, "the head for patches goes on"
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


def test_a_cast_of_the_whole_model_changes_no_angle() -> None:
    """A frequency that is rounded in training and exact in use is a radian after 1,000 tokens."""
    exact = new_model(0).model.rotary_emb.inv_freq
    cast = new_model(0).bfloat16().model.rotary_emb.inv_freq.float()
    assert (1500 * (exact - cast)).abs().max() < 1e-3


def test_the_shipped_checkpoint_is_of_the_shape_that_is_trained() -> None:
    config = Phi3VConfig(**json.loads((CHECKPOINT / "config.json").read_text()))
    assert config.to_dict() == Phi3VConfig(**pocket_config()).to_dict()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_whatever_changes_answers_changes_the_revision(tmp_path: Path, name: str) -> None:
    """Results are reused by it."""
    folder = tmp_path / "checkpoint"
    shutil.copytree(CHECKPOINT, folder)
    assert revision_of(folder) == revision()
    (folder / "README.md").write_text("another card")
    assert revision_of(folder) == revision()
    (folder / name).write_bytes((folder / name).read_bytes() + b" ")
    assert revision_of(folder) != revision()


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


def test_the_next_level_begins_when_enough_is_answered() -> None:
    curriculum = Curriculum()
    made = singles()
    for number in range(NUM_JUDGED):
        curriculum.judge(made, [False, number % 3 == 0])
    assert curriculum.level == 0, "a sixth is not enough"
    for _ in range(NUM_JUDGED):
        curriculum.judge(made, [True, True])
    assert curriculum.level == 1
    for _ in range(NUM_JUDGED):
        curriculum.judge(made, [True, True])
    assert curriculum.level == 1, "these are of the level before"


def test_a_checkpoint_is_loaded_by_the_code_that_loads_any(tmp_path: Path) -> None:
    model = new_model(0)
    write_pocket(tmp_path, model.state_dict())
    loaded = load_model(
        str(tmp_path), revision=None, device="cpu", dtype="bfloat16", attention="sdpa"
    )
    assert (tmp_path / "model.safetensors").stat().st_size <= 20_000_000
    assert loaded.processor.max_num_crops == NUM_CROPS
    for name, weights in model.state_dict().items():
        assert loaded.model.state_dict()[name].equal(weights.bfloat16())


def program(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "visionq_worker.pocket.training", *arguments],
        check=False,
        capture_output=True,
        text=True,
    )


def test_the_program_begins_keeps_and_writes(tmp_path: Path) -> None:
    folder, checkpoint = tmp_path / "state", tmp_path / "checkpoint"
    flags = ["--steps=1", "--singles=1", "--pairs=1", "--processes=0", "--device=cpu"]
    flags += ["--sorts=scene=1", "--rate=0.5", "--dtype=bfloat16", "--freeze-tower"]
    done = program(
        folder, *flags, f"--begin-from={CHECKPOINT}", "--level=3", f"--write={checkpoint}"
    )
    assert done.returncode == 0, done.stderr
    kept, facts = state.load(folder)
    assert (facts.steps, facts.level, facts.pictures) == (1, 3, 1 + 2)
    begun, written = (load_file(one / "model.safetensors") for one in (CHECKPOINT, checkpoint))
    left = {name for name in written if f"weights.{name_of(name)}" not in kept}
    assert left == {name for name in written if is_unused(name, Phi3VConfig(**pocket_config()))}
    for name in written.keys() - left:
        assert written[name].equal(kept[f"weights.{name_of(name)}"].bfloat16()), name
        if ".img_processor." in name:
            assert written[name].equal(begun[name]), name
        # A step of the warm-up does not go far from where it began.
        assert (written[name].float() - begun[name].float()).abs().max() < 0.05, name


def test_the_program_writes_the_mean_of_before_and_after(tmp_path: Path) -> None:
    folder, checkpoint = tmp_path / "state", tmp_path / "checkpoint"
    flags = ["--steps=1", "--singles=1", "--pairs=1", "--processes=0", "--device=cpu", "--mean"]
    done = program(folder, *flags, f"--begin-from={CHECKPOINT}", f"--write={checkpoint}")
    assert done.returncode == 0, done.stderr
    begun, written = (load_file(one / "model.safetensors") for one in (CHECKPOINT, checkpoint))
    kept, _ = state.load(folder)
    name = "model.layers.0.mlp.down_proj.weight"
    mean = (begun[name].float() + kept[f"weights.{name_of(name)}"]) / 2
    assert written[name].equal(mean.bfloat16())


def name_of(name: str) -> str:
    """In the state, which has the head for patches beside the model."""
    return f"model.{name}"


@pytest.mark.parametrize(
    ("flags", "trouble"),
    [
        ([], "say how long"),
        (["--steps=1", "--level=9"], "invalid choice: 9"),
        (["--steps=1", "--sorts=poem=1"], "'poem' is no sort of one picture: cover, "),
        (["--steps=1", "--sorts=cover=1,scene"], "scene needs a share"),
        (["--steps=1", "--sorts=cover=0"], "a share is a number above 0"),
        (["--steps=1", "--sorts=cover=nan"], "a share is a number above 0"),
        (["--steps=1", "--sorts=cover=1,cover=2"], "cover is there twice"),
        (["--steps=1", "--rate=2"], "2 is not from 0 to 1"),
        (["--steps=1", "--easier=-1"], "-1 is not from 0 to 1"),
        (["--only-write"], "--only-write needs --write"),
        (["--only-write", "--write=there"], "--only-write needs --write, and a state"),
    ],
)
def test_the_program_says_what_is_missing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    flags: list[str],
    trouble: str,
) -> None:
    monkeypatch.setattr(sys, "argv", ["training", str(tmp_path / "state"), *flags])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert trouble in capsys.readouterr().err
    assert not (tmp_path / "state").exists()


def test_a_state_that_was_being_replaced_is_found_again(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    state.save(folder, {"one": torch.ones(1)}, state.Facts(steps=3))
    folder.rename(tmp_path / "state.old")  # where a save was killed between its two renames
    assert state.is_there(folder)
    assert state.load(folder)[1].steps == 3


@pytest.mark.parametrize("processes", [0, 1])
def test_what_ends_the_drawing_ends_the_trainer(processes: int) -> None:
    supply = Supply(
        {"cover": 1.0},
        1,
        first_seed=FIRST_TRAINING_SEED,
        level=len(LEVELS),  # there is none
        easier=0.0,
        processes=processes,
        reuses=True,
        device=CPU,
    )
    with pytest.raises(IndexError):
        supply.next()


def test_a_supply_gives_what_is_wanted_and_easier_ones() -> None:
    supply = Supply(
        {"cover": 1.0, "table": 1.0},
        8,
        first_seed=FIRST_TRAINING_SEED,
        level=2,
        easier=1.0,
        processes=0,
        reuses=False,
        device=CPU,
    )
    made, _ = supply.next()
    assert set(made.sorts) == {"cover", "table"}
    assert set(made.levels) == {0, 1}


def test_a_supply_that_may_reuse_gives_fresh_batches_first() -> None:
    supply = Supply(
        {"scene": 1.0},
        2,
        first_seed=FIRST_TRAINING_SEED,
        level=0,
        easier=0.0,
        processes=1,
        reuses=True,
        device=CPU,
    )
    first, is_fresh = supply.next()
    assert is_fresh
    wanted = batch([example("scene", FIRST_TRAINING_SEED + number, 0) for number in range(2)])
    assert first.ids.equal(wanted.ids)
    assert first.pixels.equal(wanted.pixels)
