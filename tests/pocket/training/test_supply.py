"""Batches that come from processes which draw them."""

from __future__ import annotations

import pytest

from tests.support.lessons import CPU
from visionq_worker.pocket.training.examples import FIRST_TRAINING_SEED, batch, example
from visionq_worker.pocket.training.supply import Supply
from visionq_worker.pocket.world.level import LEVELS


def supply_of(
    *sorts: str,
    size: int = 1,
    level: int = 0,
    easier: float = 0.0,
    processes: int = 0,
    reuses: bool = False,
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


def test_a_supply_that_may_reuse_gives_fresh_batches_first() -> None:
    first, is_fresh = supply_of("scene", size=2, processes=1, reuses=True).next()
    assert is_fresh
    wanted = batch([example("scene", FIRST_TRAINING_SEED + number, 0) for number in range(2)])
    assert first.ids.equal(wanted.ids)
    assert first.pixels.equal(wanted.pixels)
