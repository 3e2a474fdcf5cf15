"""What a chat model writes around an answer: fences of code. Nothing here raises on bad text."""

from __future__ import annotations

import re

_FENCE = re.compile(r"\s*(`{3,}|~{3,})(.*)", re.DOTALL)
_LANGUAGE = re.compile(r"([A-Za-z][\w+.#-]*)?")


def unfenced(text: str) -> str | None:
    """What stands in the fence, or the text itself where there is none; None of several fences.

    A fence that is not closed ends with the text: the answer may have been cut off.
    """
    blocks = _fenced(text.splitlines(keepends=True))
    if not blocks:
        return text
    filled = [block for block in blocks if block.strip()]
    return filled[0] if len(filled) == 1 else None


def _fenced(lines: list[str]) -> list[str]:
    blocks: list[str] = []
    fence = ""
    for line in lines:
        begun = line
        if not fence:
            if (opened := _FENCE.fullmatch(line)) is None:
                continue
            fence = opened[1]
            blocks.append("")
            # Without a language, the first line of what is fenced may stand beside its fence.
            begun = "" if _LANGUAGE.fullmatch(opened[2].strip()) else opened[2]
        before, is_end = _until_end(begun, fence)
        blocks[-1] += before
        fence = "" if is_end else fence
    return blocks


def _until_end(line: str, fence: str) -> tuple[str, bool]:
    """The line up to the closing fence, which may stand at its end, and whether there is one."""
    bare = line.rstrip()
    rest = bare.rstrip(fence[0])
    return (rest, True) if len(bare) - len(rest) >= len(fence) else (line, False)
