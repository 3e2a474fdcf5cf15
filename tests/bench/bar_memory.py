"""What a waiting task takes in Redis: message, record, lane counters and their keys.

The difference of the server's `used_memory` after and before, divided by the tasks. Then the same
for tasks submitted with the bytes of a small and of a large image, which go to the object store.
What belongs to connections and to the append-only file's buffer is left out, and so are the
scripts: a few tasks are submitted before.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from time import sleep

from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.sample import KIND, QUESTION, picture_key
from visionq import Client, Submission

NUM_TASKS = 5000
NUM_WITH_BYTES = 500
IMAGE_BYTES = {"0.2 MB": 200_000, "2 MB": 2_000_000}
MAX_BYTES = 2500
MAX_SPREAD = 1.02
SETTLE_SECONDS = 0.3
"""Valkey counts the buffers of its connections ten times a second."""


def measure_memory(rig: Rig) -> Iterator[Reading]:
    count = rig.count(NUM_TASKS)
    with closing(rig.client()) as client:
        _submit_key(client, 1)
        taken = _bytes_per_task(rig, count, lambda: _submit_key(client, count))
        yield Reading(
            bar="memory",
            what=f"per waiting task, of {count}",
            measured=taken / 1000,
            unit="KB",
            limit=MAX_BYTES / 1000,
        )
        yield from _with_images(rig, client)


def _with_images(rig: Rig, client: Client) -> Iterator[Reading]:
    """The same number of tasks by key, and with images of two sizes."""
    count = rig.count(NUM_WITH_BYTES)
    by_key = _bytes_per_task(rig, count, lambda: _submit_key(client, count))
    for name, size in IMAGE_BYTES.items():
        image = b"\xff\xd8\xff" + os.urandom(size - 3)  # it has to begin as an image
        taken = _bytes_per_task(rig, count, partial(_submit_bytes, client, count, image))
        yield Reading(
            bar="memory",
            what=f"image of {name} / image by key",
            measured=taken / by_key,
            limit=MAX_SPREAD,
            detail=f"{taken / 1000:.3f} / {by_key / 1000:.3f} KB, of {count}",
        )


def _bytes_per_task(rig: Rig, count: int, submit: Callable[[], object]) -> float:
    rig.clear()
    before = _used(rig)
    submit()
    return (_used(rig) - before) / count


def _used(rig: Rig) -> int:
    sleep(SETTLE_SECONDS)
    memory: dict[str, int] = rig.raw.info("memory")
    return memory["used_memory"] - memory["mem_clients_normal"] - memory["mem_aof_buffer"]


def _submit_key(client: Client, count: int) -> None:
    key = picture_key()
    client.submit_many(Submission(KIND, key, QUESTION) for _ in range(count))


def _submit_bytes(client: Client, count: int, image: bytes) -> None:
    for _ in range(count):
        client.submit(KIND, image, QUESTION)
