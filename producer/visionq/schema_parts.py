"""Parts of a schema: subschemas with their JSON pointers, and where references lead.

Identifiers give a part a base of its own (`$id`, in draft 4 `id`); references go by it. Nothing is
ever fetched: what a reference names stands in the schema, or the schema is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote, urldefrag, urljoin

from visionq.errors import SchemaUnsupported

MAPS_OF_SCHEMAS = frozenset(
    {"properties", "patternProperties", "dependentSchemas", "$defs", "definitions", "dependencies"}
)
SCHEMAS = frozenset(
    {
        "additionalProperties", "additionalItems", "items", "contains", "propertyNames", "not",
        "if", "then", "else", "allOf", "anyOf", "oneOf", "prefixItems", "extends",
    }
)  # fmt: skip
"""Keywords whose value is a schema, or a list of them."""


_SINCE_6 = frozenset({"const", "contains", "propertyNames"})
_SINCE_7 = frozenset({"if", "then", "else"})
_SINCE_2019 = frozenset({"dependentRequired", "dependentSchemas", "prefixItems"})
_OLD = frozenset({"dependencies", "extends", "divisibleBy", "additionalItems"})


@dataclass(frozen=True, slots=True)
class Part:
    """A subschema. `owner` is the pointer of the referenced part, or the root, that it is in.

    A schema that we make up may hold whole parts in the place of subschemas.
    """

    schema: Any
    at: str
    owner: str = ""

    def inner(self, *steps: object) -> Part:
        """What stands at those steps within."""
        schema, at = self.schema, self.at
        for step in steps:
            schema, at = schema[step], f"{at}/{escaped(step)}"
        return schema if isinstance(schema, Part) else Part(schema, at, self.owner)

    def other(self, schema: Any) -> Part:
        """Another schema that stands for this one, or for a piece of it."""
        return Part(schema, self.at, self.owner)

    def refuse(self, *steps: object, why: str) -> NoReturn:
        raise SchemaUnsupported("".join([self.at, *(f"/{escaped(one)}" for one in steps)]), why)


def escaped(step: object) -> str:
    """As a step of a JSON pointer (RFC 6901)."""
    return str(step).replace("~", "~0").replace("/", "~1")


class References:
    """Where the references of one schema lead. Pointers are from the root."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        draft = root.get("$schema")
        is_old = isinstance(draft, str) and ("draft-03" in draft or "draft-04" in draft)
        self.is_draft_3 = isinstance(draft, str) and "draft-03" in draft
        self.has_tuples_as_items = isinstance(draft, str) and any(
            f"draft{one}" in draft for one in ("-03", "-04", "-06", "-07", "/2019-09")
        )
        self.unsure = _unsure(draft if isinstance(draft, str) else "")
        self._id = "id" if is_old else "$id"
        self._bases: dict[str, str] = {}
        self._named: dict[str, str] = {}  # absolute URIs, without an empty fragment
        self._inner: dict[str, frozenset[str]] = {}
        self._reached: dict[str, frozenset[str]] = {}
        own = root.get("$id", root.get("id"))
        self._name(root, "", urldefrag(own)[0] if isinstance(own, str) else "")

    def _name(self, schema: Any, at: str, base: str) -> None:
        """Note the base of this part and of those within, and what they are called."""
        todo = [(schema, at, base)]
        while todo:
            schema, at, base = todo.pop()
            own, anchor = schema.get(self._id), schema.get("$anchor")
            if isinstance(own, str) and "$ref" not in schema:
                if not own.startswith("#"):
                    base = _joined(base, own)
                    self._named.setdefault(urldefrag(base)[0], at)
                elif len(own) > 1 and not own.startswith("#/"):
                    self._named.setdefault(urldefrag(base)[0] + own, at)
            if isinstance(anchor, str):
                self._named.setdefault(f"{urldefrag(base)[0]}#{anchor}", at)
            self._bases[at] = urldefrag(base)[0]
            todo += [(inner, f"{at}{step}", base) for inner, step in subschemas(schema)]

    def target(self, part: Part) -> Part:
        """What the part's `$ref` names."""
        ref = part.schema["$ref"]
        if not isinstance(ref, str):
            part.refuse("$ref", why="must be a string")
        base = self._bases.get(part.at, self._bases[""])
        address, fragment = urldefrag(_joined(base, ref))
        whole = f"{address}#{fragment}" if fragment else address
        if whole in self._named:
            at = self._named[whole]
            return Part(self._at(part, at), at, at)
        start = "" if address == self._bases[""] else self._named.get(address)
        if start is None and not urldefrag(ref)[0]:
            start = self._named.get(base, "")
        if start is None or (fragment and not fragment.startswith("/")):
            part.refuse("$ref", why="names nothing that stands in this schema")
        # As it is escaped in pointers of ours, whatever the reference escapes beside.
        steps = [_unescaped(step) for step in unquote(fragment).split("/")[1:]]
        at = start + "".join(f"/{escaped(step)}" for step in steps)
        return Part(self._at(part, at), at, at)

    def _at(self, part: Part, pointer: str) -> Any:
        found: Any = self._root
        for step in map(_unescaped, pointer.split("/")[1:]):
            if isinstance(found, dict) and step in found:
                found = found[step]
            elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
                found = found[int(step)]
            else:
                part.refuse("$ref", why="names nothing that stands in this schema")
        return found

    def is_recursive(self, owner: str, target: Part) -> bool:
        """Whether the references within the target lead back to the owner."""
        return owner == target.at or owner in self._reachable(target)

    def _reachable(self, start: Part) -> frozenset[str]:
        if start.at in self._reached:
            return self._reached[start.at]
        found: set[str] = set()
        todo = [start]
        while todo:
            for reached in self._referred(todo.pop()):
                if reached.at not in found:
                    found.add(reached.at)
                    todo.append(reached)
        self._reached[start.at] = frozenset(found)
        return self._reached[start.at]

    def _referred(self, part: Part) -> list[Part]:
        """What the references within a part name; those that name nothing are left out."""
        found = []
        todo = [part]
        while todo:
            inner = todo.pop()
            if not isinstance(inner.schema, dict):
                continue
            if "$ref" in inner.schema:
                with suppress(SchemaUnsupported):
                    found.append(self.target(inner))
            todo += [
                Part(schema, inner.at + step)
                for schema, step in subschemas(inner.schema)
                if not step.startswith(("/$defs/", "/definitions/"))
            ]
        return found


def subschemas(schema: Any) -> Iterator[tuple[dict[str, Any], str]]:
    """The objects right within a schema that are schemas themselves, and how to get there."""
    if not isinstance(schema, dict):
        return
    for key, value in schema.items():
        if key in MAPS_OF_SCHEMAS and isinstance(value, dict):
            inner = [(one, f"/{key}/{escaped(name)}") for name, one in value.items()]
        elif key in SCHEMAS and isinstance(value, list):
            inner = [(one, f"/{key}/{number}") for number, one in enumerate(value)]
        elif key in SCHEMAS:
            inner = [(value, f"/{key}")]
        else:
            continue
        yield from ((one, step) for one, step in inner if isinstance(one, dict))


def _unsure(draft: str) -> frozenset[str]:
    """Keywords that the draft does not know. What they allow fits; what they forbid may, too."""
    if "draft-03" in draft or "draft-04" in draft:
        return _SINCE_6 | _SINCE_7 | _SINCE_2019
    if "draft-06" in draft:
        return _SINCE_7 | _SINCE_2019
    return _SINCE_2019 if "draft-07" in draft else _OLD


def _unescaped(step: str) -> str:
    return step.replace("~1", "/").replace("~0", "~")


def _joined(base: str, reference: str) -> str:
    try:
        return urljoin(base, reference) if not base.startswith("urn:") else _of_urn(base, reference)
    except ValueError:  # of an address such as https://[
        return reference


def _of_urn(base: str, reference: str) -> str:
    return base + reference if reference.startswith("#") else reference
