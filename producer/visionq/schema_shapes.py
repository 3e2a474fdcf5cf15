"""Arrays and objects: what several parts say of one, as its strict form."""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

from visionq.patterns import any_key, literal, other_than, written_pattern
from visionq.schema_apart import joined
from visionq.schema_parts import Part
from visionq.schema_scalars import Strict, is_writable, pattern_of, sizes

if TYPE_CHECKING:
    from visionq.schema_reading import Reading

MAX_ITEMS = 500
MAX_DISTINCT = 6
"""Values of which an array may have each once."""
MAX_ANY_ITEMS = 20
"""Of an array, or a map, of anything."""
MAX_MAP_ENTRIES = 100
MAX_MAP_KEY_CHARS = 60
MAX_NAMES_CHARS = 400
"""Of all properties beside which there may be further keys, which must be none of them."""
MAX_COMBINATIONS = 40
"""Of properties, to hold an object to their number."""
ANY_SIZE = 2**53


def array(
    reading: Reading, parts: list[Part], levels: int, depth: int, anything: Strict | None = None
) -> Strict | None:
    """The strict form; of no parts, an array of `anything`."""
    limits = sizes(parts, "minItems", "maxItems", MAX_ITEMS)
    if limits is None:
        return None
    low, high = limits
    if anything is not None:
        return {"type": "array", "items": anything, "minItems": 0, "maxItems": MAX_ANY_ITEMS}
    for part in parts:
        is_list = isinstance(part.schema.get("items"), list)
        if is_list and not reading.references.has_tuples_as_items:
            part.refuse("items", why="is a list up to draft 2019-09 only: say prefixItems")
    prefix = [_prefix(part) for part in parts]
    firsts: list[Strict] = []
    for number in range(min(max(map(len, prefix)), high)):
        item = reading.node(_items(parts, prefix, number), levels, depth + 1)
        if item is None:
            high = number
            break
        firsts.append(item)
    rest_parts = _items(parts, prefix, ANY_SIZE)
    is_open = not rest_parts and firsts
    rest = None
    if high > len(firsts) and not (is_open and low <= len(firsts)):
        rest = reading.node(rest_parts, levels, depth + 1) if rest_parts else reading.anything(1)
    if rest is None:
        high = min(high, len(firsts))
    if any("contains" in part.schema for part in parts):
        return _containing(reading, parts, firsts, rest, (low, high), levels, depth)
    if low > high:
        return None
    low = max(low, min(len(firsts), high))
    if any(part.schema.get("uniqueItems") is True for part in parts):
        return _distinct(parts, firsts, rest, low, high)
    return _array(firsts, rest, low, high)


def _array(firsts: list[Strict], rest: Strict | None, low: int, high: int) -> Strict:
    strict: Strict = {"type": "array", "items": False if rest is None else rest}
    if firsts:
        strict["prefixItems"] = firsts[:high]
    return {**strict, "minItems": low, "maxItems": high}


def _prefix(part: Part) -> list[Part]:
    """What the part says of the first items, one by one."""
    for key in ("prefixItems", "items"):
        said = part.schema.get(key)
        if isinstance(said, list):
            return [part.inner(key, number) for number in range(len(said))]
    return []


def _items(parts: list[Part], prefix: list[list[Part]], number: int) -> list[Part]:
    """What is said of the item of that number."""
    found = []
    for part, firsts in zip(parts, prefix, strict=True):
        key = "additionalItems" if isinstance(part.schema.get("items"), list) else "items"
        if number < len(firsts):
            found.append(firsts[number])
        elif part.schema.get(key, True) is not True:
            found.append(part.inner(key))
    return found


def _containing(
    reading: Reading,
    parts: list[Part],
    firsts: list[Strict],
    rest: Strict | None,
    limits: tuple[int, int],
    levels: int,
    depth: int,
) -> Strict | None:
    """The first item is the one that it must contain."""
    having = [part for part in parts if "contains" in part.schema]
    if len(having) > 1 or firsts or any(part.schema.get("uniqueItems") for part in parts):
        having[0].refuse("contains", why="is carried out of an array without tuple and uniqueItems")
    items = _items(parts, [[] for _ in parts], 0)
    first = reading.node([having[0].inner("contains"), *items], levels, depth + 1)
    low, high = max(1, limits[0]), limits[1]
    if first is None or low > high:
        return None
    return _array([first], rest, low, high)


def _distinct(
    parts: list[Part], firsts: list[Strict], rest: Strict | None, low: int, high: int
) -> Strict | None:
    """Of few values, each choice of them, in their order; of others, one item at most."""
    if high <= 1:
        return _array(firsts, rest, low, high)
    values = rest["enum"] if rest is not None and "enum" in rest and not firsts else []
    if not 0 < len(values) <= MAX_DISTINCT:
        part = next(part for part in parts if part.schema.get("uniqueItems") is True)
        part.refuse("uniqueItems", why=f"is carried out of enums of {MAX_DISTINCT} values at most")
    return joined(
        [
            _array([{"enum": [value]} for value in chosen], None, size, size)
            for size in range(low, min(high, len(values)) + 1)
            for chosen in combinations(values, size)
        ]
    )


def object_(
    reading: Reading, parts: list[Part], levels: int, depth: int, anything: Strict | None = None
) -> Strict | None:
    """The strict form; of no parts, a map of `anything`."""
    if anything is not None:
        keys = f"^{any_key(1, MAX_MAP_KEY_CHARS)}$"
        return _closed({}, set(), {keys: anything}, maxProperties=MAX_ANY_ITEMS)
    names = _names(parts)
    required = _required(parts, names, is_draft_3=reading.references.is_draft_3)
    properties: dict[str, Strict] = {}
    for name in names:
        strict = reading.node(_of_property(reading, parts, name), levels, depth + 1)
        if strict is not None:
            properties[name] = strict
        elif name in required:
            return None
    free = _free(reading, parts, names, levels, depth)
    return _counted(parts, properties, required, free)


def _closed(
    properties: dict[str, Strict],
    required: set[str],
    free: dict[str, Strict] | None = None,
    **counts: int,
) -> Strict:
    strict: Strict = {"type": "object", "additionalProperties": False}
    if free:
        strict["patternProperties"] = free
    return {
        **strict,
        "properties": properties,
        "required": [name for name in properties if name in required],
        **counts,
    }


def _names(parts: list[Part]) -> dict[str, None]:
    """The properties that are named, in their order."""
    names: dict[str, None] = {}
    for part in parts:
        said = part.schema.get("properties", {})
        if not isinstance(said, dict):
            part.refuse("properties", why="must be an object")
        for name in said:
            if not is_writable(name):
                part.refuse("properties", name, why="holds characters that are not written")
            names[name] = None
    return names


def _required(parts: list[Part], names: dict[str, None], *, is_draft_3: bool) -> set[str]:
    """The names that must be there; those without a schema are added to the names."""
    found: set[str] = set()
    for part in parts:
        said = part.schema.get("required", [])
        if is_draft_3 and isinstance(said, bool):
            said = []  # of the object that this one is a property of
        if not isinstance(said, list):
            part.refuse("required", why="must be a list of names")
        for number, name in enumerate(said):
            if not isinstance(name, str) or not is_writable(name):
                part.refuse("required", number, why="must be a name of characters that are written")
            found.add(name)
            names[name] = None
        for name, one in part.schema.get("properties", {}).items():
            if is_draft_3 and isinstance(one, dict) and one.get("required") is True:
                found.add(name)
    return found


def _of_property(reading: Reading, parts: list[Part], name: str) -> list[Part]:
    """What is said of a property of that name."""
    found: list[Part] = []
    for part in parts:
        said = part.schema
        own = [part.inner("properties", name)] if name in said.get("properties", {}) else []
        matching = [
            part.inner("patternProperties", pattern)
            for pattern in _patterns(part)
            if _matches(part, pattern, name)
        ]
        found += own + matching
        if not own and not matching and "additionalProperties" in said:
            found.append(part.inner("additionalProperties"))
        if "propertyNames" in said:
            fits = reading.values.fits(name, part.inner("propertyNames"))
            if fits is None:
                part.refuse("propertyNames", why=f"whether {name!r} fits cannot be told")
            found.append(part.other(fits))
    return found


def _patterns(part: Part) -> list[str]:
    said = part.schema.get("patternProperties", {})
    if not isinstance(said, dict):
        part.refuse("patternProperties", why="must be an object")
    return list(said)


def _matches(part: Part, pattern: str, name: str) -> bool:
    read = pattern_of(part, pattern, "patternProperties", pattern)
    found = read.matches(name)
    if found is None or (found is False and not name.isascii()):
        part.refuse("patternProperties", pattern, why=f"whether {name!r} matches cannot be told")
    return found


def _free(
    reading: Reading, parts: list[Part], names: dict[str, None], levels: int, depth: int
) -> dict[str, Strict]:
    """Patterns of further keys, with their values. None where properties are named, and no more
    is said than that there may be others."""
    patterned = [part for part in parts if _patterns(part)]
    others = [
        part.inner("additionalProperties")
        for part in parts
        if part not in patterned and "additionalProperties" in part.schema
    ]
    others = [part for part in others if part.schema not in (True, {})]
    if any(part.schema is False for part in others):
        return {}
    if not patterned:
        if names and not others:
            return {}
        keys = _keys(reading, parts, names)
        value = reading.node(others, levels, depth + 1) if others else reading.anything(1)
        return {} if value is None or keys is None else {keys: value}
    (part, *more) = patterned
    if more or any("propertyNames" in one.schema for one in parts):
        if names:
            return {}
        part.refuse("patternProperties", why="is not carried out beside others, or propertyNames")
    return _patterned(reading, part, others, names, levels, depth)


def _keys(reading: Reading, parts: list[Part], names: dict[str, None]) -> str | None:
    """The pattern of the keys that may be free."""
    having = [part for part in parts if "propertyNames" in part.schema]
    if not having:
        if sum(map(len, names)) > MAX_NAMES_CHARS:
            return None
        if names:
            return f"^{other_than(names, MAX_MAP_KEY_CHARS)}$"
        return f"^{any_key(1, MAX_MAP_KEY_CHARS)}$"
    inner = [part.inner("propertyNames") for part in having]
    strict = reading.node([having[0].other({"type": "string"}), *inner], 0, 0)
    if strict is None:
        return None
    if "enum" in strict:
        texts = [literal(one) for one in strict["enum"] if one not in names]
        return f"^(?:{'|'.join(texts)})$" if texts else None
    if names:
        return None
    if "pattern" in strict:
        return _bounded(strict["pattern"])
    if "anyOf" in strict:
        having[0].refuse("propertyNames", why="is carried out as a pattern, a length or an enum")
    low, high = max(1, strict["minLength"]), min(MAX_MAP_KEY_CHARS, strict["maxLength"])
    return f"^{any_key(low, high)}$" if low <= high else None


def _patterned(
    reading: Reading,
    part: Part,
    others: list[Part],
    names: dict[str, None],
    levels: int,
    depth: int,
) -> dict[str, Strict]:
    """Of keys that match a pattern. One that a named property matches is left out."""
    texts = [
        text for text in _patterns(part) if not any(_matches(part, text, name) for name in names)
    ]
    read = {text: pattern_of(part, text, "patternProperties", text) for text in texts}
    are_apart = all(
        read[one].excludes(read[other])
        for number, one in enumerate(texts)
        for other in texts[:number]
    )
    groups = [[text] for text in texts] if are_apart else [texts]
    found = {}
    for group in groups:
        inner = [part.inner("patternProperties", text) for text in group]
        value = reading.node([*inner, *others], levels, depth + 1)
        if value is not None:
            found[_bounded("^(?:" + "|".join(read[text].body for text in group) + ")$")] = value
        elif len(group) > 1:
            part.refuse("patternProperties", why="a key may match two patterns, and no value both")
    return found


def _bounded(pattern: str) -> str:
    """With an end to keys."""
    return f"^{written_pattern(pattern).bounded(MAX_MAP_KEY_CHARS).body}$"


def _counted(
    parts: list[Part], properties: dict[str, Strict], required: set[str], free: dict[str, Strict]
) -> Strict | None:
    """The object, held to the number of its properties."""
    limits = sizes(parts, "minProperties", "maxProperties", ANY_SIZE)
    if limits is None:
        return None
    low, high = limits
    must = [name for name in properties if name in required]
    may = [name for name in properties if name not in required]
    if len(must) > high or (low > len(properties) and not free):
        return None
    if free:
        return _with_free(parts, properties, required, free, low, high)
    if low <= len(must) and high >= len(properties):
        return _closed(properties, required)
    if high >= len(properties) and not must and low == 1:
        return _closed(properties, required, minProperties=1)
    return _chosen(parts, properties, must, may, low, high)


def _chosen(
    parts: list[Part],
    properties: dict[str, Any],
    must: list[str],
    may: list[str],
    low: int,
    high: int,
) -> Strict | None:
    """One branch for each choice of as many properties as there must be, or may be."""
    is_at_most = high < len(properties)
    size = min(high, len(properties)) - len(must) if is_at_most else max(0, low - len(must))
    few = max(0, low - len(must)) if is_at_most else size
    chosen = (
        [one for count in range(few, size + 1) for one in combinations(may, count)]
        if len(may) <= MAX_COMBINATIONS and size <= 4
        else []
    )
    if not chosen or len(chosen) > MAX_COMBINATIONS:
        key = "maxProperties" if is_at_most else "minProperties"
        part = next(part for part in parts if key in part.schema)
        part.refuse(key, why=f"more than {MAX_COMBINATIONS} choices of properties")
    branches = []
    for one in chosen:
        kept = {*must, *one} if is_at_most else set(properties)
        inner = {name: strict for name, strict in properties.items() if name in kept}
        branches.append(_closed(inner, {*must, *one}))
    return joined(branches)


def _with_free(
    parts: list[Part],
    properties: dict[str, Strict],
    required: set[str],
    free: dict[str, Strict],
    low: int,
    high: int,
) -> Strict:
    """A map, or an object with further keys, of which one may repeat: only one surely counts."""
    must = [name for name in properties if name in required]
    if len(must) < len(properties):
        if low > len(must) or high < ANY_SIZE:
            key = "minProperties" if low > len(must) else "maxProperties"
            part = next(part for part in parts if key in part.schema)
            part.refuse(key, why="is not carried out beside optional properties and further keys")
        return _closed(properties, required, free)
    if low > len(must) + 1:
        part = next(part for part in parts if "minProperties" in part.schema)
        part.refuse("minProperties", why="may ask for one further key at most: a key may repeat")
    counts = {"minProperties": low} if low > len(must) else {}
    most = min(high, len(must) + MAX_MAP_ENTRIES)
    return _closed(properties, required, free, **counts, maxProperties=most)
