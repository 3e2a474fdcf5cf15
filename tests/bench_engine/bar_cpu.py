"""The engine beside `generate` on the CPU, tiny model: many requests at once, and one alone.

Seconds from the decoded pictures to the last token, the preparation of pixels included on both
sides. Both have to say the same tokens, or the comparison is worth nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

from tests.bench.readings import Reading
from tests.bench.rig import Rig
from tests.bench.timing import Cost, interleave
from tests.bench_engine.children import Child, starting_child
from tests.bench_engine.engines import EngineSpec

MODULE = "tests.bench_engine.engine_main"

NUM_TOKENS = 64
TOGETHER = 16
NUM_ALONE = 4
"""Lone requests in a round, one after the other."""

LEAST_TOGETHER = 4.0
LEAST_ALONE = 0.9


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`times` times `at_once` requests, and by what factor ours has to be faster."""

    what: str
    num_crops: int
    at_once: int
    times: int = 1
    least: float | None = None
    is_one_picture: bool = False


CASES = (
    Case(what="16 at once, 1 crop", num_crops=1, at_once=TOGETHER, least=LEAST_TOGETHER),
    Case(what="16 at once, 4 crops", num_crops=4, at_once=TOGETHER, least=LEAST_TOGETHER),
    Case(what="16 at once, 16 crops", num_crops=16, at_once=TOGETHER),
    Case(what="16 of one picture, 4 crops", num_crops=4, at_once=TOGETHER, is_one_picture=True),
    Case(what="alone, 1 crop", num_crops=1, at_once=1, times=NUM_ALONE, least=LEAST_ALONE),
    Case(what="alone, 4 crops", num_crops=4, at_once=1, times=NUM_ALONE, least=LEAST_ALONE),
    Case(what="alone, 16 crops", num_crops=16, at_once=1, times=NUM_ALONE),
)


def measure_cpu(rig: Rig) -> Iterator[Reading]:
    with ExitStack() as stack:
        ours, theirs = (
            stack.enter_context(starting_child(MODULE, json.dumps(spec.as_dict())))
            for spec in (EngineSpec(sort="ours"), EngineSpec(sort="reference"))
        )
        for child in (ours, theirs):
            child.wait_until_ready()
        sides = (Side(ours), Side(theirs))
        for full in CASES:
            case = _scaled(full, rig)
            yield _reading(case, *_costs(rig, case, *sides))


def _scaled(case: Case, rig: Rig) -> Case:
    """Fewer requests where the bench is only tried out."""
    at_once = rig.count(case.at_once, least=min(2, case.at_once))
    return replace(case, at_once=at_once, times=rig.count(case.times, least=1))


@dataclass(slots=True)
class Side:
    """One engine. Both see the same pictures in the same order, and no picture comes back."""

    child: Child
    said: list[Any] = field(default_factory=list)
    numbers: count[int] = field(default_factory=count)

    def run(self, case: Case, num_tokens: int) -> Cost:
        seconds = 0.0
        for _ in range(case.times):
            answer = self.child.ask(
                "answer",
                count=case.at_once,
                num_crops=case.num_crops,
                num_tokens=num_tokens,
                first_picture=TOGETHER * next(self.numbers),
                is_one_picture=case.is_one_picture,
            )
            seconds += answer["seconds"]
            self.said.append(answer["token_ids"])
        return Cost(seconds, 0.0)


def _costs(rig: Rig, case: Case, ours: Side, theirs: Side) -> tuple[Cost, Cost]:
    num_tokens = rig.count(NUM_TOKENS, least=4)
    costs = interleave(
        {
            "ours": lambda: ours.run(case, num_tokens),
            "theirs": lambda: theirs.run(case, num_tokens),
        },
        rig.rounds,
    )
    assert ours.said == theirs.said, f"{case.what}: the engines disagree"
    return costs["ours"], costs["theirs"]


def _reading(case: Case, ours: Cost, theirs: Cost) -> Reading:
    requests = case.at_once * case.times
    return Reading(
        bar="cpu",
        what=f"requests/s of ours / generate, {case.what}",
        measured=theirs.wall / ours.wall,
        sense=">=",
        limit=case.least,
        detail=f"{requests / ours.wall:.2f} / {requests / theirs.wall:.2f} per second",
    )
