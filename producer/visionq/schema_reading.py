"""One walk through a schema, from its parts to the strict form.

A place in a document is described by parts that all hold: `allOf`, `$ref` and what stands beside
them. They are spread out until what is left says something of a value itself, or is a choice
(`anyOf`, `oneOf`, `if`, ...). Each way to choose gives parts, which are merged type by type. Where
nothing fits, the strict form is None: such a branch, or optional property, is left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from visionq.schema_apart import TYPES, Apart, NotKnown, joined
from visionq.schema_parts import Part, References
from visionq.schema_scalars import MAX_INTEGER, Strict, is_writable, number, string
from visionq.schema_shapes import array, object_
from visionq.schema_values import Values, is_among

MAX_NODES = 6_000
"""Subschemas that are read; what is referred to from several places counts once."""
MAX_DEPTH = 40
MAX_LEVELS = 5
"""Of recursion: references that lead back to where they stand, within each other."""
MAX_ENUM_VALUES = 1_000

OF_TYPES: dict[str, frozenset[str]] = {
    "object": frozenset(
        {
            "properties", "required", "additionalProperties", "patternProperties", "propertyNames",
            "minProperties", "maxProperties", "dependencies", "dependentRequired",
            "dependentSchemas",
        }
    ),
    "array": frozenset(
        {
            "items", "prefixItems", "additionalItems", "minItems", "maxItems", "uniqueItems",
            "contains",
        }
    ),
    "string": frozenset({"minLength", "maxLength", "pattern", "format"}),
    "number": frozenset(
        {
            "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf",
            "divisibleBy",
        }
    ),
}  # fmt: skip
"""Keywords that say something of one type."""
_SAYING = frozenset({"type", "enum", "const"}).union(*OF_TYPES.values())
_SPEAKING = _SAYING | {
    "allOf", "anyOf", "oneOf", "not", "if", "extends", "dependencies", "dependentRequired",
    "dependentSchemas",
}  # fmt: skip
_REFUSED = frozenset(
    {
        "$dynamicRef", "$recursiveRef", "unevaluatedProperties", "unevaluatedItems", "minContains",
        "maxContains", "disallow",
    }
)  # fmt: skip
TYPE_NAMES = (*TYPES, "integer")


@dataclass(slots=True)
class Spread:
    """Parts that all hold: plain ones, choices that are still to be made, and what must not fit."""

    plain: list[Part] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    excluded: list[Part] = field(default_factory=list)
    levels: int = MAX_LEVELS

    def and_(self, other: Spread) -> Spread:
        return Spread(
            [*self.plain, *other.plain],
            [*self.choices, *other.choices],
            [*self.excluded, *other.excluded],
            min(self.levels, other.levels),
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """Branches, each of parts that all hold. Of an exclusive one, a document fits just one."""

    branches: list[list[Part]]
    part: Part
    keyword: str
    is_exclusive: bool = False


class Reading:
    """Of one schema. What is read twice is one object."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = Part(root, "")
        self.references = References(root)
        self.values = Values(self.references)
        self._apart = Apart(self.references, self.values)
        self._known: dict[object, tuple[list[Part], Strict | None]] = {}
        self._any: dict[int, Strict] = {}
        self._num_nodes = 0

    def root(self) -> Strict:
        strict = self.node([self._root], MAX_LEVELS, 0)
        if strict is None:
            self._root.refuse(why="no document fits")
        return strict

    def node(self, parts: list[Part], levels: int, depth: int) -> Strict | None:
        """The strict form of what fits all the parts."""
        if len(parts) == 1:
            levels = self._follow(parts := list(parts), levels)
        key = (frozenset(_identity(part) for part in parts), levels)
        if key in self._known:
            return self._known[key][1]
        if depth > MAX_DEPTH:
            parts[0].refuse(why=f"nested deeper than {MAX_DEPTH}")
        spread = self._spread(parts, levels)
        strict = None if spread is None else self._resolved(spread, parts, depth)
        self._known[key] = parts, strict  # the parts, too: their schemas' identities are the key
        return strict

    def _follow(self, parts: list[Part], levels: int) -> int:
        """Put in the place of the one part what it refers to, if it says nothing else.

        So that what is referred to from many places is read once. Gives the levels that are left.
        """
        seen: set[str] = set()
        while (part := parts[0]).at not in seen and _is_reference(part.schema):
            seen.add(part.at)
            target = self.references.target(part)
            is_recursive = self.references.is_recursive(part.owner, target)
            if is_recursive and levels == 0:
                parts[0] = part.other(False)
                return levels
            levels = levels - 1 if is_recursive else MAX_LEVELS
            parts[0] = target
        if parts[0].at in seen:
            parts[0].refuse("$ref", why="refers to itself, and to nothing else")
        return levels

    def _spread(self, parts: Iterable[Part], levels: int) -> Spread | None:
        """None where one of the parts says that nothing fits."""
        found = Spread(levels=levels)
        todo, seen = list(parts), set()
        while todo:
            part = todo.pop(0)
            schema = part.schema
            if schema is True or (isinstance(schema, dict) and id(schema) in seen):
                continue
            if schema is False:
                return None
            if not isinstance(schema, dict):
                part.refuse(why="must be an object, true or false")
            seen.add(id(schema))
            self._count(part)
            for key in schema:
                if key in _REFUSED:
                    part.refuse(key, why="is not carried out here")
            if "$ref" in schema:
                target = self._followed(part, seen, found)
                if target is None:
                    return None
                todo.append(target)
            for key in ("allOf", "extends"):
                if key in schema:
                    todo += (
                        self._inner_list(part, key)
                        if key == "allOf" or isinstance(schema[key], list)
                        else [part.inner(key)]
                    )
            self._choose(part, found)
            if schema.keys() & _SAYING:
                found.plain.append(part)
        return found

    def _count(self, part: Part, num_nodes: int = 1) -> None:
        self._num_nodes += num_nodes
        if self._num_nodes > MAX_NODES:
            part.refuse(why=f"more than {MAX_NODES} subschemas, counted by use")

    def _followed(self, part: Part, seen: set[int], found: Spread) -> Part | None:
        """What the part refers to; None where recursion goes no deeper."""
        target = self.references.target(part)
        if id(target.schema) in seen:
            part.refuse("$ref", why="refers to itself, and to nothing else")
        if self.references.is_recursive(part.owner, target):
            if found.levels == 0:
                return None
            found.levels -= 1
        return target

    def _inner_list(self, part: Part, key: str) -> list[Part]:
        if not isinstance(part.schema[key], list) or not part.schema[key]:
            part.refuse(key, why="must be a list of schemas")
        return [part.inner(key, number) for number in range(len(part.schema[key]))]

    def _choose(self, part: Part, found: Spread) -> None:
        """Note the choices that a part leaves."""
        schema = part.schema
        for key in ("anyOf", "oneOf"):
            if key in schema:
                branches = [[one] for one in self._inner_list(part, key)]
                found.choices.append(Choice(branches, part, key, key == "oneOf"))
        if "not" in schema:
            found.excluded.append(part.inner("not"))
        if "if" in schema and ("then" in schema or "else" in schema):
            then = part.inner("then") if "then" in schema else part.other(True)
            otherwise = part.inner("else") if "else" in schema else part.other(True)
            excluded = part.other({"not": part.inner("if")})
            branches = [[part.inner("if"), then], [excluded, otherwise]]
            found.choices.append(Choice(branches, part, "if"))
        types = schema.get("type")
        if isinstance(types, list) and any(isinstance(one, dict) for one in types):
            branches = [
                [part.inner("type", number) if isinstance(one, dict) else part.other({"type": one})]
                for number, one in enumerate(types)
            ]
            found.choices.append(Choice(branches, part, "type"))
        for key in ("dependencies", "dependentRequired", "dependentSchemas"):
            if key in schema:
                found.choices += self._dependencies(part, key)

    def _dependencies(self, part: Part, key: str) -> Iterable[Choice]:
        said = part.schema[key]
        if not isinstance(said, dict):
            part.refuse(key, why="must be an object")
        for name, one in said.items():
            needed = [one] if isinstance(one, str) else one
            absent = part.other({"type": "object", "properties": {name: False}})
            if isinstance(needed, list):
                present = [part.other({"type": "object", "required": [name, *needed]})]
            else:
                present = [
                    part.other({"type": "object", "required": [name]}),
                    part.inner(key, name),
                ]
            yield Choice([present, [absent]], part, key)

    def _resolved(self, spread: Spread, whole: list[Part], depth: int) -> Strict | None:
        """The strict form of what is spread out; `whole` is all that holds, as it was given."""
        plain = spread.plain
        if any("enum" in part.schema or "const" in part.schema for part in plain):
            return self._constants(plain, whole)
        if not spread.choices:
            if len(plain) > 1:
                self._count(plain[0], len(plain) // 2)
            strict = self._typed(plain, spread.levels, depth)
            for part in spread.excluded:
                strict = strict and self._excluding(strict, part)
            return strict
        choice, *rest = spread.choices
        found = []
        for branch in choice.branches:
            if not plain and not rest and not spread.excluded and len(branch) == 1:
                found.append(self.node(branch, spread.levels, depth))
                continue
            one = self._spread(branch, spread.levels)
            if one is not None and self._types([*plain, *one.plain]) != []:
                left = Spread(plain, rest, spread.excluded, spread.levels).and_(one)
                found.append(self._resolved(left, [*whole, *branch], depth))
            else:
                found.append(None)
        if choice.is_exclusive:
            found = self._told_apart(found, choice)
        return joined([strict for strict in found if strict is not None])

    def _excluding(self, strict: Strict, part: Part) -> Strict | None:
        try:
            return self._apart.without(strict, part)
        except NotKnown:
            part.refuse(why="what does not fit this cannot be told")

    def _told_apart(self, found: list[Strict | None], choice: Choice) -> list[Strict | None]:
        """The branches, each without what fits another one, too."""
        return [
            strict and self._without_others(strict, choice, own) for own, strict in enumerate(found)
        ]

    def _without_others(self, strict: Strict, choice: Choice, own: int) -> Strict | None:
        left: Strict | None = strict
        for other, branch in enumerate(choice.branches):
            if left is None or other == own:
                continue
            self._count(choice.part)
            try:
                left = self._apart.without(left, branch[0])
            except NotKnown:
                why = f"branches {own} and {other} may both fit a document"
                choice.part.refuse(choice.keyword, why=why)
        return left

    def _constants(self, plain: list[Part], whole: list[Part]) -> Strict | None:
        """Those of an enum, or the const, that fit all that is said."""
        part = next(part for part in plain if "enum" in part.schema or "const" in part.schema)
        key = "enum" if "enum" in part.schema else "const"
        values = part.schema["enum"] if key == "enum" else [part.schema["const"]]
        if not isinstance(values, list) or not 1 <= len(values) <= MAX_ENUM_VALUES:
            part.refuse(key, why=f"must be a list of 1 to {MAX_ENUM_VALUES} values")
        kept: list[Any] = []
        for step, value in enumerate(values):
            place = (key, step) if key == "enum" else (key,)
            _writable(part, place, value)
            answers = [self.values.fits(value, one) for one in whole]
            if False in answers:
                continue
            if None in answers:
                part.refuse(*place, why="whether it fits what stands beside it cannot be told")
            if not is_among(value, kept):
                kept.append(value)
        return {"enum": kept} if kept else None

    def _typed(self, plain: list[Part], levels: int, depth: int) -> Strict | None:
        names = self._types(plain)
        if names is None:
            return self.anything(2)
        found = []
        for name in names:
            strict: Strict | None
            match name:
                case "object":
                    strict = object_(self, plain, levels, depth)
                case "array":
                    strict = array(self, plain, levels, depth)
                case "string":
                    strict = string(plain, is_draft_3=self.references.is_draft_3)
                case "number" | "integer":
                    strict = number(plain, is_whole=name == "integer")
                case _:
                    strict = {"type": name}
            if strict is not None:
                found.append(strict)
        return joined(found)

    def _types(self, plain: list[Part]) -> list[str] | None:
        """The types that all parts allow; where none names any, those that keywords are about."""
        allowed: list[str] | None = None
        for part in plain:
            if "type" not in part.schema:
                continue
            said = part.schema["type"]
            names = said if isinstance(said, list) else [said]
            if any(isinstance(name, dict) for name in names):
                continue  # draft 3: a choice
            known = (*TYPE_NAMES, "any") if self.references.is_draft_3 else TYPE_NAMES
            if not names or not all(isinstance(name, str) and name in known for name in names):
                part.refuse("type", why=f"must be of {', '.join(TYPE_NAMES)}")
            if "any" not in names:
                allowed = (
                    _both(allowed, names) if allowed is not None else list(dict.fromkeys(names))
                )
        if allowed is not None:
            return [name for name in allowed if not (name == "integer" and "number" in allowed)]
        said_of = [
            name
            for name, keys in OF_TYPES.items()
            if any(part.schema.keys() & keys for part in plain)
        ]
        return said_of or None

    def anything(self, levels: int) -> Strict:
        """Any value, of so many levels."""
        if levels not in self._any:
            found = [
                {"type": "null"},
                {"type": "boolean"},
                number([], is_whole=False),
                string([]),
            ]
            if levels:
                inner = self.anything(levels - 1)
                found += [array(self, [], levels, 0, inner), object_(self, [], levels, 0, inner)]
            branches = [one for one in found if one is not None]
            self._any[levels] = {"anyOf": branches}
        return self._any[levels]


def _is_reference(schema: Any) -> bool:
    """Whether a reference is all that the schema says."""
    return (
        isinstance(schema, dict) and "$ref" in schema and not schema.keys() & (_SPEAKING | _REFUSED)
    )


def _identity(part: Part) -> object:
    return part.schema if isinstance(part.schema, bool) else id(part.schema)


def _both(some: list[str], others: list[str]) -> list[str]:
    """The types of both; whole numbers are numbers."""
    found = [name for name in some if name in others or (name == "integer" and "number" in others)]
    if "number" in some and "integer" in others and "integer" not in found:
        found.append("integer")
    return found


def _writable(part: Part, steps: tuple[object, ...], value: Any) -> None:
    """Refuses constants that are not written as they are, or not read as the same."""
    if isinstance(value, str) and not is_writable(value):
        part.refuse(*steps, why="holds characters that are not written")
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        part.refuse(*steps, why=f"whole numbers are {MAX_INTEGER} at most")
    if isinstance(value, float) and ("e" in repr(value) or value.is_integer()):
        part.refuse(*steps, why="is a number that is written in several ways")
    if isinstance(value, list):
        for one in value:
            _writable(part, steps, one)
    if isinstance(value, dict):
        for name, one in value.items():
            _writable(part, steps, name)
            _writable(part, steps, one)
