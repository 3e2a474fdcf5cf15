"""Covers and charts asked for by a schema: some facts of theirs, as a JSON document."""

from __future__ import annotations

import json
from random import Random
from typing import Any

from pydantic import BaseModel, create_model

from visionq.fields import FieldType, schema_of_fields
from visionq_worker.pocket.world.charts import draw_chart
from visionq_worker.pocket.world.covers import draw_cover
from visionq_worker.pocket.world.level import Level
from visionq_worker.pocket.world.sorts import Asked, Drawn

FIELDS: dict[str, FieldType] = {
    "title": str,
    "author": str,
    "largest": str,
    "value": int,
    "year": int,
    "price": float,
    "publisher": str,
}
"""Whatever is asked for; what a picture does not say is null."""
NUM_ASKED = 3
"""Documents about one picture, of which some may be the same."""


def draw_document(choose: Random, level: Level) -> Drawn:
    """What is asked for are facts of the picture in any order, and perhaps one it does not say."""
    draw, name = choose.choice(((draw_cover, "Book"), (draw_chart, "Chart")))
    drawn = draw(choose, level)
    asked = tuple(_asked(choose, drawn, name) for _ in range(NUM_ASKED))
    return Drawn(drawn.canvases, asked)


def _asked(choose: Random, drawn: Drawn, name: str) -> Asked:
    task = choose.choice(drawn.asked)
    facts = next(asked.value for asked in drawn.asked if isinstance(asked.value, dict))
    keys = choose.sample(list(facts), choose.randint(1, len(facts)))
    if choose.random() < 0.5:
        if choose.random() < 0.5:
            absent = choose.choice([key for key in FIELDS if key not in facts])
            keys.insert(choose.randint(0, len(keys)), absent)
        schema = schema_of_fields({key: FIELDS[key] for key in keys})
    else:
        schema = _model(name, keys).model_json_schema()
    value = {key: facts.get(key) for key in keys}
    return Asked(task.kind, task.question, json.dumps(value), value, schema)


def _model(name: str, keys: list[str]) -> type[BaseModel]:
    """As a user of pydantic would write it down for such a document."""
    types: dict[str, Any] = {key: (FIELDS[key], ...) for key in keys}
    return create_model(name, **types)
