"""From the model's text to the value of a kind's parser. Nothing here raises on bad text."""

from __future__ import annotations

import csv
import io
import json
from typing import Any, assert_never

from visionq.kinds import BOX_SCALE, Parser


def parse(text: str, parser: Parser, size: tuple[int, int]) -> Any:
    """The value the text stands for, or None when it does not have the form asked for.

    `size`: width and height of the first picture, upright, in pixels.

    table: {"header": [...], "rows": [[...], ...], "csv": str}, every row as long as the header.
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
    try:
        lines = [line for line in csv.reader(io.StringIO(text.strip()), strict=True) if line]
    except csv.Error:
        return None
    if len(lines) < 2 or len({len(line) for line in lines}) != 1:
        return None
    header, *rows = ([cell.strip() for cell in line] for line in lines)
    return {"header": header, "rows": rows, "csv": _as_csv([header, *rows])}


def _as_csv(lines: list[list[str]]) -> str:
    written = io.StringIO()
    csv.writer(written, lineterminator="\n").writerows(lines)
    return written.getvalue()


def _boxes(text: str, size: tuple[int, int]) -> list[dict[str, Any]] | None:
    try:
        found = json.loads(text)
        # What JSON itself cannot carry (half a surrogate pair, NaN) could not be stored.
        json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, list) or not all(_is_box(item) for item in found):
        return None
    return [_in_pixels(item, size) for item in found]


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
