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

NOT_THERE: dict[str, FieldType] = {"year": int, "price": float, "publisher": str}
"""No picture says it: null."""


def draw_form(choose: Random, level: Level) -> Drawn:
    """What is asked are facts of the picture in any order, and perhaps one that it does not say."""
    draw, name = choose.choice(((draw_cover, "Book"), (draw_chart, "Chart")))
    drawn = draw(choose, level)
    first = choose.choice(drawn.asked)
    facts = next(asked.value for asked in drawn.asked if isinstance(asked.value, dict))
    wanted = choose.sample(list(facts), choose.randint(1, len(facts)))
    value: dict[str, Any] = {key: facts[key] for key in wanted}
    if choose.random() < 0.5:
        if choose.random() < 0.5:
            value[choose.choice(list(NOT_THERE))] = None
        types = {key: NOT_THERE.get(key) or type(facts[key]) for key in value}
        schema = schema_of_fields(types)
    else:
        schema = _model(name, value).model_json_schema()
    asked = Asked(first.kind, first.question, json.dumps(value), value, schema)
    return Drawn(drawn.canvases, (asked,))


def _model(name: str, value: dict[str, Any]) -> type[BaseModel]:
    """As a user of pydantic would write it down for such a document."""
    types: dict[str, Any] = {key: (type(fact), ...) for key, fact in value.items()}
    return create_model(name, **types)
