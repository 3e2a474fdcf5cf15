"""How right an answer about a drawn picture is."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from visionq import Result
    from visionq_worker.pocket.world.samples import Sample

CHANGED = re.compile(r"(?:The|A) (\w+ \w+) is ")


@dataclass(slots=True)
class Tally:
    """Of one sort of pictures. `seconds`: of tasks that were alone, from submit to result."""

    asked: int = 0
    right: int = 0
    letters: int = 0
    wrong_letters: int = 0
    seconds: list[float] = field(default_factory=list)

    def add(self, drawn: Sample, result: Result | None) -> None:
        """Count a task; without a result, as one that was answered with nothing."""
        text = result.text or "" if result else ""
        self.asked += 1
        self.right += is_right(drawn, text, result.value if result else None)
        self.letters += len(drawn.answer)
        # Whatever is written beyond the true answer's length is no worse than nothing at all.
        self.wrong_letters += min(len(drawn.answer), edits(drawn.answer, text))

    @property
    def exact(self) -> float:
        return self.right / self.asked

    @property
    def character_errors(self) -> float:
        return self.wrong_letters / self.letters

    @property
    def p50_seconds(self) -> float:
        return median(self.seconds) if self.seconds else float("nan")


def is_right(drawn: Sample, text: str, value: Any) -> bool:
    """Whether the answer says what was asked for, by sort:

    cover: title and author, or all its lines; chart and line-chart: its title, which bar or point
    is the largest, and that one's value; table: every cell; scene: the shapes with their colours;
    pair: which thing has changed; document: every fact, and of what the picture does not say null
    or, where its schema allows that, nothing.
    """
    match drawn.sort:
        case "chart" | "line-chart":
            told = drawn.value
            end = f"The largest is {told['largest']} with {told['value']}."
            return text.startswith(f"{told['title']}. ") and text.endswith(end)
        case "table":
            return isinstance(value, dict) and value.items() >= drawn.value.items()
        case "document":
            return isinstance(value, dict) and _facts(value) == _facts(drawn.value)
        case "scene" if drawn.kind == "detect":
            wanted = sorted(thing["label"] for thing in drawn.value)
            return isinstance(value, list) and sorted(box["label"] for box in value) == wanted
        case "pair":
            found = CHANGED.match(text)
            return found is not None and found[1] == drawn.value["changed"]
        case "scene":
            listed = text.removesuffix(".").lower().split(", ")
            return sorted(listed) == sorted(f"a {label}" for label in drawn.value)
        case _:
            return text == drawn.answer


def _facts(document: dict[str, Any]) -> dict[str, Any]:
    return {key: fact for key, fact in document.items() if fact is not None}


def edits(wanted: str, found: str) -> int:
    """Letters to insert, delete or replace to make one of the other (Levenshtein)."""
    row = list(range(len(found) + 1))
    for number, letter in enumerate(wanted, 1):
        before, row[0] = row[0], number
        for column, other in enumerate(found, 1):
            before, row[column] = (
                row[column],
                min(before + (letter != other), row[column] + 1, row[column - 1] + 1),
            )
    return row[-1]
