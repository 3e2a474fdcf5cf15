"""What docs/answers.md says of values is what workers make of the model's text."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any

from visionq.kinds import BUILTIN_KINDS
from visionq_worker import documents, verdict
from visionq_worker.outputs import parse

PAGE = (Path(__file__).parents[2] / "docs" / "answers.md").read_text()


def block(heading: str, language: str) -> str:
    section = PAGE.split(f"## {heading}\n", 1)[1]
    match = re.search(rf"```{language}\n(.*?)```", section, re.DOTALL)
    assert match is not None
    return match[1]


def test_table_is_as_shown_and_its_csv_is_read_as_shown() -> None:
    text = "| Item | Change |\n|---|---|\n| Pen, red | -5 |\n| =A1+1 | +3.2 % |"
    value = parse(text, "table", (1, 1))
    assert value == json.loads(block("Tables", "json"))
    module: Any = ModuleType("reading")
    exec(compile(block("Tables", "python"), "answers.md", "exec"), module.__dict__)
    assert module.read_table(value["csv"]) == [value["header"], *value["rows"]]


def test_boxes_are_as_shown() -> None:
    text = '[{"label": "cup", "box": [300, 100, 650, 375], "score": 0.9}]'
    assert parse(text, "boxes", (400, 800)) == json.loads(block("Boxes", "json"))


def test_all_kinds_and_reasons_are_named() -> None:
    rows = re.findall(r"^\| (.*?) \|", PAGE, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    reasons = {verdict.EMPTY, verdict.REFUSED, verdict.LOOP, verdict.TRUNCATED, verdict.UNPARSED}
    assert named >= reasons | {documents.SCHEMA_INVALID} | set(BUILTIN_KINDS)
