"""From the model's text to the value of a kind's parser. Nothing here raises on bad text.

Usual wrappings are taken off: a fence, a sentence before or behind. docs/answers.md says for users
what values are.
"""

from __future__ import annotations

import json
import re
from typing import Any, assert_never

from visionq.kinds import BOX_SCALE, Parser
from visionq_worker.tables import as_csv, read_table
from visionq_worker.wrappings import unfenced

READING = 2
"""Raised when a text comes to another value or prompt than before: older answers are not reused."""

_ARRAY_BEGINS = re.compile(r"\[\s*[{\]]")


def parse(text: str, parser: Parser, size: tuple[int, int]) -> Any:
    """The value the text stands for, or None when it does not have the form asked for.

    `size`: width and height of the first picture, upright, in pixels.

    table: {"header": [...], "rows": [[...], ...], "csv": str}, every row as long as the header;
    in the CSV alone, an apostrophe stands before what a spreadsheet would take for a formula.
    boxes: [{"label": str, "box": [left, top, right, bottom], "score": float}, ...], edges in pixels
    of the picture, within it; the score only where the model gives one, 0 to 1.
    """
    match parser:
        case "text":
            return None
        case "table":
            return _table(text)
        case "boxes":
            return _boxes(text, size)
        case _:
            assert_never(parser)


def _table(text: str) -> dict[str, Any] | None:
    lines = read_table(text)
    return None if lines is None else {"header": lines[0], "rows": lines[1:], "csv": as_csv(lines)}


def _boxes(text: str, size: tuple[int, int]) -> list[dict[str, Any]] | None:
    content = unfenced(text)
    if content is None:
        return None
    try:
        found = json.loads(_without_sentences(content))
        # What JSON itself cannot carry (half a surrogate pair, NaN) could not be stored.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(_is_box(item) for item in found):
        return None
    return [_in_pixels(item, size) for item in found]


def _without_sentences(text: str) -> str:
    """The array of objects in the text, if what stands around it holds nothing of JSON's."""
    begins = _ARRAY_BEGINS.search(text)
    end = text.rfind("]") + 1
    if begins is None or end <= begins.start():
        return text
    around = text[: begins.start()] + text[end:]
    return text if "{" in around or "}" in around else text[begins.start() : end]


def _in_pixels(item: dict[str, Any], size: tuple[int, int]) -> dict[str, Any]:
    sides = (*size, *size)
    edges = [
        round(min(max(edge, 0), BOX_SCALE) * side / BOX_SCALE)
        for edge, side in zip(item["box"], sides, strict=True)
    ]
    left, top, right, bottom = edges
    box = [min(left, right), min(top, bottom), max(left, right), max(top, bottom)]
    made: dict[str, Any] = {"label": item["label"], "box": box}
    if _is_number(item.get("score")) and 0 <= item["score"] <= 1:
        made["score"] = item["score"]
    return made


def _is_box(item: Any) -> bool:
    return (
        isinstance(item, dict)
        and isinstance(item.get("label"), str)
        and isinstance(item.get("box"), list)
        and len(item["box"]) == 4
        and all(_is_number(edge) for edge in item["box"])
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
