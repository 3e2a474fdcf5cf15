"""The result object of a task, out of the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from visionq.contract import read_result
from visionq.errors import InvalidTask
from visionq.names import result_key

if TYPE_CHECKING:
    from visionq.contract import Result
    from visionq.objects import ObjectStore


def stored_result(store: ObjectStore, task_id: str) -> Result:
    """Raises `StorageError`, and `InvalidTask` for an object that cannot be read.

    That is said only after it was read again: it may be the reading that has gone wrong.
    """
    key = result_key(task_id)
    try:
        return read_result(store.get(key))
    except InvalidTask:
        return read_result(store.get_checked(key))
