"""What a bar has measured, and the table of all of them."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Sense = Literal["<=", ">=", "<", "="]

_COMPARE = {"<=": operator.le, ">=": operator.ge, "<": operator.lt, "=": operator.eq}
_HEADINGS = ("bar", "what", "measured", "limit", "met", "detail")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One row: a figure and its limit. A reading without a limit is there to be looked at."""

    bar: str
    what: str
    measured: float
    unit: str = "x"
    sense: Sense = "<="
    limit: float | None = None
    detail: str = ""

    @property
    def is_met(self) -> bool | None:
        if self.limit is None:
            return None
        return bool(_COMPARE[self.sense](self.measured, self.limit))

    def as_dict(self) -> dict[str, Any]:
        return {**asdict(self), "is_met": self.is_met}


def table(readings: Iterable[Reading]) -> str:
    """The readings as text, one a line, columns aligned."""
    rows = [_HEADINGS, *(_cells(reading) for reading in readings)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    return "\n".join(_line(row, widths) for row in rows)


def _cells(reading: Reading) -> tuple[str, ...]:
    limit = "-" if reading.limit is None else f"{reading.sense} {reading.limit:g} {reading.unit}"
    met = {True: "yes", False: "NO", None: "-"}[reading.is_met]
    measured = f"{reading.measured:.4g} {reading.unit}"
    return reading.bar, reading.what, measured, limit, met, reading.detail


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
    return "  ".join(cells).rstrip()
