"""`python -m visionq_worker.pocket.training STATE`: train the pocket model for a while.

Goes on from the state that is there, or begins one. Each slice ends after `--seconds` or `--steps`,
or when it is interrupted, and leaves its state in files of 15 MB at most: carry them anywhere and
go on there. The last slice gets `--cool-down`, which lets the learning rate fall to nothing, and
`--write FOLDER` for the checkpoint.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import click
import torch
from safetensors.torch import load_file

from visionq_worker.pocket.network import new_model, write_pocket
from visionq_worker.pocket.training import state
from visionq_worker.pocket.training.batches import (
    EASIER,
    FIRST_TRAINING_SEED,
    PAIRS,
    SINGLE_SORTS,
    Batch,
)
from visionq_worker.pocket.training.lesson import Outcome
from visionq_worker.pocket.training.supply import Supply
from visionq_worker.pocket.training.trainer import Curriculum, Scores, Trainer
from visionq_worker.pocket.world.fonts import faces
from visionq_worker.pocket.world.level import LEVELS

SEEDS_OF_A_SLICE = 100_000_000
"""Each slice, and each sort of batch in it, has seeds of its own."""
REPORT_STEPS = 50
INTERRUPTED = 130
"""The exit code then, as of any program that is."""
SAVE_SECONDS = 150.0
BEGAN = perf_counter()
"""Importing and drawing the first pictures is part of a slice's time."""


def main() -> int:
    wanted = _read_arguments()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    device = torch.device(wanted.device)
    torch.manual_seed(wanted.seed)
    model = new_model(wanted.seed)
    if wanted.begin_from:
        model.load_state_dict(load_file(wanted.begin_from / "model.safetensors"))
    trainer = Trainer(
        model,
        device,
        dtype=getattr(torch, wanted.dtype or ("bfloat16" if device.type == "cuda" else "float32")),
        freezes_tower=wanted.freeze_tower,
    )
    if state.is_there(wanted.state):
        trainer.load(wanted.state)
    if wanted.level is not None:
        trainer.facts.level = wanted.level
    if wanted.compile:
        _compile(trainer)
    if not wanted.only_write:
        try:
            _train(trainer, wanted)
        except KeyboardInterrupt:
            _save(trainer, wanted.state)
            click.echo("interrupted: the state is kept, and nothing else is written")
            return INTERRUPTED
        _save(trainer, wanted.state)
    if wanted.write:
        weights = trainer.weights()
        if wanted.mean_with:
            others = load_file(wanted.mean_with / "model.safetensors")
            share = 0.5 if wanted.share is None else wanted.share
            for name, one in weights.items():
                weights[name] = torch.lerp(others[name].to(one), one, share)
        write_pocket(wanted.write, weights)
    return 0


def _save(trainer: Trainer, folder: Path) -> None:
    """Not to be interrupted."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    trainer.save(folder)


def _train(trainer: Trainer, wanted: argparse.Namespace) -> None:
    facts, curriculum, scores = trainer.facts, Curriculum(trainer.facts.level), Scores()
    supplies = _supplies(trainer, wanted)
    first_step, began, reported, saved = facts.steps, perf_counter(), perf_counter(), perf_counter()
    before = facts.seconds.get(_device_name(trainer.device), 0.0)
    learnt: list[tuple[Batch, Outcome]] = []
    num_fresh = 0
    while (done := _share_done(facts.steps - first_step, wanted)) < 1:
        drawn = [supply.next() for supply in supplies]
        rate = wanted.rate * (1 - done if wanted.cool_down else 1.0)
        outcomes = trainer.learn(drawn[0][0], drawn[1][0], rate)
        # Read one step late: the device has the next step to do meanwhile.
        num_fresh += _count(facts, curriculum, scores, learnt)
        learnt = [
            (batch, outcome)
            for (batch, is_fresh), outcome in zip(drawn, outcomes, strict=True)
            if is_fresh
        ]
        if curriculum.level != facts.level:
            facts.level = curriculum.level
            for supply in supplies:
                supply.set_level(facts.level)
        now = perf_counter()
        facts.seconds[_device_name(trainer.device)] = before + now - began
        if (facts.steps - first_step) % REPORT_STEPS == 0:
            _report(trainer, outcomes, scores, num_fresh, now - reported)
            scores, num_fresh, reported = Scores(), 0, perf_counter()
            # Only now: what has been reported is a number.
            if now - saved > SAVE_SECONDS:
                trainer.save(wanted.state)
                saved = perf_counter()
    _count(facts, curriculum, scores, learnt)
    facts.level = curriculum.level


def _count(
    facts: state.Facts, curriculum: Curriculum, scores: Scores, learnt: list[tuple[Batch, Outcome]]
) -> int:
    """What fresh batches came to. Returns how many tasks they had."""
    num_tasks = 0
    for batch, outcome in learnt:
        right = outcome.right.tolist()
        curriculum.judge(batch, right)
        scores.add(batch, right)
        num_tasks += len(right)
        facts.pictures += batch.num_pictures
    return num_tasks


def _share_done(steps: int, wanted: argparse.Namespace) -> float:
    by_steps = steps / wanted.steps if wanted.steps else 0.0
    by_time = (perf_counter() - BEGAN) / wanted.seconds if wanted.seconds else 0.0
    return max(by_steps, by_time)


def _supplies(trainer: Trainer, wanted: argparse.Namespace) -> tuple[Supply, Supply]:
    seed = max(trainer.facts.next_seed, FIRST_TRAINING_SEED)
    trainer.facts.next_seed = seed + 2 * SEEDS_OF_A_SLICE
    # One process cannot draw for both.
    processes = wanted.processes if wanted.processes > 1 else 0
    of_pairs = max(1, processes // 6) if processes else 0
    plans: tuple[Any, Any] = (
        (wanted.sorts, wanted.singles, processes - of_pairs),
        (PAIRS, wanted.pairs, of_pairs),
    )
    first, second = (
        Supply(
            sorts,
            size,
            first_seed=seed + number * SEEDS_OF_A_SLICE,
            level=trainer.facts.level,
            easier=wanted.easier,
            processes=processes,
            reuses=wanted.reuse,
            device=trainer.device,
            passes=wanted.passes,
            prepare=trainer.prepared,
        )
        for number, (sorts, size, processes) in enumerate(plans)
    )
    return first, second


def _report(
    trainer: Trainer,
    outcomes: tuple[Outcome, Outcome],
    scores: Scores,
    num_fresh: int,
    seconds: float,
) -> None:
    single, pair = outcomes
    if not (single.answer_loss + pair.answer_loss).isfinite():
        raise FloatingPointError("the loss is no number any more: go on from the state kept last")
    facts = trainer.facts
    # The head for patches is not in a checkpoint: beside a frozen tower it says nothing.
    patches = (
        ""
        if trainer.freezes_tower
        else (
            f"of patches {single.patch_loss:.3f} and {pair.patch_loss:.3f}, "
            f"misread {single.patch_errors:.1%}; "
        )
    )
    click.echo(
        f"{perf_counter() - BEGAN:4.0f} s, step {facts.steps}, {facts.pictures} pictures, "
        f"level {facts.level}, {REPORT_STEPS / seconds:.1f} steps/s, {num_fresh / seconds:.0f} "
        f"fresh tasks/s; loss {single.answer_loss:.3f} and {pair.answer_loss:.3f}, "
        f"wrong tokens {single.token_errors:.1%}; {patches}exact: {scores}"
    )


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _compile(trainer: Trainer) -> None:
    """The layers, one by one: as they are alike, each shape is compiled once."""
    torch._dynamo.config.suppress_errors = True  # noqa: SLF001
    model = trainer.lesson.model.model
    tower: Any = model.vision_embed_tokens.img_processor.vision_model
    # Of the decoder on a GPU alone: a CPU gains a tenth, and each length is compiled anew. They are
    # alike but for their number, which makes each one's code its own.
    torch._dynamo.config.recompile_limit = 8 * len(model.layers)  # noqa: SLF001
    on_gpu = model.layers if trainer.device.type == "cuda" else ()
    for layer in (*tower.encoder.layers[:-1], *on_gpu):
        layer.compile()


def _up_to_1(text: str) -> float:
    """Raises `ValueError` and `ArgumentTypeError`, which argparse reports."""
    if not 0 <= (share := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return share


def _shares(text: str) -> dict[str, float]:
    """Raises `ArgumentTypeError`."""
    shares = {}
    for part in text.split(","):
        sort, _, share = part.partition("=")
        if sort not in SINGLE_SORTS:
            known = ", ".join(SINGLE_SORTS)
            raise argparse.ArgumentTypeError(f"{sort!r} is no sort of one picture: {known}")
        if sort in shares:
            raise argparse.ArgumentTypeError(f"{sort} is there twice")
        try:
            shares[sort] = float(share)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{sort} needs a share, as in {sort}=0.3") from None
    if not all(0 < share < math.inf for share in shares.values()):
        raise argparse.ArgumentTypeError("a share is a number above 0")
    return shares


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m visionq_worker.pocket.training")
    parser.description = __doc__
    parser.add_argument("state", type=Path, help="folder of the state, made if it is not there")
    parser.add_argument("--seconds", type=float, help="length of this slice")
    parser.add_argument("--steps", type=int, help="length of this slice")
    parser.add_argument("--cool-down", action="store_true", help="the last slice: rate to nothing")
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="the checkpoint, at the end")
    parser.add_argument(
        "--mean-with",
        type=Path,
        metavar="FOLDER",
        help="write the mean of the weights and a checkpoint's, such as the one it began from",
    )
    parser.add_argument(
        "--share", type=_up_to_1, help="of the weights themselves in that mean (default: 0.5)"
    )
    parser.add_argument(
        "--begin-from", type=Path, metavar="FOLDER", help="a checkpoint, where there is no state"
    )
    parser.add_argument("--only-write", action="store_true", help="without training")
    parser.add_argument(
        "--rate", type=_up_to_1, default=1.0, help="of learning, as a share of the highest"
    )
    parser.add_argument(
        "--freeze-tower",
        action="store_true",
        help="train all but the tower and its head for patches",
    )
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        help="to compute in (default: bfloat16 on a GPU, else float32)",
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default)
    parser.add_argument(
        "--level",
        type=int,
        choices=range(len(LEVELS)),
        help="of the pictures, if not the one reached",
    )
    parser.add_argument(
        "--sorts",
        type=_shares,
        default=SINGLE_SORTS,
        metavar="SORT=SHARE,...",
        help="pictures of these alone (default: "
        f"{','.join(f'{sort}={share}' for sort, share in SINGLE_SORTS.items())})",
    )
    parser.add_argument(
        "--easier",
        type=_up_to_1,
        default=EASIER,
        help="share of pictures of a level that is passed",
    )
    parser.add_argument("--singles", type=int, default=48, help="tasks of one picture in a step")
    parser.add_argument("--pairs", type=int, default=8, help="tasks of two pictures in a step")
    cores = os.cpu_count() or 1
    parser.add_argument("--processes", type=int, default=max(0, cores - 1), help="that draw")
    parser.add_argument(
        "--reuse", action="store_true", help="learn from earlier pictures rather than wait"
    )
    parser.add_argument(
        "--passes",
        type=int,
        default=1,
        help="how often a picture is learnt from, on average; a frozen tower looks at it once",
    )
    parser.add_argument("--compile", action="store_true", help="compile the layers")
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    return parser


def _read_arguments() -> argparse.Namespace:
    """Those that can be carried out together; ends the program otherwise."""
    parser = _parser()
    wanted = parser.parse_args()
    if wanted.mean_with and not wanted.write:
        parser.error("--mean-with is of what --write writes")
    if wanted.mean_with and not (wanted.mean_with / "model.safetensors").is_file():
        parser.error(f"--mean-with: {wanted.mean_with} has no model.safetensors")
    if wanted.share is not None and not wanted.mean_with:
        parser.error("--share is of a mean: --mean-with")
    if wanted.passes < 1:
        parser.error("--passes must be 1 at least")
    if not (wanted.seconds or wanted.steps or wanted.only_write):
        parser.error("say how long the slice is: --seconds or --steps")
    has_state = state.is_there(wanted.state)
    if wanted.begin_from and has_state:
        parser.error(f"{wanted.state} has a state already: --begin-from is for a new one")
    if wanted.only_write and not (wanted.write and (has_state or wanted.begin_from)):
        parser.error("--only-write needs --write, and a state or a checkpoint to write")
    if not wanted.only_write and len(faces()) == 1:
        parser.error("there are no faces to draw with: pip install 'visionq-worker[pocket]'")
    return wanted


if __name__ == "__main__":
    sys.exit(main())
