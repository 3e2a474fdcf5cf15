"""Tables in the text of a chat model, and the CSV that is made of them.

Read are CSV, lines separated by tabs or semicolons, and Markdown tables; each in a fence or not,
with a sentence before or behind. Whatever cannot be told from prose, could be read in two ways, or
has rows of different lengths, is no table. Nothing here raises on bad text.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from itertools import pairwise
from typing import TypeAlias

from visionq_worker.wrappings import unfenced

Lines: TypeAlias = list[list[str]]
"""A header and one row at least, all of one length; cells without the white space around them."""

_SEPARATORS = (",", "\t", ";")

_HTML = re.compile(r"</t(able|[dhr])>", re.IGNORECASE)
_PIPE = re.compile(r"(?<!\\)\|")
_RULE = re.compile(r"(?=.*(---|===))[\s|+:=-]+")
_ANY_RULE = re.compile(r"(?=.*[-=])[\s|+:=-]+")
_RULE_CELL = re.compile(r":?(-+|=+):?")
_LONG_RULE_CELL = re.compile(r":?(-{3,}|={3,}):?")

_SENTENCE_END = re.compile(r"""[.:!?…。：！？][)\]"'”’*_]*$""")
_HEADING = re.compile(r"#{1,6}\s+[^\W_].*|\*\*[^*]+\*\*|__[^_]+__")
_LIST_ITEM = re.compile(r"([-*•+>#]|[0-9]{1,3}[.)])\s")
_NAMED = re.compile(r"[^:]+:\s")
_BRACKETS = ("[]", "()", "{}")
_SENTENCE_WORDS = 4
"""A line that ends as a sentence does is one from so many words on, where it could be a row."""
_MAX_REMARK_LINES = 16
"""Before a table, and behind it, empty ones included."""
_MAX_PROSE_WORDS = 3
"""Of a cell, on the average, where white space follows on each comma."""
_THOUSANDS = re.compile(r"(?<=[0-9]),(?=[0-9]{3}(?![0-9]))")

_MAX_WORDS = 6
"""Of a cell that stands alone in its line, without quotes."""
_VERB_WORDS = 3
"""From so many words on, a line with one of `_VERBS` is prose."""
_NOT_IN_LONE_CELLS = re.compile(r"[|<>{}\[\]\\;\t\u2500-\u257f]|:\s")
_VERBS = re.compile(
    r"\b(is|are|was|were|has|have|can|cannot|can't|shows?|contains?|there|here|this|i|i'm)\b",
    re.IGNORECASE,
)

_FORMULA = re.compile("'*[=+\\-@\t\r\uff1d\uff0b\uff0d\uff20]")
"""What begins so is a formula to a spreadsheet, or was guarded from being one."""
_NUMBER = re.compile(
    r"[+-]("
    r"([0-9]+([.,][0-9]*)?|[.,][0-9]+)(e[+-]?[0-9]+)?"
    r"|[0-9]{1,3}([,'\u2019 \u00a0\u202f][0-9]{3})+(\.[0-9]*)?"
    r"|[0-9]{1,3}([.'\u2019 \u00a0\u202f][0-9]{3})+(,[0-9]*)?"
    r")[ \u00a0\u202f]?%?",
    re.IGNORECASE,
)


def read_table(text: str) -> Lines | None:
    """The one table that the text holds, or None."""
    content = unfenced(text)
    if content is None or _HTML.search(content):
        return None
    lines = io.StringIO(content.strip(), newline="").readlines()
    found = [table for mark in _SEPARATORS if (table := _separated(lines, mark))]
    if found:
        return None if len(found) > 1 or _may_be_piped(lines) else found[0]
    return _piped([line.strip() for line in lines]) or _column(lines)


def as_csv(lines: Sequence[Sequence[str]]) -> str:
    """The table as CSV, in which no cell is a formula to a spreadsheet.

    An apostrophe stands before cells that would be one; what is a number stays as it is. Read back,
    a cell of apostrophes and then `=`, `+`, `-`, `@` or their full-width forms has one too many.
    """
    written = io.StringIO()
    guarded = ([_guarded(cell) for cell in line] for line in lines)
    csv.writer(written, lineterminator="\n").writerows(guarded)
    return written.getvalue()


def _guarded(cell: str) -> str:
    is_safe = _FORMULA.match(cell) is None or _NUMBER.fullmatch(cell)
    # A return is the end of a line to some readers, and is not put in quotes by this writer.
    return re.sub("\r\n?", "\n", cell if is_safe else f"'{cell}")


def _is_table(rows: Lines, *, min_columns: int) -> bool:
    return (
        len(rows) > 1
        and len(rows[0]) >= min_columns
        and all(len(row) == len(rows[0]) for row in rows)
    )


# Separated by commas, tabs or semicolons


def _separated(lines: list[str], mark: str) -> Lines | None:
    """A table of two columns at least, its cells separated by this character."""
    kept = _without_remarks(lines, mark)
    records = _records(kept, mark)
    if not _is_evenly_spaced(records):
        return None
    rows = [record for record in records if record]
    if len(rows) > 1 and _is_rule_of_cells(rows[1], len(rows[0])):
        del rows[1]
    is_table = _is_table(rows, min_columns=2) and not _is_prose(kept, rows, mark)
    return rows if is_table else None


def _is_rule_of_cells(cells: list[str], num_cells: int) -> bool:
    return len(cells) in (1, num_cells) and all(_LONG_RULE_CELL.fullmatch(cell) for cell in cells)


def _records(lines: list[str], mark: str) -> Lines:
    """Of an empty line, an empty record; of what is no CSV, none."""
    try:
        reader = csv.reader(lines, delimiter=mark, skipinitialspace=True, strict=True)
        return [[cell.strip() for cell in record] for record in reader]
    except csv.Error:
        return []


def _is_evenly_spaced(records: Lines) -> bool:
    """Whether empty lines stand between all rows, or below the header, or nowhere.

    Elsewhere they would separate two tables.
    """
    filled = [number for number, record in enumerate(records) if record]
    gaps = [after - before > 1 for before, after in pairwise(filled)]
    return all(gaps) or not any(gaps[1:])


def _without_remarks(lines: list[str], mark: str) -> list[str]:
    """The lines without what is said before and behind; nothing where that may be a row."""
    kept = list(lines)
    try:
        for _ in range(_MAX_REMARK_LINES):
            if kept and _leads_in(kept[0], kept[1:], mark):
                del kept[0]
            if kept and _trails(kept[-1], kept[-2::-1], mark):
                del kept[-1]
    except _CannotTell:
        return []
    return kept


class _CannotTell(Exception):
    """A line is a sentence, and could be a row as well."""


def _leads_in(line: str, others: list[str], mark: str) -> bool:
    is_apart = _is_apart(others)
    if mark not in line:
        num_words = len(line.split())
        is_title = _HEADING.fullmatch(line.strip()) or (is_apart and num_words > 1)
        return _has_whole_quotes(line) and bool(not num_words or is_title or _ends(line))
    if not _is_sentence(line, mark):
        return False
    if is_apart or _is_unlike(line, others, mark):
        return True
    raise _CannotTell


def _trails(line: str, others: list[str], mark: str) -> bool:
    """`others`: the lines before it, the nearest one first."""
    is_apart = _is_apart(others)
    if mark not in line:
        num_words = len(line.split())
        is_note = (_ends(line) and num_words > 1) or (is_apart and num_words > 2)
        return _has_whole_quotes(line) and (not num_words or is_note)
    if not _is_sentence(line, mark):
        return False
    is_only_gap = is_apart and all(other.strip() for other in others[1:])
    if is_only_gap or _is_unlike(line, others, mark):
        return True
    if any(_ends(other) for other in others):
        return False  # rows of this table end like that
    raise _CannotTell


def _is_apart(others: list[str]) -> bool:
    return bool(others) and not others[0].strip()


def _is_sentence(line: str, mark: str) -> bool:
    """Whether a line with separators in it may be prose all the same."""
    is_long = len(line.split()) >= _SENTENCE_WORDS
    return is_long and _ends(line) and _is_loose(line, mark) and _has_whole_quotes(line)


def _is_unlike(line: str, others: list[str], mark: str) -> bool:
    """Whether a sentence cannot be one of these rows: by its length, or its spaces."""
    nearest = next((other for other in others if other.strip()), "")
    return nearest.count(mark) != line.count(mark) or not all(
        _is_loose(other, mark) for other in others
    )


def _is_loose(line: str, mark: str) -> bool:
    """Whether white space follows on each separator, as in prose; not so within a number there."""
    parts = _THOUSANDS.sub("", line).split(mark)
    return all(not part or part[0].isspace() for part in parts[1:])


def _has_whole_quotes(line: str) -> bool:
    """If not, it is the first or the last line of a cell."""
    return line.count('"') % 2 == 0


def _ends(line: str) -> bool:
    return _SENTENCE_END.search(line.rstrip()) is not None


def _is_prose(lines: list[str], rows: Lines, mark: str) -> bool:
    """Whether the rows are a paragraph's lines, or a list's, that happen to have as many commas."""
    if lines[0].startswith('"'):
        return False  # nothing but CSV begins with a whole cell in quotes
    if _is_a_list(rows):
        return True
    if not all(_is_loose(line, mark) for line in lines):
        return False
    if any(cell.count("(") != cell.count(")") for row in rows for cell in row):
        return True
    in_header, in_all = _mean_words(rows[:1]), _mean_words(rows)
    if in_header > _MAX_PROSE_WORDS:
        return True
    is_wordy = in_header >= 2 and max(in_header, in_all) >= _MAX_PROSE_WORDS
    return is_wordy and _ends(lines[-1])


def _is_a_list(rows: Lines) -> bool:
    """Whether each line is an item of a list, names with their values, or written as code."""
    return (
        all(_LIST_ITEM.match(row[0]) for row in rows)
        or all(_NAMED.match(cell) for cell in rows[0])
        or all(row[0][:1] + row[-1][-1:] in _BRACKETS for row in rows)
    )


def _mean_words(rows: Lines) -> float:
    """Of a cell."""
    cells = [cell for row in rows for cell in row]
    return sum(len(cell.split()) for cell in cells) / len(cells)


# Markdown, and what is drawn alike


def _piped(lines: list[str]) -> Lines | None:
    """A Markdown table, or one that is drawn with `|`, `-` and `+`."""
    places = [number for number, line in enumerate(lines) if _is_piped(line)]
    if not places:
        return None
    before, behind = lines[: places[0]], lines[places[-1] + 1 :]
    within = _without_frame([line for line in lines[places[0] : places[-1] + 1] if line])
    if len(within) < 2 or not all(_is_piped(line) for line in within):
        return None
    header = _cells(within[0])
    has_rule = _is_rule(within[1], len(header))
    body = within[2:] if has_rule else within[1:]
    rows = [header, *(_cells(line) for line in body if not _RULE.fullmatch(line))]
    if not _has_rules_of_a_grid(body) or not _is_table(rows, min_columns=1 if has_rule else 2):
        return None
    if not has_rule and _is_a_list(rows):
        return None
    # A line right below a Markdown table is a row of it.
    remarks = behind[:1] if has_rule else [*before, *behind]
    return rows if all(not line or _ends(line) for line in remarks) else None


def _may_be_piped(lines: list[str]) -> bool:
    """Whether lines that are CSV could be a Markdown table as well."""
    if all(_is_outlined(line.strip()) for line in lines):
        return True
    has_rule = any("|" in line and _ANY_RULE.fullmatch(line.strip()) for line in lines)
    return has_rule and not lines[0].startswith('"')


def _is_outlined(line: str) -> bool:
    return line.startswith("|") and line.endswith("|")


def _is_piped(line: str) -> bool:
    return _PIPE.search(line) is not None or ("+" in line and _RULE.fullmatch(line) is not None)


def _without_frame(lines: list[str]) -> list[str]:
    """The lines without rules above and below them; none with two rules above."""
    rows = [number for number, line in enumerate(lines) if not _RULE.fullmatch(line)]
    return lines[rows[0] : rows[-1] + 1] if rows and rows[0] < 2 else []


def _is_rule(line: str, num_cells: int) -> bool:
    parts = re.split(r"[|+]", line.strip("|+ "))
    return len(parts) == num_cells and all(_RULE_CELL.fullmatch(part.strip()) for part in parts)


def _has_rules_of_a_grid(body: list[str]) -> bool:
    """Whether there are no rules, or those of a grid: one between every two rows.

    Other ones separate two tables, or the parts of one; lines without a rule between them could be
    one row.
    """
    rules = [line for line in body if _RULE.fullmatch(line)]
    is_grid = all(line.startswith("+") for line in rules)
    return not rules or (is_grid and 2 * len(rules) + 1 == len(body))


def _cells(line: str) -> list[str]:
    within = line.removeprefix("|")
    if within.endswith("|") and not within.endswith("\\|"):
        within = within[:-1]
    return [cell.replace("\\|", "|").strip() for cell in _PIPE.split(within)]


# One column


def _column(lines: list[str]) -> Lines | None:
    """A header and its values, a line each: only what looks like cells, and nothing else around."""
    rows = _records(lines, ",")
    if not _is_table(rows, min_columns=1) or len(rows[0]) != 1:
        return None
    bare = {line.strip() for line in lines}
    are_cells = all(cell not in bare or _is_lone_cell(cell) for (cell,) in rows)
    return rows if are_cells else None


def _is_lone_cell(text: str) -> bool:
    """Whether a line without commas and quotes may be a cell, and not a line of prose."""
    num_words = len(text.split())
    return (
        num_words <= _MAX_WORDS
        and _SENTENCE_END.search(text) is None
        and _NOT_IN_LONE_CELLS.search(text) is None
        and _LIST_ITEM.match(text) is None
        and _RULE.fullmatch(text) is None
        and (num_words < _VERB_WORDS or _VERBS.search(text) is None)
    )
