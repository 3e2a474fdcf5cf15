"""What a look at something that a worker needs has found: one line, and what to do."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from visionq_worker.errors import StartError

log = logging.getLogger(__name__)


class Level(StrEnum):
    """WARN: a worker can do its work, but something that one should know is missing."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of `visionq-worker check`.

    `stops_start`: with FAIL, a worker does not start either; else it says so and goes on.
    """

    name: str
    level: Level
    text: str
    stops_start: bool = True


def ok(name: str, text: str) -> Finding:
    return Finding(name=name, level=Level.OK, text=text)


def warn(name: str, text: str) -> Finding:
    return Finding(name=name, level=Level.WARN, text=text)


def fail(name: str, text: str, *, stops_start: bool = True) -> Finding:
    return Finding(name=name, level=Level.FAIL, text=text, stops_start=stops_start)


def require(findings: Iterable[Finding]) -> None:
    """What a start makes of them: logs what it can do without. Raises `StartError`."""
    for finding in findings:
        if finding.level is Level.FAIL and finding.stops_start:
            raise StartError(f"{finding.name}: {finding.text}")
        if finding.level is not Level.OK:
            log.warning("%s: %s", finding.name, finding.text)
