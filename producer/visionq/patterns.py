"""Regular expressions of schemas: the part that every dialect reads alike, written out anew.

Python, JavaScript and the grammar's library agree on what comes out of here: classes are spelled
out, so that none of them asks what a digit or a space is; where the dialects differ, what is
written is what all of them take. What cannot be written so is refused: look-arounds, back
references, word boundaries, inline flags, classes of Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from math import inf
from typing import TypeAlias

from visionq import automata
from visionq.automata import Either, Node, OneOf, Ranges, Repeat, Sequence, TooLong

MAX_PATTERN_CHARS = 1_000
MAX_REPEATS = 4_000
"""Of a quantifier, and of quantifiers within each other taken together."""
MAX_NESTED = 20
"""Groups within each other."""
MAX_WORK = 20_000
"""Steps to find the lengths of the texts that match, each of some microseconds."""
MAX_LENGTH = 4_000
"""Lengths of texts are followed up to here."""

Lengths: TypeAlias = int
"""A set of lengths: bit n is set where a text of n characters matches."""

_ALL_LENGTHS = (1 << (MAX_LENGTH + 1)) - 1
_LAST = 0x10FFFF
_ANY: Ranges = ((0, _LAST),)
# Control characters without a short escape in JSON, half surrogates, and the sign that stands for a
# space in the model's vocabulary: they are never written.
_UNWRITABLE: Ranges = (
    (0x00, 0x07), (0x0B, 0x0B), (0x0E, 0x1F), (0x7F, 0x7F), (0x2581, 0x2581), (0xD800, 0xDFFF),
)  # fmt: skip
_SURROGATES: Ranges = ((0xD800, 0xDFFF),)
_DIGITS: Ranges = ((0x30, 0x39),)
_WORD: Ranges = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES: Ranges = ((0x09, 0x0A), (0x0C, 0x0D), (0x20, 0x20))
_LINE_ENDS: Ranges = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_LIMITS = re.compile(r"\{([0-9]+),([0-9]*)\}")
_SHORTHANDS = {"d": _DIGITS, "w": _WORD, "s": _SPACES}
_CONTROLS = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C}
_PLAIN = frozenset(" !\"#%',/:;<=>@_`~&")
"""Beside letters and digits, what no dialect gives a meaning outside a class."""


NOTHING = Either(())
"""Which no text matches."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """What is written of a regular expression, for a text as a whole, and what is known of it."""

    body: str
    lengths: Lengths
    longest: float
    """Characters of the longest text, or infinity."""
    node: Node

    def matches(self, text: str) -> bool | None:
        """Whether the text is one of those that are written. Each of them matches everywhere.

        None: it would take too long to find out.
        """
        try:
            return automata.matches(self.node, text)
        except TooLong:
            return None

    def bounded(self, most: int) -> Pattern:
        """With lower ends to what repeats, so that no text is longer than `most`.

        Where that cannot be, the ends are as low as they can be.
        """
        low, high = 1, max(1, most)
        while low < high:
            middle = (low + high + 1) // 2
            found = self._ended(middle)
            is_short = found is not None and found.longest <= most
            low, high = (middle, high) if is_short else (low, middle - 1)
        return self._ended(low) or self

    def _ended(self, most: int) -> Pattern | None:
        """Written out, signs that repeat stand for nothing else. None: too much would repeat."""
        body = _LIMITS.sub(lambda limits: _lowered(limits, most), self.body)
        body = body.replace("*", f"{{0,{most}}}").replace("+", f"{{1,{most}}}")
        try:
            return written_pattern(f"^{body}$")
        except ValueError:
            return None

    def num_open_ends(self) -> int:
        """How many parts repeat without an end."""
        return self.body.count("*") + self.body.count("+") + self.body.count(",}")

    def excludes(self, other: Pattern) -> bool:
        """Whether no text is known to match both; where that takes too long, it is not known."""
        try:
            return not automata.have_common(self.node, other.node)
        except TooLong:
            return False

    def has_length(self, low: int, high: int) -> bool:
        """Whether a text of `low` to `high` characters matches."""
        return bool(self.lengths >> low & ((1 << (high - low + 1)) - 1))


def read_pattern(pattern: str) -> Pattern:
    """The pattern for a text as a whole: where it has no anchor, any text goes before and after.

    Raises `ValueError`, saying what is not carried out.
    """
    if len(pattern) > MAX_PATTERN_CHARS:
        raise ValueError(f"a pattern has {MAX_PATTERN_CHARS} characters at most")
    return written_pattern(pattern)


@lru_cache(maxsize=512)
def written_pattern(pattern: str) -> Pattern:
    """The same of a pattern that was written here, and may be longer than those that are given."""
    found = _Reader(pattern).whole()
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as exc:
        raise ValueError(f"not a regular expression: {exc}") from exc
    if not found.lengths:
        raise ValueError("matches no text that could be written")
    return Pattern(found.text, found.lengths, found.longest, found.node)


def _lowered(limits: re.Match[str], most: int) -> str:
    low, high = int(limits[1]), int(limits[2] or most)
    return f"{{{low},{max(low, min(high, most))}}}"


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of what is written. `is_one` says that a quantifier can follow it as it stands."""

    text: str
    lengths: Lengths
    longest: float = 0
    repeats: int = 1
    is_one: bool = False
    node: Node = NOTHING


class _Reader:
    """One walk through a pattern."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._position = 0
        self._nested = 0
        self._work = _Work()

    def whole(self) -> _Piece:
        found = self._branches(is_edge=True)
        if self._position < len(self._pattern):
            raise ValueError("a group is closed that is not open")
        return found

    def _branches(self, *, is_edge: bool) -> _Piece:
        """Up to the end, or the group's. At the edges of the whole pattern anchors may stand."""
        branches = [self._branch(is_edge=is_edge)]
        while self._take("|"):
            branches.append(self._branch(is_edge=is_edge))
        alive = [branch for branch in branches if branch.lengths]
        if not alive:
            return _Piece("", 0)
        lengths = 0
        for branch in alive:
            lengths |= branch.lengths
        repeats = max(branch.repeats for branch in alive)
        if len(alive) == 1:
            return alive[0]
        text = "(?:" + "|".join(one.text for one in alive) + ")"
        longest = max(branch.longest for branch in alive)
        node = Either(tuple(branch.node for branch in alive))
        return _Piece(text, lengths, longest, repeats, True, node)

    def _branch(self, *, is_edge: bool) -> _Piece:
        """A sequence; free text before it and after it where the pattern's edge has no anchor."""
        if is_edge and self._peek() == "(" and self._ends_branch(self._position):
            return self._group(is_edge=True)  # such as (^a|b$): its edges are the pattern's
        has_start = is_edge and self._take_all("^")
        has_end = False
        pieces: list[_Piece] = []
        while (sign := self._peek()) not in ("", "|", ")"):
            if sign == "^":
                raise ValueError("^ stands at the start of a pattern only")
            if sign != "$":
                pieces.append(self._quantified())
                continue
            has_end = self._take_all("$")
            if not is_edge or self._peek() not in ("", "|", ")"):
                raise ValueError("$ stands at the end of a pattern only")
        if is_edge and not has_start:
            pieces.insert(0, _FREE)
        if is_edge and not has_end:
            pieces.append(_FREE)
        return _sequence(pieces, self._work)

    def _group(self, *, is_edge: bool) -> _Piece:
        self._open()
        found = self._branches(is_edge=is_edge)
        self._close()
        return found

    def _ends_branch(self, start: int) -> bool:
        """Whether the group that opens there is closed right before the branch's end."""
        depth, position, in_class = 0, start, False
        while position < len(self._pattern):
            sign = self._pattern[position]
            if sign == "\\":
                position += 1
            elif in_class:
                in_class = sign != "]"
            elif sign == "[":
                in_class = True
                position += 1 if self._pattern[position + 1 : position + 2] == "]" else 0
            elif sign == "(":
                depth += 1
            elif sign == ")":
                depth -= 1
                if depth == 0:
                    return self._pattern[position + 1 : position + 2] in ("", "|", ")")
            position += 1
        return False

    def _quantified(self) -> _Piece:
        atom = self._atom()
        limits = self._limits()
        if limits is None:
            return atom
        self._take("?")  # lazy: the same texts match
        if self._peek() == "+":
            raise ValueError("possessive quantifiers are not carried out")
        low, high = limits
        return _repeated(atom, low, high, self._work)

    def _limits(self) -> tuple[int, int | None] | None:
        sign = self._peek()
        if sign in ("*", "+", "?"):
            self._position += 1
            return (1 if sign == "+" else 0), (1 if sign == "?" else None)
        found = re.compile(r"\{([0-9]{1,5})(?:(,)([0-9]{1,5})?)?\}").match(
            self._pattern, self._position
        )
        if found is None:
            if sign == "{":
                raise ValueError("{ stands for itself only as \\{")
            return None
        self._position = found.end()
        low = int(found[1])
        if found[2] is None:
            return low, low
        return low, None if found[3] is None else int(found[3])

    def _atom(self) -> _Piece:
        sign = self._peek()
        if sign == "(":
            found = self._group(is_edge=False)
            if not found.is_one and found.lengths:
                found = replace(found, text=f"(?:{found.text})", is_one=True)
            return found
        self._position += 1
        if sign == "[":
            return _one_of(self._class())
        if sign == ".":
            return _one_of(_without(_ANY, _LINE_ENDS))
        if sign == "\\":
            return _one_of(self._escape())
        if sign in "*+?{}]":
            raise ValueError(f"{sign} stands for itself only as \\{sign}")
        return _one_of(((ord(sign), ord(sign)),))

    def _open(self) -> None:
        self._position += 1
        self._nested += 1
        if self._nested > MAX_NESTED:
            raise ValueError(f"groups are nested deeper than {MAX_NESTED}")
        if self._take("?") and not self._take(":"):
            raise ValueError("groups are (...) and (?:...), without look-arounds, names and flags")

    def _close(self) -> None:
        if not self._take(")"):
            raise ValueError("a group is not closed")
        self._nested -= 1

    def _escape(self) -> Ranges:
        """After the backslash. A class for the shorthands, whose opposites are told of ASCII."""
        sign = self._peek()
        self._position += 1
        if sign in _SHORTHANDS:
            return _SHORTHANDS[sign]
        if sign.lower() in _SHORTHANDS and sign:
            return _without(((0, 0x7E),), _SHORTHANDS[sign.lower()])
        code = self._escaped_code(sign)
        return ((code, code),)

    def _escaped_code(self, sign: str) -> int:
        if sign in _CONTROLS:
            return _CONTROLS[sign]
        if sign in ("x", "u"):
            digits = 2 if sign == "x" else 4
            text = self._pattern[self._position : self._position + digits]
            if len(text) == digits and all(one in "0123456789abcdefABCDEF" for one in text):
                self._position += digits
                return int(text, 16)
        if sign and ord(sign) < 0x80 and not sign.isalnum():
            return ord(sign)
        raise ValueError(f"\\{sign} is not carried out")

    def _class(self) -> Ranges:
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        is_ascii = False
        if self._peek() in ("]", "["):
            raise ValueError("a class begins neither with ] nor with [")
        while not self._take("]"):
            for doubled in ("[:", "&&", "||", "~~", "--"):
                if self._pattern.startswith(doubled, self._position):
                    raise ValueError(f"{doubled} in a class is not carried out")
            low = self._class_item()
            if not (self._peek() == "-" and self._pattern[self._position + 1 :][:1] != "]"):
                is_ascii = is_ascii or len(low) > 1 or low[0][0] != low[0][1]
                ranges.extend(low)
                continue
            self._position += 1
            high = self._class_item()
            if len(low) > 1 or len(high) > 1 or low[0][0] != low[0][1] or high[0][0] != high[0][1]:
                raise ValueError("a range goes from one character to another")
            if low[0][0] > high[0][0]:
                raise ValueError("a range is the wrong way round")
            ranges.append((low[0][0], high[0][0]))
        if not is_negated:
            return _ordered(ranges)
        return _without(((0, 0x7E if is_ascii else _LAST),), _ordered(ranges))

    def _class_item(self) -> Ranges:
        sign = self._peek()
        if not sign:
            raise ValueError("a class is not closed")
        self._position += 1
        return self._escape() if sign == "\\" else ((ord(sign), ord(sign)),)

    def _peek(self) -> str:
        return self._pattern[self._position : self._position + 1]

    def _take(self, sign: str) -> bool:
        if self._peek() != sign:
            return False
        self._position += 1
        return True

    def _take_all(self, sign: str) -> bool:
        found = False
        while self._take(sign):
            found = True
        return found


def _sequence(pieces: Iterable[_Piece], work: _Work) -> _Piece:
    pieces = list(pieces)
    lengths = 1  # the empty text
    for piece in pieces:
        lengths = work.joined(lengths, piece.lengths)
    text = "".join(piece.text for piece in pieces)
    repeats = max((piece.repeats for piece in pieces), default=1)
    if len(pieces) == 1:
        return pieces[0]
    longest = sum(piece.longest for piece in pieces)
    node = Sequence(tuple(one.node for one in pieces))
    return _Piece(text, lengths, longest, repeats, False, node)


def _repeated(atom: _Piece, low: int, high: int | None, work: _Work) -> _Piece:
    if high is not None and low > high:
        raise ValueError("a quantifier's limits are the wrong way round")
    repeats = atom.repeats * max(1, low, high or 0)
    if repeats > MAX_REPEATS:
        raise ValueError(f"more than {MAX_REPEATS} repeats")
    if not atom.lengths:  # matches nothing: only none of it does
        return _sequence([], work) if low == 0 else _Piece("", 0)
    if high == 0:
        return _sequence([], work)
    sign = {(0, None): "*", (1, None): "+", (0, 1): "?", (1, 1): ""}.get(
        (low, high),
        f"{{{low}}}" if low == high else f"{{{low},{'' if high is None else high}}}",
    )
    text = atom.text if atom.is_one else f"(?:{atom.text})"
    lengths = work.power(atom.lengths, low)
    rest = work.closure(atom.lengths) if high is None else work.power(atom.lengths | 1, high - low)
    node = Repeat(atom.node, low, high)
    longest = atom.longest * (inf if high is None else high) if atom.longest else 0
    return _Piece(text + sign, work.joined(lengths, rest), longest, repeats, False, node)


class _Work:
    """Joins sets of lengths, up to a number of steps: a pattern takes no longer to read."""

    def __init__(self) -> None:
        self._left = MAX_WORK

    def joined(self, first: Lengths, second: Lengths) -> Lengths:
        """The lengths of a text of the one and a text of the other. Raises `ValueError`."""
        if first.bit_count() > second.bit_count():
            first, second = second, first
        lengths = 0
        while first:
            self._left -= 1
            if self._left < 0:
                raise ValueError("repeats in too many ways")
            start = (first & -first).bit_length() - 1
            rest = first >> start
            run = (~rest & (rest + 1)).bit_length() - 1  # lengths in a row
            lengths |= _spread(second << start, run)
            first = rest >> run << (start + run)
        return lengths & _ALL_LENGTHS

    def power(self, lengths: Lengths, times: int) -> Lengths:
        result = 1
        while times:
            if times & 1:
                result = self.joined(result, lengths)
            times >>= 1
            lengths = self.joined(lengths, lengths) if times else lengths
        return result

    def closure(self, lengths: Lengths) -> Lengths:
        """Any number of them."""
        if lengths & 2:
            return _ALL_LENGTHS
        found = lengths | 1
        while (longer := self.joined(found, found)) != found:
            found = longer
        return found


def _spread(lengths: Lengths, times: int) -> Lengths:
    """Each of them, and as many in a row from it on."""
    done = 1
    while done < times:
        step = min(done, times - done)
        lengths |= lengths << step
        done += step
    return lengths


def _ordered(ranges: Iterable[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for low, high in sorted(ranges):
        if merged and low <= merged[-1][1] + 1:
            merged[-1] = merged[-1][0], max(merged[-1][1], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def _without(ranges: Ranges, taken: Ranges) -> Ranges:
    """What is left of the ranges."""
    left: list[tuple[int, int]] = []
    for first, high in ranges:
        low = first
        for taken_low, taken_high in taken:
            if taken_high < low or taken_low > high:
                continue
            if low < taken_low:
                left.append((low, taken_low - 1))
            low = taken_high + 1
        if low <= high:
            left.append((low, high))
    return tuple(left)


def _one_of(ranges: Ranges) -> _Piece:
    ranges = _without(_ordered(ranges), _UNWRITABLE)
    if not ranges:
        return _Piece("", 0)
    if len(ranges) == 1 and ranges[0][0] == ranges[0][1]:
        return _Piece(_literal(ranges[0][0]), 2, 1, 1, True, OneOf(ranges))
    if ranges[-1][1] < _LAST:
        return _Piece(f"[{_spelled(ranges)}]", 2, 1, 1, True, OneOf(ranges))
    # What is left out is shorter to say. No text has a half surrogate.
    left_out = _without(_without(_ANY, ranges), _SURROGATES)
    return _Piece(f"[^{_spelled(left_out)}]", 2, 1, 1, True, OneOf(ranges))


def _spelled(ranges: Ranges) -> str:
    return "".join(
        _in_class(low) if low == high else f"{_in_class(low)}-{_in_class(high)}"
        for low, high in ranges
    )


def _literal(code: int) -> str:
    sign = chr(code)
    is_plain = sign.isalnum() or sign in _PLAIN if code < 0x80 else True
    return sign if is_plain else f"\\x{code:02x}"


def _in_class(code: int) -> str:
    if code >= 0x10000:
        return chr(code)
    if code >= 0x80:
        return f"\\u{code:04x}"
    return chr(code) if chr(code).isalnum() else f"\\x{code:02x}"


_FREE = _repeated(_one_of(_ANY), 0, None, _Work())


def literal(text: str) -> str:
    """The pattern of one text."""
    return _written(text)


def any_key(low: int, high: int) -> str:
    """The body of any text of so many characters on one line."""
    return f"{_one_of(_TEXT).text}{{{low},{high}}}"


def other_than(texts: Iterable[str], most: int | None = None) -> str:
    """The body of the texts that are none of these; of 1 to `most` characters, if that is given."""
    texts = set(texts)
    starts = {text[:length] for text in texts for length in range(len(text) + 1)} | {""}
    branches = []
    for start in sorted(starts):
        if start not in texts and (start or most is None):
            branches.append(_written(start))
        following = _ordered(
            (ord(text[len(start)]),) * 2
            for text in starts
            if len(text) == len(start) + 1 and text.startswith(start)
        )
        if most is None or len(start) < most:
            rest = "*" if most is None else f"{{0,{most - len(start) - 1}}}"
            other, following_it = _one_of(_without(_TEXT, following)), _one_of(_TEXT)
            branches.append(_written(start) + other.text + following_it.text + rest)
    return "(?:" + "|".join(branches) + ")"


_TEXT: Ranges = _without(_ANY, _LINE_ENDS)


def _written(text: str) -> str:
    return "".join(_literal(ord(sign)) for sign in text)
