"""Faces to draw letters with: Pillow's own, and those of `font-*` packages that are installed.

These packages (of the extra `pocket`) register their files under the entry points `fonts_ttf` and
`fonts_otf`. None is committed, and their licences (SIL OFL, Apache) allow drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from PIL import ImageFont

GROUPS = ("fonts_ttf", "fonts_otf")
LEFT_OUT = ("Variable", "Amatic", "Thin", "ExtraLight", "Black", "Intuitive")
"""Variable fonts show their lightest face only; the others are for ornament."""

BUILT_IN = "built-in"
MIN_CAPITAL_PX = 8
"""Less cannot be read."""


@cache
def faces() -> tuple[str, ...]:
    """Files of faces, Pillow's own first, in an order that depends on nothing but their names."""
    files = {Path(path).stem: str(path) for path in _files()}
    names = [name for name in sorted(files) if not any(part in name for part in LEFT_OUT)]
    return (BUILT_IN, *(files[name] for name in names))


@cache
def font(face: str, size_px: int) -> ImageFont.FreeTypeFont:
    """A face at a size."""
    if face == BUILT_IN:
        found = ImageFont.load_default(size_px)
        assert isinstance(found, ImageFont.FreeTypeFont), "Pillow was built without FreeType"
        return found
    return ImageFont.truetype(face, size_px)


@cache
def size_for(face: str, capital_px: int) -> int:
    """The size at which a capital letter is so high."""
    box = font(face, 100).getbbox("H")
    return max(1, round(100 * capital_px / (box[3] - box[1])))


def width(text: str, face: str, capital_px: int) -> float:
    """Of a line of text, in pixels."""
    return font(face, size_for(face, capital_px)).getlength(text)


def fitting_px(texts: Sequence[str], face: str, capital_px: int, room_px: float) -> int:
    """So much, or as much less as it takes for the widest of the texts to have room."""
    while (
        capital_px > MIN_CAPITAL_PX
        and max(width(text, face, capital_px) for text in texts) > room_px
    ):
        capital_px -= 1
    return capital_px


def _files() -> Iterator[str]:
    for group in GROUPS:
        for entry in entry_points(group=group):
            yield from entry.load().values()
