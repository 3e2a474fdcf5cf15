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
OPEN_PATTERNS = ("ab", "^x", "y$", "^[a-z]+$", "a|^b", r"\S", r"^[^\d]{2}", "(^a|b$)")
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
            self.multiple,
            self.open_pattern,
            self.excluding,
        ]
        branches: list[Callable[[int], Schema]] = [
            self.object,
            self.object,
            self.map,
            self.array,
            self.tuple,
            self.any_of,
            self.reference,
            self.all_of,
            self.one_of,
            self.conditional,
            self.dependent,
            self.keyed,
            self.old_tuple,
            self.containing,
            self.distinct,
            self.tree,
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
        """To a definition that exists, or to a new one."""
        if not self.defs or self.random.random() < 0.5:
            made = self.node(level + 1)
            self.defs[f"D{len(self.defs)}"] = made
        return {"$ref": f"#/$defs/{self.random.choice(list(self.defs))}"}

    def tree(self, level: int) -> Schema:
        """A definition that refers to itself, in a property that may be missing, or in a list."""
        leaf = self.node(level + 2)  # before there is anything of the tree to refer to
        name = f"D{len(self.defs)}"
        own = {"$ref": f"#/$defs/{name}"}
        self.defs[name] = {
            "type": "object",
            "properties": {
                "leaf": leaf,
                "next": own,
                "list": {"type": "array", "items": own, "maxItems": 1},
            },
            "required": self.random.choice([["leaf"], ["list"], []]),
        }
        return {"$ref": f"#/$defs/{name}"}

    def multiple(self) -> Schema:
        factor = self.random.choice([2, 7, 25, 0.5, 0.25])
        return {"type": "number", "multipleOf": factor, "minimum": -40, "maximum": 60}

    def open_pattern(self) -> Schema:
        pattern = self.random.choice(OPEN_PATTERNS)
        return {"type": "string", "pattern": pattern} | self.some({"maxLength": 30}, "maxLength")

    def excluding(self) -> Schema:
        kinds = ["string", "integer", "null", "boolean"]
        return self.random.choice(
            [
                {"type": kinds, "maxLength": 3, "minimum": 0, "not": {"type": "string"}},
                {"type": "string", "maxLength": 3, "not": {"enum": ["", "ab", "a"]}},
                {"enum": [1, "a", None, [1], {"a": 0.5}], "not": {"type": ["null", "array"]}},
            ]
        )

    def all_of(self, level: int) -> Schema:
        """Objects that share a property, whose schemas can be merged."""
        others = self.object(level)
        others.pop("additionalProperties", None)
        return {
            "allOf": [
                others,
                {"properties": {"shared": {"type": "integer", "minimum": 3}}},
                {"required": ["shared"]},
            ],
            "properties": {"shared": {"maximum": 99}},
        }

    def one_of(self, level: int) -> Schema:
        tagged = [
            {
                "type": "object",
                "properties": {"tag": {"const": tag}, "of it": self.node(level + 2)},
                "required": ["tag"],
            }
            for tag in ("a", 5, None)
        ]
        choices: list[Schema] = [
            {"oneOf": tagged},
            {"oneOf": [self.string(), self.integer(), {"type": "null"}, tagged[0]]},
            {
                "type": "object",
                "properties": {"a": self.node(level + 2), "b": self.node(level + 2)},
                "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
            },
        ]
        return self.random.choice(choices)

    def conditional(self, level: int) -> Schema:
        return {
            "type": "object",
            "properties": {"if": {"enum": [1, 2, 3]}, "b": self.node(level + 2)},
            "if": {"properties": {"if": {"const": 1}}, "required": ["if"]},
            "then": {"required": ["b"]},
            "else": {"properties": {"c": {"type": "null"}}},
        }

    def dependent(self, level: int) -> Schema:
        keyword = self.random.choice(["dependentRequired", "dependencies"])
        properties = {name: self.node(level + 2) for name in ("a", "b")}
        return {"type": "object", "properties": properties, keyword: {"a": ["b", "c"]}}

    def keyed(self, level: int) -> Schema:
        """Keys of a pattern, or of some names, beside properties that must be there."""
        free = self.random.choice(
            [
                {"patternProperties": {"^x-": self.node(level + 2), "^[0-9]+$": {"type": "null"}}},
                {"additionalProperties": self.node(level + 2)},
                {"propertyNames": {"enum": ["it", "p", "q"]}},
            ]
        )
        return {
            "type": "object",
            "properties": {"it": self.node(level + 2)},
            "required": ["it"],
            "maxProperties": 3,
            **free,
        }

    def old_tuple(self, level: int) -> Schema:
        others = {"type": "array", "prefixItems": [self.node(level + 1)]}
        return {**others, "items": self.node(level + 1), "maxItems": 2}

    def containing(self, level: int) -> Schema:
        found = {"type": "array", "items": {"type": ["integer", "null"], "minimum": 0}}
        return {**found, "contains": {"type": "null"}, "maxItems": 3}

    def distinct(self, level: int) -> Schema:
        values = self.random.sample(WORDS, self.random.randint(1, 4))
        return {"type": "array", "uniqueItems": True, "items": {"enum": values}}

    def some(self, limits: Schema, keep: str = "") -> Schema:
        """Each of the limits, most of the time; the one to keep nearly always."""
        return {
            key: value
            for key, value in limits.items()
            if self.random.random() < (0.97 if key == keep else 0.7)
        }
