"""Batches that come from processes which draw them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from tests.support.lessons import CPU
from visionq_worker.pocket.training.batches import FIRST_TRAINING_SEED, Batch, batch, easier_level
from visionq_worker.pocket.training.examples import example
from visionq_worker.pocket.training.supply import MIN_KEPT, Supply
from visionq_worker.pocket.world.level import LEVELS


def supply_of(
    *sorts: str,
    size: int = 1,
    level: int = 0,
    easier: float = 0.0,
    processes: int = 0,
    reuses: bool = False,
    passes: int = 1,
    prepare: Callable[[Batch], Batch] = lambda made: made,
) -> Supply:
    return Supply(
        dict.fromkeys(sorts, 1.0),
        size,
        first_seed=FIRST_TRAINING_SEED,
        level=level,
        easier=easier,
        processes=processes,
        reuses=reuses,
        device=CPU,
        passes=passes,
        prepare=prepare,
    )


@pytest.mark.parametrize("processes", [0, 1])
def test_what_ends_the_drawing_ends_the_trainer(processes: int) -> None:
    there_is_none = len(LEVELS)
    supply = supply_of("cover", level=there_is_none, processes=processes, reuses=True)
    with pytest.raises(IndexError):
        supply.next()


def test_a_supply_gives_what_is_wanted_and_easier_ones() -> None:
    made, _ = supply_of("cover", "table", size=8, level=2, easier=1.0).next()
    assert set(made.sorts) == {"cover", "table"}
    assert set(made.levels) == {0, 1}


def test_an_easier_level_is_a_near_one_rather_than_a_far_one() -> None:
    drawn = Counter(easier_level(Random(seed), 3) for seed in range(700))
    assert drawn.keys() == {0, 1, 2}
    assert all(0.7 < drawn[level] / (100 * 2**level) < 1.3 for level in drawn)


def test_a_supply_that_may_reuse_gives_fresh_batches_first() -> None:
    first, is_fresh = supply_of("scene", size=2, processes=1, reuses=True).next()
    assert is_fresh
    wanted = batch([example("scene", FIRST_TRAINING_SEED + number, 0) for number in range(2)])
    assert all(one.equal(other) for one, other in zip(first.tensors, wanted.tensors, strict=True))


@pytest.mark.parametrize("processes", [0, 1])
def test_of_so_many_passes_one_is_fresh(processes: int) -> None:
    prepared: list[Batch] = []

    def prepare(made: Batch) -> Batch:
        prepared.append(made)
        return made

    supply = supply_of("scene", passes=3, prepare=prepare, processes=processes)
    given = [supply.next() for _ in range(MIN_KEPT + 12)]
    fresh = [number for number, (_, is_fresh) in enumerate(given) if is_fresh]
    assert fresh == [*range(MIN_KEPT), *range(MIN_KEPT + 2, MIN_KEPT + 12, 3)]
    assert len(prepared) == len(fresh), "each once"
    again = [made for made, is_fresh in given if not is_fresh]
    assert all(any(made is one for one in prepared) for made in again)
    assert len({id(made) for made in again}) > 1
