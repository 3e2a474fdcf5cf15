"""Schemas at random, out of everything that `visionq.schemas` carries out.

Most have small limits, so that documents stay short; now and then a limit is left out.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any, TypeAlias

from visionq.formats import FORMATS

Schema: TypeAlias = dict[str, Any]

NAMES = (
    "title",
    "price",
    "the year",
    "größe",
    "a/b",
    "x~y",
    'say "so"',
    "back\\slash",
    "n\n",
    "$ref",
)
WORDS = ("", "red", "two lines", "naïve", "日本", "😀", 'quo"te', "tab\t", "</s>", "{", "null")
PATTERNS = (
    r"^[A-Z]{2}[0-9]{3,6}$",
    r"^(?:red|green|blue)$",
    r'^[^\n"]{1,5}$',
    r"^\d{1,3}(?:\.\d{2})?$",
    r"^a|bc$",
    r"^\w{2}[-/]\s?.$",
    r'^["\\\[\]]{1,3}$',
    r"^(?:ab?){0,4}$",
)
MAX_LEVELS = 4


def random_schema(random: Random) -> Schema:
    """A schema of a few levels, with definitions that it refers to."""
    making = _Making(random)
    schema = making.node(0)
    if making.defs:
        schema["$defs"] = making.defs
    return schema


class _Making:
    def __init__(self, random: Random) -> None:
        self.random = random
        self.defs: Schema = {}

    def node(self, level: int) -> Schema:
        leaves: list[Callable[[], Schema]] = [
            self.string,
            self.pattern,
            self.format,
            self.integer,
            self.number,
            self.enum,
            self.const,
            self.constant_type,
            self.types,
        ]
        branches: list[Callable[[int], Schema]] = [
            self.object,
            self.object,
            self.map,
            self.array,
            self.tuple,
            self.any_of,
            self.reference,
        ]
        is_leaf = level >= MAX_LEVELS or self.random.random() < 0.2 * level
        schema = self.random.choice(leaves)() if is_leaf else self.random.choice(branches)(level)
        if self.random.random() < 0.2:
            schema["description"] = self.random.choice(WORDS)
        return schema

    def string(self) -> Schema:
        low = self.random.randint(0, 4)
        limits = {"minLength": low, "maxLength": low + self.random.randint(0, 12)}
        return {"type": "string", **self.some(limits, keep="maxLength")}

    def pattern(self) -> Schema:
        return {"type": "string", "pattern": self.random.choice(PATTERNS)}

    def format(self) -> Schema:
        return {"type": "string", "format": self.random.choice(list(FORMATS))}

    def integer(self) -> Schema:
        low = self.random.randint(-1200, 1200)
        bounds = {
            self.random.choice(["minimum", "exclusiveMinimum"]): low,
            self.random.choice(["maximum", "exclusiveMaximum"]): low + self.random.randint(2, 500),
        }
        return {"type": "integer", **self.some(bounds)}

    def number(self) -> Schema:
        low = round(self.random.uniform(-20, 20), self.random.randint(0, 3))
        bounds = {
            self.random.choice(["minimum", "exclusiveMinimum"]): low,
            self.random.choice(["maximum", "exclusiveMaximum"]): low + self.random.choice([0.5, 3]),
        }
        return {"type": "number", **self.some(bounds)}

    def enum(self) -> Schema:
        values = [*self.random.sample(WORDS, 3), self.random.randint(-9, 9), None, True]
        return {"enum": self.random.sample(values, self.random.randint(1, 5))}

    def const(self) -> Schema:
        return {"const": self.random.choice([*WORDS, 0, 1, -17, False, True, None])}

    def constant_type(self) -> Schema:
        return {"type": self.random.choice(["boolean", "null"])}

    def types(self) -> Schema:
        return {"type": ["integer", "string", "null"], "maximum": 99, "minimum": 0, "maxLength": 5}

    def object(self, level: int) -> Schema:
        names = self.random.sample(NAMES, self.random.randint(0, 4))
        schema: Schema = {
            "type": "object",
            "properties": {name: self.node(level + 1) for name in names},
            "required": [name for name in names if self.random.random() < 0.6],
        }
        return schema | self.some({"additionalProperties": self.random.random() < 0.3})

    def map(self, level: int) -> Schema:
        limits = self.some({"maxProperties": self.random.randint(0, 3)}, keep="maxProperties")
        return {"type": "object", "additionalProperties": self.node(level + 1), **limits}

    def array(self, level: int) -> Schema:
        low = self.random.randint(0, 2)
        limits = {"minItems": low, "maxItems": low + self.random.randint(0, 3)}
        limits = self.some(limits, keep="maxItems")
        return {"type": "array", "items": self.node(level + 1), **limits}

    def tuple(self, level: int) -> Schema:
        schemas = [self.node(level + 1) for _ in range(self.random.randint(1, 3))]
        size = len(schemas)
        limits = {"minItems": size, "maxItems": size, "items": False}
        return {"type": "array", "prefixItems": schemas, **self.some(limits)}

    def any_of(self, level: int) -> Schema:
        return {"anyOf": [self.node(level + 1) for _ in range(self.random.randint(1, 3))]}

    def reference(self, level: int) -> Schema:
        """To a definition that exists, or to a new one. None ever refers to itself."""
        if not self.defs or self.random.random() < 0.5:
            made = self.node(level + 1)
            self.defs[f"D{len(self.defs)}"] = made
        return {"$ref": f"#/$defs/{self.random.choice(list(self.defs))}"}

    def some(self, limits: Schema, keep: str = "") -> Schema:
        """Each of the limits, most of the time; the one to keep nearly always."""
        return {
            key: value
            for key, value in limits.items()
            if self.random.random() < (0.97 if key == keep else 0.7)
        }
