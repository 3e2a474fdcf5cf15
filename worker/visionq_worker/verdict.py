"""Whether an answer can be relied on, judged from how it ended and what it holds."""

from __future__ import annotations

from typing import Any

from visionq.contract import FinishReason, Verdict
from visionq.kinds import Parser

EMPTY = "empty"
TRUNCATED = "truncated"
UNPARSED = "unparsed"


def judge(text: str, value: Any, *, finish_reason: FinishReason, parser: Parser) -> Verdict:
    """`rejected` when there is nothing to use, `degraded` when it is incomplete, else `ok`."""
    if not text.strip():
        return Verdict(outcome="rejected", reasons=(EMPTY,))
    reasons = []
    if finish_reason == "length":
        reasons.append(TRUNCATED)
    if parser != "text" and value is None:
        reasons.append(UNPARSED)
    return Verdict(outcome="degraded" if reasons else "ok", reasons=tuple(reasons))
