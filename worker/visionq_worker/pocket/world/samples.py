"""One picture, or a few, with a question and its true answer: the door to the world."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from visionq_worker.pocket.world.canvas import Canvas
from visionq_worker.pocket.world.charts import draw_chart, draw_line_chart
from visionq_worker.pocket.world.covers import draw_cover
from visionq_worker.pocket.world.documents import draw_document
from visionq_worker.pocket.world.level import HARDEST, Level
from visionq_worker.pocket.world.scenes import draw_pair, draw_scene
from visionq_worker.pocket.world.sorts import Drawn
from visionq_worker.pocket.world.tables import draw_table

SORTS: Mapping[str, Callable[[Random, Level], Drawn]] = {
    "cover": draw_cover,
    "chart": draw_chart,
    "line-chart": draw_line_chart,
    "table": draw_table,
    "scene": draw_scene,
    "pair": draw_pair,
    "document": draw_document,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the model is shown and asked, and what it should say.

    `kind`: of task. `question` None is the kind's own. `value`: the answer as data; with a
    `schema`, the document.
    """

    sort: str
    kind: str
    canvases: tuple[Canvas, ...]
    question: str | None
    answer: str
    value: Any
    schema: dict[str, Any] | None


def sample(sort: str, seed: int, level: Level = HARDEST) -> Sample:
    """The picture of that sort and seed: the same again wherever there are the same faces.

    Raises `ValueError` for a sort that there is not.
    """
    return samples(sort, seed, level)[0]


def samples(sort: str, seed: int, level: Level = HARDEST) -> list[Sample]:
    """That one, and what else may be asked about its picture with another answer.

    Raises `ValueError` for a sort that there is not.
    """
    if sort not in SORTS:
        raise ValueError(f"no sort {sort!r}; there are {', '.join(SORTS)}")
    choose = Random(f"{sort}/{level.name}/{seed}")  # noqa: S311  # to be the same again
    drawn = SORTS[sort](choose, level)
    asked = choose.choice(drawn.asked)
    # A box in an answer is one of the picture as it was drawn.
    most = 0.0 if asked.kind == "detect" else level.max_turn_degrees
    turn = choose.uniform(-most, most)
    noise = choose.uniform(0.0, level.max_noise)
    canvases = tuple(one.turned(turn).with_noise(noise, choose) for one in drawn.canvases)
    others = {one.answer: one for one in drawn.asked if not (turn and one.kind == "detect")}
    others.pop(asked.answer, None)
    return [
        Sample(
            sort=sort,
            kind=one.kind,
            canvases=canvases,
            question=one.question,
            answer=one.answer,
            value=one.value,
            schema=one.schema,
        )
        for one in (asked, *others.values())
    ]
