"""Covers and bar charts asked for by a schema: some facts of theirs, as a JSON document."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

from pydantic import BaseModel, Field, create_model

from visionq.fields import MAX_FIELD_CHARS, FieldType, schema_of_fields
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
MAX_LIMIT = 9_999
"""For a number."""
MIN_LENGTH = 10
"""Of what a user would allow a text to have."""
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
    if choose.random() < 0.3:
        absent = choose.choice([key for key in FIELDS if key not in facts])
        keys.insert(choose.randint(0, len(keys)), absent)
    if choose.random() < 0.5:
        schema = schema_of_fields({key: FIELDS[key] for key in keys})
    else:
        schema = _model(choose, name, keys, facts).model_json_schema()
    value = {key: facts.get(key) for key in keys}
    return Asked(task.kind, task.question, json.dumps(value), value, schema)


def _model(choose: Random, name: str, keys: list[str], facts: Mapping[str, Any]) -> type[BaseModel]:
    """As a user of pydantic would write it down for such a document."""
    types: dict[str, Any] = {}
    for key in keys:
        limits = _limits(choose, FIELDS[key], facts.get(key)) if choose.random() < 0.5 else {}
        if key in facts and choose.random() < 0.7:
            types[key] = (FIELDS[key], Field(**limits))
        else:
            types[key] = (FIELDS[key] | None, Field(default=None, **limits))
    return create_model(name, **types)


def _limits(choose: Random, of: FieldType, fact: Any) -> dict[str, Any]:
    """Some that the fact keeps, where there is one."""
    if of is str:
        return {"max_length": choose.randint(max(MIN_LENGTH, len(fact or "")), MAX_FIELD_CHARS)}
    between = choose.randint(0, MAX_LIMIT) if fact is None else fact
    limits = {"ge": choose.randint(0, between), "le": choose.randint(between, MAX_LIMIT)}
    kept = choose.choice((["ge"], ["le"], ["ge", "le"]))
    return {name: limits[name] for name in kept}
