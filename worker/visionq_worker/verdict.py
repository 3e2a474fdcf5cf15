"""Whether an answer can be relied on, judged from how it ended and what it holds."""

from __future__ import annotations

import re
from typing import Any

from visionq.contract import FinishReason, Outcome, Verdict
from visionq.kinds import Parser

EMPTY = "empty"
REFUSED = "refused"
LOOP = "loop"
TRUNCATED = "truncated"
UNPARSED = "unparsed"
FONT_MISSING = "font_missing"
"""A PDF's page has text that could not be drawn."""

_REJECTING = frozenset({EMPTY, REFUSED})
_OF_INPUTS = frozenset({FONT_MISSING})
_BEYOND_HELP = frozenset({TRUNCATED}) | _OF_INPUTS
"""Another try would be cut off at the same length, and see the same images."""
_RANKS: dict[Outcome, int] = {"ok": 0, "degraded": 1, "rejected": 2}

MAX_REFUSAL_CHARS = 400
"""What is longer may begin with an apology and still answer."""
_REFUSAL = re.compile(
    r"(i'?m|i am) (very |so |really )?(sorry|unable|not able)"
    r"|sorry[,.!]? (but )?i\b"
    r"|i (can\s?not|can't) (help|assist|answer|provide|process|view|see|read|analy[sz]e|describe)"
    r"|(as|i am|i'm) an? (ai|artificial intelligence|language model)\b"
    r"|unfortunately,? i (can\s?not|can't|am unable)",
    re.IGNORECASE,
)


def judge(text: str, value: Any, *, finish_reason: FinishReason, parser: Parser) -> Verdict:
    """`rejected` when there is nothing to use, `degraded` when it is incomplete, else `ok`."""
    reasons = []
    if not text.strip():
        reasons.append(EMPTY)
    elif parser == "text" and is_refusal(text):
        reasons.append(REFUSED)
    if finish_reason == "loop":
        reasons.append(LOOP)
    if finish_reason == "length":
        reasons.append(TRUNCATED)
    if text.strip() and parser != "text" and value is None:
        reasons.append(UNPARSED)
    outcome: Outcome = "degraded" if reasons else "ok"
    return Verdict(
        outcome="rejected" if _REJECTING & set(reasons) else outcome, reasons=tuple(reasons)
    )


def with_input_reasons(verdict: Verdict, reasons: tuple[str, ...]) -> Verdict:
    """The verdict of an answer about images that had something wrong with them."""
    if not reasons:
        return verdict
    outcome: Outcome = "degraded" if verdict.outcome == "ok" else verdict.outcome
    return Verdict(outcome=outcome, reasons=(*verdict.reasons, *reasons))


def is_refusal(text: str) -> bool:
    """Whether the model says that it will not answer, in English, and nothing else."""
    start = text.strip().replace("\u2019", "'")
    return len(start) <= MAX_REFUSAL_CHARS and _REFUSAL.match(start) is not None


def is_worth_another_try(verdict: Verdict) -> bool:
    return bool(set(verdict.reasons) - _BEYOND_HELP)


def is_better(one: Verdict, other: Verdict) -> bool:
    return _rank(one) < _rank(other)


def _rank(verdict: Verdict) -> tuple[int, bool]:
    """What is wrong with the images is wrong with every try, and ranks none before the other."""
    return _RANKS[verdict.outcome], bool(set(verdict.reasons) - _OF_INPUTS)
