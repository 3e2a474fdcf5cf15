"""Texts that regular expressions match: whether one does, and whether two have one in common.

Nothing here backtracks: the time is bounded by the steps that are counted, whatever the expression.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

MAX_MATCH_STEPS = 200_000
MAX_COMMON_STEPS = 20_000

Ranges: TypeAlias = tuple[tuple[int, int], ...]
"""Code points, both ends included, in order."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True, slots=True)
class Sequence:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    nodes: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """From `low` to `high` times; None: any number."""

    node: Node
    low: int
    high: int | None


Node: TypeAlias = OneOf | Sequence | Either | Repeat
_Rest: TypeAlias = "tuple[Node, _Rest] | None"
"""What is still to be matched, the next first."""
_State: TypeAlias = "tuple[Ranges, _Rest] | None"
"""A character of these comes next, and then the rest; None: the end."""


class TooLong(Exception):
    """More steps than are taken."""


def matches(node: Node, text: str) -> bool:
    """Whether the whole text matches. Raises `TooLong`."""
    steps = _Steps(MAX_MATCH_STEPS)
    states = steps.states((node, None))
    for sign in text:
        code = ord(sign)
        steps.count(len(states))
        states = frozenset(
            after
            for state in states
            if state is not None and any(low <= code <= high for low, high in state[0])
            for after in steps.states(state[1])
        )
        if not states:
            return False
    return None in states


def have_common(one: Node, other: Node) -> bool:
    """Whether a text matches both. Raises `TooLong`."""
    steps = _Steps(MAX_COMMON_STEPS)
    todo = [(a, b) for a in steps.states((one, None)) for b in steps.states((other, None))]
    seen = set(todo)
    while todo:
        a, b = todo.pop()
        if a is None and b is None:
            return True
        if a is None or b is None or not _overlap(a[0], b[0]):
            continue
        for after in ((c, d) for c in steps.states(a[1]) for d in steps.states(b[1])):
            steps.count()
            if after not in seen:
                seen.add(after)
                todo.append(after)
    return False


def _overlap(one: Ranges, other: Ranges) -> bool:
    return any(
        low <= other_high and other_low <= high
        for low, high in one
        for other_low, other_high in other
    )


class _Steps:
    """Counts them, and remembers what may come next."""

    def __init__(self, most: int) -> None:
        self._left = most
        self._known: dict[_Rest, frozenset[_State]] = {}

    def count(self, steps: int = 1) -> None:
        self._left -= steps
        if self._left < 0:
            raise TooLong

    def states(self, rest: _Rest) -> frozenset[_State]:
        if rest not in self._known:
            self._known[rest] = frozenset(self._next(rest))
        return self._known[rest]

    def _next(self, start: _Rest) -> Iterator[_State]:
        todo, seen = [start], {start}
        while todo:
            self.count()
            rest = todo.pop()
            if rest is None:
                yield None
                continue
            node, after = rest
            if isinstance(node, OneOf):
                yield node.ranges, after
                continue
            for further in _opened(node, after):
                if further not in seen:
                    seen.add(further)
                    todo.append(further)


def _opened(node: Sequence | Either | Repeat, after: _Rest) -> Iterator[_Rest]:
    """What is to be matched in the place of a node."""
    if isinstance(node, Sequence):
        for inner in reversed(node.nodes):
            after = (inner, after)
        yield after
    elif isinstance(node, Either):
        yield from ((inner, after) for inner in node.nodes)
    else:
        if node.low == 0:
            yield after
        if node.high is None or node.high > 0:
            high = None if node.high is None else node.high - 1
            again = Repeat(node.node, max(0, node.low - 1), high)
            yield (node.node, (again, after))
