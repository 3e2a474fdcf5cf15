"""Strings and numbers: what several parts say of one, as its strict form."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Any, TypeAlias

from visionq.formats import FORMATS, OF_NUMBERS, TIME_OF_DRAFT_3
from visionq.patterns import Pattern, read_pattern, written_pattern
from visionq.schema_parts import Part

Strict: TypeAlias = dict[str, Any]
"""A strict form, or a piece of it."""

MAX_STRING_CHARS = 4_000
MAX_MET_CHARS = 64
"""Up to this length a pattern and a length are left to the grammar to bring together."""
MAX_OPEN_CHARS = 1_000
"""Of a pattern in which several parts repeat without an end: each may end in many places."""
MAX_INTEGER = 2**53 - 1
"""The largest that every JSON reader takes for itself (RFC 8259, section 6)."""
MAX_NUMBER = 10**15
MAX_EXCLUSIVE_NUMBER = 10**9
"""Of an exclusive bound: beyond it a float does not tell the bound from the next number."""
MAX_MULTIPLE_OF = 10_000
NUMBER_DECIMALS = 6

# No control characters but those with a short escape: the grammar writes no \u escapes, which would
# give a key a second spelling. And not the sign that stands for a space in the model's vocabulary.
_WRITABLE = re.compile("[^\x00-\x07\x0b\x0e-\x1f\x7f\u2581\ud800-\udfff]*")


def is_writable(text: str) -> bool:
    return _WRITABLE.fullmatch(text) is not None


def sizes(parts: Iterable[Part], least: str, greatest: str, most: int) -> tuple[int, int] | None:
    """The limits of a size; None where they leave nothing. A larger upper limit becomes `most`."""
    low, high = 0, most
    for part in parts:
        for key in (least, greatest):
            if key not in part.schema:
                continue
            size = part.schema[key]
            if isinstance(size, float) and size.is_integer():
                size = int(size)
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                part.refuse(key, why="must be a whole number, 0 or more")
            if key == least and size > most:
                part.refuse(key, why=f"must be {most} at most")
            low, high = (max(low, size), high) if key == least else (low, min(high, size))
    return (low, high) if low <= high else None


def string(parts: list[Part], *, is_draft_3: bool = False) -> Strict | None:
    limits = sizes(parts, "minLength", "maxLength", MAX_STRING_CHARS)
    if limits is None:
        return None
    low, high = limits
    patterns = list(_patterns(parts, is_draft_3))
    if not patterns:
        return {"type": "string", "minLength": low, "maxLength": high}
    (pattern, part, key), *others = patterns
    for other, place, keyword in others:
        if other.body != pattern.body:
            place.refuse(keyword, why="two patterns or formats for one string are not carried out")
    if not pattern.has_length(low, high):
        part.refuse(key, why=f"matches nothing of {low} to {high} characters")
    strict = patterned(pattern, low, high)
    if strict is None:
        part.refuse(key, why=f"minLength is {MAX_MET_CHARS} at most beside it")
    return strict


def patterned(pattern: Pattern, low: int, high: int) -> Strict | None:
    """The strings of a pattern of those lengths; None where too much would be left out.

    Long texts are bounded in the pattern: where a pattern meets a length, the grammar's library
    may not find out whether any text is left.
    """
    if pattern.num_open_ends() > 1:
        high = max(low, min(high, MAX_OPEN_CHARS))
    if pattern.longest > high > MAX_MET_CHARS:
        pattern = pattern.bounded(high)
    strict: Strict = {"type": "string", "pattern": f"^{pattern.body}$"}
    if pattern.longest > high:
        strict["maxLength"] = high
    if not pattern.lengths & ((1 << low) - 1):
        return strict
    return {**strict, "minLength": low} if low <= MAX_MET_CHARS else None


def _patterns(parts: list[Part], is_draft_3: bool) -> Iterable[tuple[Pattern, Part, str]]:
    for part in parts:
        if "format" in part.schema:
            name = part.schema["format"]
            if not isinstance(name, str):
                part.refuse("format", why="must be a string")
            if name in FORMATS:
                is_old = is_draft_3 and name == "time"
                body = TIME_OF_DRAFT_3 if is_old else FORMATS[name]
                yield written_pattern(f"^{body}$"), part, "format"
        if "pattern" in part.schema:
            yield pattern_of(part, part.schema["pattern"], "pattern"), part, "pattern"


def pattern_of(part: Part, text: object, *steps: object) -> Pattern:
    """The pattern. Refuses one that is not carried out, at those steps within the part."""
    if not isinstance(text, str):
        part.refuse(*steps, why="must be a string")
    try:
        return read_pattern(text)
    except ValueError as exc:
        part.refuse(*steps, why=str(exc))


def number(parts: list[Part], *, is_whole: bool) -> Strict | None:
    """Of a number that must be a multiple of a whole one, too, only whole ones are written."""
    factor, fraction = _multiple_of(parts)
    if is_whole or factor is not None:
        limits = _range(parts, Decimal(MAX_INTEGER), Decimal(factor or 1))
        if limits is None:
            return None
        strict = {"type": "integer", "minimum": int(limits[0]), "maximum": int(limits[1])}
        return {**strict, "multipleOf": factor} if factor not in (None, 1) else strict
    step = fraction or Decimal(1).scaleb(-NUMBER_DECIMALS)
    limits = _range(parts, Decimal(MAX_NUMBER), step)
    if limits is None:
        return None
    for part in parts:
        for key in ("exclusiveMinimum", "exclusiveMaximum"):
            bound = part.schema.get(key, 0)
            if isinstance(bound, int | float) and abs(bound) > MAX_EXCLUSIVE_NUMBER:
                part.refuse(key, why=f"lies between -{MAX_EXCLUSIVE_NUMBER} and it at most")
    low, high = float(limits[0]), float(limits[1])
    return {"type": "number", "minimum": low, "maximum": high, "multipleOf": float(step)}


def _multiple_of(parts: list[Part]) -> tuple[int | None, Decimal | None]:
    """The whole factor, or the fraction that floats have exactly."""
    found: float | None = None
    for part, key in ((part, key) for part in parts for key in ("multipleOf", "divisibleBy")):
        if key not in part.schema:
            continue
        factor = part.schema[key]
        if not is_number(factor) or not 0 < factor <= MAX_MULTIPLE_OF:
            part.refuse(key, why=f"must be a number above 0, {MAX_MULTIPLE_OF} at most")
        # Of others, such as 0.1, validators that divide floats find that 0.3 is no multiple.
        if not float(factor * 64).is_integer():
            part.refuse(key, why="is carried out of whole numbers and of halves, quarters, ...")
        if found not in (None, factor):
            part.refuse(key, why="two factors for one number are not carried out")
        found = factor
    if found is None:
        return None, None
    if float(found).is_integer():
        return int(found), None
    return None, Decimal(repr(float(found)))


def _range(parts: list[Part], most: Decimal, step: Decimal) -> tuple[Decimal, Decimal] | None:
    """The lowest and the highest multiple of `step` that the bounds allow; None: there is none."""
    low = (-most / step).to_integral_value(ROUND_CEILING) * step
    high = (most / step).to_integral_value(ROUND_FLOOR) * step
    for bound, is_low, is_exclusive in _bounds(parts):
        if abs(bound) > most:
            if (bound > 0) == is_low:
                return None
            continue
        nearest = (bound / step).to_integral_value(ROUND_CEILING if is_low else ROUND_FLOOR) * step
        if is_exclusive and nearest == bound:
            nearest += step if is_low else -step
        low, high = (max(low, nearest), high) if is_low else (low, min(high, nearest))
    return (low, high) if low <= high else None


def _bounds(parts: list[Part]) -> Iterable[tuple[Decimal, bool, bool]]:
    """Each with whether it is the lower, and whether it is exclusive."""
    for part in parts:
        name = part.schema.get("format")
        if isinstance(name, str) and name in OF_NUMBERS:
            yield Decimal(OF_NUMBERS[name][0]), True, False
            yield Decimal(OF_NUMBERS[name][1]), False, False
        for end in ("inimum", "aximum"):
            plain, exclusive = f"m{end}", f"exclusiveM{end}"
            is_low = end == "inimum"
            for key in (plain, exclusive):
                bound = part.schema.get(key)
                if bound is None or (isinstance(bound, bool) and key == exclusive):
                    continue
                if not is_number(bound):
                    part.refuse(key, why="must be a number")
                exact = Decimal(bound) if isinstance(bound, int) else Decimal(repr(bound))
                # In draft 4 a mark beside the bound makes it exclusive.
                is_exclusive = key == exclusive or part.schema.get(exclusive) is True
                yield exact, is_low, is_exclusive


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
