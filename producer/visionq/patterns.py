"""Regular expressions of schemas: the part that every dialect reads alike.

Python, JavaScript and the grammar's library agree on what is let through here, and differ on much
of the rest: look-arounds, lazy and possessive quantifiers, named groups, back references, classes
of Unicode, and the opposites `\\D`, `\\S` and `\\W`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_PATTERN_CHARS = 500
MAX_REPEATS = 1_000
"""Of a quantifier, and of quantifiers within each other taken together."""

# A token of the part that is let through; a class is one token.
_ITEM = r"(?:[^\]\[\\^&~\-\x00-\x1f\x7f\u2581]|\\[\^$\\.\[\](){}|*+?/&~\-dswntr])"
_TOKEN = re.compile(
    rf"(?P<class>\[(?:\^(?!(?:[^\]\\]|\\.)*\\[dsw]))?-?(?:{_ITEM}(?:-{_ITEM})?)+-?\])"
    r"|(?P<escape>\\[\^$\\.\[\](){}|*+?/\-dswntr])"
    r"|(?P<open>\((?:\?:)?(?!\?))"
    r"|(?P<close>\))"
    r"|(?P<or>\|)"
    r"|(?P<repeat>[*+?]|\{(?P<low>[0-9]{1,4})(?P<comma>,(?P<high>[0-9]{1,4})?)?\})"
    r"|(?P<literal>[^\^$\\.\[\](){}|*+?\x00-\x1f\x7f\u2581]|\.)"
)


@dataclass(slots=True)
class _Group:
    """What is known of an open group: the lengths of its shortest branches, and its repeats."""

    shortest: int | None = None  # of the branches before this one
    length: int = 0  # of this one so far
    last: int | None = None  # of its last piece, which a quantifier may follow
    repeats: int = 1  # of the quantifiers within, multiplied
    last_repeats: int = 1

    def put(self, length: int, repeats: int = 1) -> None:
        self.length += length
        self.last, self.last_repeats = length, repeats
        self.repeats = max(self.repeats, repeats)

    def repeat(self, low: int, high: int) -> None:
        """Raises `ValueError`."""
        if self.last is None:
            raise ValueError("a quantifier follows nothing that could be repeated")
        if not low <= high:
            raise ValueError("a quantifier's limits are the wrong way round")
        self.length += (low - 1) * self.last
        self.repeats = max(self.repeats, self.last_repeats * max(1, high))
        self.last = None
        if self.repeats > MAX_REPEATS:
            raise ValueError(f"more than {MAX_REPEATS} repeats")

    def end_branch(self) -> int:
        """The shortest length so far; what comes now is another branch."""
        branch = self.length
        self.shortest = branch if self.shortest is None else min(self.shortest, branch)
        self.length, self.last = 0, None
        return self.shortest


def read_pattern(pattern: str) -> tuple[str, int]:
    """The pattern between its anchors, and the length of the shortest text that it matches.

    Raises `ValueError`, saying what is not carried out.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern has {MAX_PATTERN_CHARS} characters at most")
    if not pattern.startswith("^") or not pattern.endswith("$"):
        raise ValueError("a pattern is anchored at both ends: ^...$")
    body = pattern[1:-1]
    groups = [_Group()]
    position = 0
    while position < len(body):
        token = _TOKEN.match(body, position)
        if token is None:
            raise ValueError(f"not carried out from {body[position : position + 10]!r} on")
        position = token.end()
        _take(token, groups)
    if len(groups) != 1:
        raise ValueError("a group is not closed")
    try:
        re.compile(body)
    except re.error as exc:
        raise ValueError(f"not a regular expression: {exc}") from exc
    return body, groups[0].end_branch()


def _take(token: re.Match[str], groups: list[_Group]) -> None:
    match token.lastgroup:
        case "open":
            groups.append(_Group())
        case "close":
            if len(groups) == 1:
                raise ValueError("a group is closed that is not open")
            done = groups.pop()
            groups[-1].put(done.end_branch(), done.repeats)
        case "or":
            groups[-1].end_branch()
        case "class" | "escape" | "literal":
            groups[-1].put(1)
        case _:
            groups[-1].repeat(*_limits(token))


def _limits(token: re.Match[str]) -> tuple[int, int]:
    """Open ends count as none: the length of the whole string limits them."""
    sign = token[0]
    if sign in ("*", "+", "?"):
        return (1 if sign == "+" else 0), 1
    low = int(token["low"])
    if token["high"] is not None:
        return low, int(token["high"])
    return low, max(low, 1)
