"""Strict forms in which what is used in several places stands once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from visionq.schema_scalars import Strict


def shared(strict: Strict) -> Strict:
    """The same form; objects used in several places are definitions, unless they are scalars."""
    uses = _uses(strict)
    names = {one: f"{number}" for number, one in enumerate(one for one in uses if uses[one][1] > 1)}
    if not names:
        return strict
    defs = {name: _inner(uses[one][0], names) for one, name in names.items()}
    return {**_written(strict, names), "$defs": defs}


def resolved(strict: Strict, root: Strict) -> Strict:
    """What a form refers to, where it refers to a definition."""
    found = strict
    while "$ref" in found:
        found = root["$defs"][found["$ref"].rpartition("/")[2]]
    return found


def _uses(strict: Strict) -> dict[int, tuple[Strict, int]]:
    """Each form that has others within, by its identity, with how often it is used."""
    uses: dict[int, tuple[Strict, int]] = {}
    todo = [strict]
    while todo:
        one = todo.pop()
        inner = list(_within(one))
        if not inner and len(one.get("enum", ())) < 5:
            continue
        num_uses = uses.get(id(one), (one, 0))[1] + 1
        uses[id(one)] = one, num_uses
        if num_uses == 1:
            todo += inner
    return uses


def _within(strict: Strict) -> Iterator[Strict]:
    yield from strict.get("anyOf", ())
    yield from strict.get("properties", {}).values()
    yield from strict.get("patternProperties", {}).values()
    yield from strict.get("prefixItems", ())
    if isinstance(strict.get("items"), dict):
        yield strict["items"]


def _written(strict: Strict, names: dict[int, str]) -> Strict:
    if id(strict) in names:
        return {"$ref": f"#/$defs/{names[id(strict)]}"}
    return _inner(strict, names)


def _inner(strict: Strict, names: dict[int, str]) -> Strict:
    found: dict[str, Any] = dict(strict)
    for key in ("anyOf", "prefixItems"):
        if key in strict:
            found[key] = [_written(one, names) for one in strict[key]]
    for key in ("properties", "patternProperties"):
        if key in strict:
            found[key] = {name: _written(one, names) for name, one in strict[key].items()}
    if isinstance(strict.get("items"), dict):
        found["items"] = _written(strict["items"], names)
    return found
