"""What a door holds: built once in each process, and for each call that interrupts another."""

from __future__ import annotations

import gc
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from visionq import ReentrantCall
from visionq.per_process import PerProcess, import_unforked, no_fork


class Door:
    """Counts how often it was closed."""

    def __init__(self) -> None:
        self.num_closed = 0

    def close(self) -> None:
        self.num_closed += 1


def doors() -> PerProcess[Door]:
    return PerProcess(Door, Door.close)


def test_value_is_built_once_for_all_threads() -> None:
    with ThreadPoolExecutor(8) as threads:
        opened = doors()
        assert len({threads.submit(opened.get).result() for _ in range(50)}) == 1


def test_call_that_interrupts_another_of_its_thread_gets_a_value_of_its_own() -> None:
    opened = doors()
    with opened.use() as first:
        with opened.use() as second, opened.use() as third:
            assert len({first, second, third}) == 3
        with opened.use() as again:
            assert again is second
        in_thread: list[Door] = []
        thread = threading.Thread(target=lambda: in_thread.append(opened.get()))
        thread.start()
        thread.join()
        assert in_thread == [first]


def test_value_in_use_is_closed_by_its_last_user() -> None:
    opened = doors()
    with opened.use() as door:
        opened.close()
        assert door.num_closed == 0
        with opened.use() as another:
            assert another is not door
    assert (door.num_closed, another.num_closed) == (1, 0)
    opened.close()
    assert (door.num_closed, another.num_closed) == (1, 1)
    assert opened.get() not in (door, another)


def test_value_is_closed_once_when_its_owner_is_dropped() -> None:
    opened = doors()
    door = opened.get()
    del opened
    gc.collect()
    assert door.num_closed == 1


def test_value_that_is_being_built_cannot_be_had_by_who_interrupts_that() -> None:
    def build() -> Door:
        with pytest.raises(ReentrantCall):
            opened.get()
        with pytest.raises(ReentrantCall), no_fork():
            pass
        return Door()

    opened: PerProcess[Door] = PerProcess(build, Door.close)
    assert opened.get() is opened.get()


def test_building_that_failed_is_tried_again() -> None:
    ends = [OSError("away"), None]

    def build() -> Door:
        if (end := ends.pop(0)) is not None:
            raise end
        return Door()

    opened = PerProcess(build, Door.close)
    with pytest.raises(OSError, match="away"), opened.use():
        pass
    assert opened.get() is opened.get()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_child_builds_its_own_and_leaves_the_parents_open() -> None:
    opened = doors()
    door = opened.get()
    pid = os.fork()
    if pid == 0:
        own = opened.get()
        opened.close()
        os._exit((own is door) + 2 * door.num_closed + 4 * (own.num_closed != 1))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert opened.get() is door


def test_what_is_imported_already_takes_no_lock() -> None:
    """As in a signal handler that interrupts an import: a lock would be refused there."""
    import_unforked("json")
    with no_fork():
        import_unforked("json")
        with pytest.raises(ReentrantCall):
            import_unforked("this_is_not_imported")
