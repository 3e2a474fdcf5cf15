"""The fault matrix, in its quick form, and the control that shows that it can be failed."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from tests.faults import soak
from tests.faults.clocks import NoClocks
from tests.faults.nursery import Nursery
from tests.faults.rows import ROWS, play
from tests.faults.scene import World
from visionq.local import LocalServers

CONTROL_ROWS = (2, 21)
"""Of those that a stock worker must fail, the ones that it fails each time and soon."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Servers of our own: they are killed, and emptied."""
    folder = tmp_path_factory.mktemp("faults")
    with LocalServers(folder / "servers") as servers, Nursery() as nursery:
        seed = random.randrange(1_000_000)
        yield World(servers=servers, nursery=nursery, folder=folder, seed=seed)


@pytest.mark.parametrize("number", ROWS, ids=lambda number: f"{number}-{ROWS[number].title}")
def test_accepted_tasks_end_in_one_result(world: World, number: int) -> None:
    try:
        report = play(number, world)
    except NoClocks as error:
        pytest.skip(str(error))
    assert report.is_green, f"{report.complaints}\n{report.events}"


@pytest.mark.parametrize("number", CONTROL_ROWS)
def test_stock_worker_fails(world: World, number: int) -> None:
    report = play(number, world.as_stock())
    harm = ROWS[number].stock_harm
    assert harm is not None
    assert harm(report) > 0, f"{report.complaints}\n{report.events}"


def test_soak_of_few_tasks_is_green(world: World) -> None:
    report = soak.play(world, count=200).report
    assert report.accepted == 200
    assert report.is_green, f"{report.complaints}\n{report.events}"
