"""Text as it may be shown to people: what a terminal would take for a command is replaced.

Answers, labels, names of files and messages of errors may have been written by anybody. Programs
get JSON, in which the same characters are written as escapes.
"""

from __future__ import annotations

import json
import re
from typing import Any

# Control characters of both sets, but for line feed and tab; halves of surrogate pairs, which no
# terminal could be sent; and the characters that turn the direction of text, or end a line, without
# being seen. Marks and joiners, which Arabic, Hebrew and emoji need, change nothing around them.
_COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)
REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """The text without such characters. Its lines and tabs stay."""
    return _COMMANDS.sub(REPLACEMENT, text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """The same on one line: nobody else's text may pass for a line of ours."""
    return printable(text).replace("\n", " ").replace("\t", " ")


def json_text(value: Any) -> str:
    """The value as JSON on one line, with such characters escaped: it means the same."""
    text = json.dumps(value, ensure_ascii=False)
    return _COMMANDS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
