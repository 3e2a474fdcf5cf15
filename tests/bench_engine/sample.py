"""The requests of the bench: one small picture and one question."""

from __future__ import annotations

from tests.bench.sample import KIND, QUESTION
from visionq.contract import ImageRef, Task
from visionq.kinds import BUILTIN_KINDS
from visionq.names import input_key
from visionq_worker.kinds import render

SMALL_PX = 336


def prompt() -> str:
    """What the executor makes of a task of the sample's kind and question."""
    task = Task(
        id="00000000-0000-4000-8000-000000000000",
        kind=KIND,
        images=(ImageRef(ref=input_key(b"")),),
        question=QUESTION,
    )
    return render(task, BUILTIN_KINDS[KIND]).text
