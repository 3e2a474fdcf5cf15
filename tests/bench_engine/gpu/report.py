"""The figures of a run, as a table for docs/benchmarks.md and as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tests.bench.readings import Reading, table

What = Literal["prefill", "decode", "images"]
UNITS: dict[What, str] = {"prefill": "ms", "decode": "ms/step", "images": "images/s"}

HEADINGS = (
    "what",
    "image tokens",
    "batch",
    "ours",
    "floor",
    "floor at target",
    "generate, one at a time",
    "generate, static batch",
    "note",
)


@dataclass(slots=True, kw_only=True)
class Figure:
    """One row, in the unit of what it measures; None: not measured, and `notes` may say why."""

    what: What
    num_image: int
    batch: int
    ours: float | None = None
    floor: float | None = None  # at the rates measured in this run
    target_floor: float | None = None  # of a decode step: what its limit is counted from
    alone: float | None = None
    static: float | None = None
    notes: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "unit": UNITS[self.what]}

    def cells(self) -> tuple[str, ...]:
        numbers = (self.ours, self.floor, self.target_floor, self.alone, self.static)
        return (
            f"{self.what}, {UNITS[self.what]}",
            str(self.num_image),
            str(self.batch),
            *("-" if number is None else f"{number:.4g}" for number in numbers),
            "; ".join(self.notes),
        )


@dataclass(slots=True)
class Report:
    """All of a run. Rows are made when they are first asked for."""

    machine: dict[str, Any]
    figures: list[Figure] = field(default_factory=list)
    readings: list[Reading] = field(default_factory=list)
    troubles: list[str] = field(default_factory=list)

    def figure(self, what: What, num_image: int, batch: int) -> Figure:
        for figure in self.figures:
            if (figure.what, figure.num_image, figure.batch) == (what, num_image, batch):
                return figure
        self.figures.append(Figure(what=what, num_image=num_image, batch=batch))
        return self.figures[-1]

    def as_text(self) -> str:
        parts = [
            ", ".join(f"{name} {value}" for name, value in self.machine.items()),
            _markdown([HEADINGS, *(figure.cells() for figure in self._sorted())]),
            table(self.readings),
            *(f"TROUBLE: {trouble}" for trouble in self.troubles),
        ]
        return "\n\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        return {
            "machine": self.machine,
            "figures": [figure.as_dict() for figure in self._sorted()],
            "readings": [reading.as_dict() for reading in self.readings],
            "troubles": self.troubles,
        }

    def _sorted(self) -> list[Figure]:
        order = list(UNITS)
        return sorted(
            self.figures,
            key=lambda figure: (figure.num_image, order.index(figure.what), figure.batch),
        )


def _markdown(rows: Sequence[Iterable[str]]) -> str:
    head, *body = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + " --- |" * len(HEADINGS), *body])
