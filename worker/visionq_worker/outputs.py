"""From the model's text to the value of a kind's parser. Nothing here raises on bad text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, assert_never

from visionq.kinds import Parser


def parse(text: str, parser: Parser) -> Any:
    """The value the text stands for, or None when it does not have the form asked for.

    table: {"header": [...], "rows": [[...], ...]}, every row as long as the header.
    boxes: [{"label": str, "box": [left, top, right, bottom]}, ...].
    """
    match parser:
        case "text":
            return None
        case "table":
            return _table(text)
        case "boxes":
            return _boxes(text)
        case _:
            assert_never(parser)


def _table(text: str) -> dict[str, Any] | None:
    try:
        lines = [line for line in csv.reader(io.StringIO(text.strip()), strict=True) if line]
    except csv.Error:
        return None
    if len(lines) < 2 or len({len(line) for line in lines}) != 1:
        return None
    header, *rows = ([cell.strip() for cell in line] for line in lines)
    return {"header": header, "rows": rows}


def _boxes(text: str) -> list[dict[str, Any]] | None:
    try:
        found = json.loads(text)
        # What JSON itself cannot carry (half a surrogate pair, NaN) could not be stored.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(_is_box(item) for item in found):
        return None
    return [{"label": item["label"], "box": item["box"]} for item in found]


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
