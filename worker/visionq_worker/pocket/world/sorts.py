"""What a sort of picture comes to: the drawings, and what may be asked about them."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

from visionq_worker.pocket.world.canvas import Canvas
from visionq_worker.pocket.world.fonts import faces
from visionq_worker.pocket.world.level import Level


@dataclass(frozen=True, slots=True)
class Asked:
    """A kind of task about the drawings; its question, None for the kind's own; the true answer.

    With a schema, the answer is its document.
    """

    kind: str
    question: str | None
    answer: str
    value: Any
    schema: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """`asked` has one at least."""

    canvases: tuple[Canvas, ...]
    asked: tuple[Asked, ...]


def face_of(choose: Random, level: Level) -> str:
    """One of those that the level has."""
    return choose.choice(faces()[: level.num_faces])


def letter_px(choose: Random, level: Level, most: float = 1000.0) -> int:
    """A height of capitals within the level's bounds, and `most`."""
    highest = max(level.min_letter_px, min(level.max_letter_px, most))
    return round(choose.uniform(level.min_letter_px, highest))
