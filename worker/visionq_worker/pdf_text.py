"""Whether a page has text that PDFium left out, since it found no font for it.

A PDF may name a font without bringing it. For Latin letters PDFium has fonts of its own; for others
it asks the system's, and where those have none, it draws nothing and reports nothing. Part of the
program that renders a page (`pdfium`). Left out: text in patterns and in hidden layers.
"""

from __future__ import annotations

import ctypes
import math
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pypdfium2_raw as pdfium

MAX_OBJECTS = 100_000
MAX_CHARS = 100_000
"""What is looked at of a page."""

FLAT = 0.01
"""Of the size of the font: PDFium gives a character that has no glyph a box of a thousandth."""
STANDARD = re.compile(rb"Chro. ")
"""How the names of the fonts begin that PDFium has for the standard ones: codes without a letter
have none in any. Those that it has in the place of all others begin with "Chrome"."""
LEAN, OUTLINE = 0.5, 1.0
"""Radians, and points."""

_HIDDEN_MODES = frozenset({pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP})
"""The text of a scan that has been read, say."""
_FORMATTING = frozenset({"Cf", "Zs", "Zl", "Zp"})
_FILLERS = frozenset("\u115f\u1160\u2800\u3164\uffa0")
_HIDDEN_FLAGS = pdfium.FPDF_ANNOT_FLAG_HIDDEN | pdfium.FPDF_ANNOT_FLAG_NOVIEW
_STRINGS = (b"V", b"Contents")
"""Entries of an annotation that its appearance shows."""


class _Font:
    """A font that the file names and does not bring."""

    def __init__(self, handle: Any) -> None:
        self._handle = handle
        self._draws: dict[int, bool] = {}
        name = ctypes.create_string_buffer(100)
        pdfium.FPDFFont_GetFamilyName(handle, name, len(name))
        self.is_standard = STANDARD.match(name.value) is not None

    def draws(self, code: int) -> bool:
        """Whether that character has an outline."""
        if code not in self._draws:
            path = pdfium.FPDFFont_GetGlyphPath(self._handle, code, 1.0)
            self._draws[code] = bool(path) and pdfium.FPDFGlyphPath_CountGlyphSegments(path) > 0
        return self._draws[code]


@dataclass(slots=True)
class _Count:
    """How many more objects are looked at."""

    left: int


@dataclass(frozen=True, slots=True)
class _Text:
    """A text object of such a font."""

    handle: Any
    font: _Font


def has_undrawn_text(page: Any) -> bool:
    """Whether a letter of the page, or of what is annotated on it, is missing from its pixels.

    The page is not to be rendered afterwards: some of its text is turned.
    """
    return _is_missing_in_page(page) or _is_missing_in_annotations(page)


def _is_missing_in_page(page: Any) -> bool:
    texts = _texts(_objects_of(page))
    seen: set[int] = set()
    if not texts or _is_missing_among(texts, page, seen):
        return bool(texts)
    # Letters without glyphs are not listed where their line runs downwards, or is a single one.
    unseen = {place: text for place, text in texts.items() if place not in seen}
    for text in unseen.values():
        _widen(text.handle)
    return bool(unseen) and _is_missing_among(unseen, page, seen)


def _is_missing_among(texts: dict[int, _Text], page: Any, seen: set[int]) -> bool:
    """Adds to `seen` the places of those that are listed."""
    listing = pdfium.FPDFText_LoadPage(page)
    for index in range(min(MAX_CHARS, pdfium.FPDFText_CountChars(listing))):
        place = _address(pdfium.FPDFText_GetTextObject(listing, index))
        if place in texts:
            seen.add(place)
            if _is_missing(listing, index, texts[place].font, page):
                return True
    pdfium.FPDFText_ClosePage(listing)
    return False


def _is_missing(listing: Any, index: int, font: _Font, page: Any) -> bool:
    code = pdfium.FPDFText_GetUnicode(listing, index)
    if pdfium.FPDFText_IsGenerated(listing, index) == 1 or _is_blank(code):
        return False
    if pdfium.FPDFText_HasUnicodeMapError(listing, index) == 1:
        # Nobody knows which letter is meant: what is drawn is another one, or none.
        return not font.is_standard
    return not font.draws(code) and _is_flat(listing, index) and _is_on(page, listing, index)


def _widen(text: Any) -> None:
    """Give a text object an extent in both directions: it leans, and has an outline."""
    pdfium.FPDFTextObj_SetTextRenderMode(text, pdfium.FPDF_TEXTRENDERMODE_STROKE)
    pdfium.FPDFPageObj_SetStrokeWidth(text, OUTLINE)
    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    pdfium.FPDFPageObj_GetBounds(text, left, bottom, right, top)
    x, y, across, along = left.value, bottom.value, math.sin(LEAN), math.cos(LEAN)
    shift = (x - along * x + across * y, y - across * x - along * y)
    pdfium.FPDFPageObj_Transform(text, along, across, -across, along, *shift)


def _is_missing_in_annotations(page: Any) -> bool:
    budget = _Count(MAX_OBJECTS)
    for index in range(min(MAX_OBJECTS, pdfium.FPDFPage_GetAnnotCount(page))):
        if budget.left <= 0:
            break
        annotation = pdfium.FPDFPage_GetAnnot(page, index)
        if not annotation:
            continue
        if not pdfium.FPDFAnnot_GetFlags(annotation) & _HIDDEN_FLAGS:
            fonts = {text.font for text in _texts(_objects_in(annotation, budget)).values()}
            codes = {ord(char) for char in _shown(annotation)} if fonts else set()
            drawn = {code for code in codes if any(font.draws(code) for font in fonts)}
            if any(not _is_blank(code) for code in codes - drawn):
                return True
        pdfium.FPDFPage_CloseAnnot(annotation)
    return False


def _shown(annotation: Any) -> str:
    """What its appearance says."""
    for key in _STRINGS:
        num_bytes = pdfium.FPDFAnnot_GetStringValue(annotation, key, None, 0)
        units = (ctypes.c_ushort * (num_bytes // 2))()
        pdfium.FPDFAnnot_GetStringValue(annotation, key, units, num_bytes)
        value = bytes(units).decode("utf-16-le", "replace").rstrip("\0")
        if value:
            return value
    return ""


def _texts(objects: Iterator[Any]) -> dict[int, _Text]:
    """By their addresses, text objects that are to be seen and have a font from elsewhere."""
    known: dict[int, _Font | None] = {}
    found: dict[int, _Text] = {}
    for item in objects:
        handle = pdfium.FPDFTextObj_GetFont(item)
        place = _address(handle)
        if place not in known:
            is_missing = bool(handle) and pdfium.FPDFFont_GetIsEmbedded(handle) == 0
            known[place] = _Font(handle) if is_missing else None
        font = known[place]
        if font is not None and _is_visible(item):
            found[_address(item)] = _Text(item, font)
    return found


def _objects_of(page: Any) -> Iterator[Any]:
    """Text objects, those within forms included."""
    count = min(MAX_OBJECTS, pdfium.FPDFPage_CountObjects(page))
    return _text_objects(pdfium.FPDFPage_GetObject(page, index) for index in range(count))


def _objects_in(annotation: Any, budget: _Count) -> Iterator[Any]:
    count = min(MAX_OBJECTS, max(0, pdfium.FPDFAnnot_GetObjectCount(annotation)))
    objects = (pdfium.FPDFAnnot_GetObject(annotation, index) for index in range(count))
    return _text_objects(objects, budget)


def _text_objects(objects: Iterator[Any], budget: _Count | None = None) -> Iterator[Any]:
    waiting, budget = [objects], budget or _Count(MAX_OBJECTS)
    while waiting and budget.left > 0:
        item = next(waiting[-1], None)
        if item is None:
            waiting.pop()
            continue
        budget.left -= 1
        kind = pdfium.FPDFPageObj_GetType(item)
        if kind == pdfium.FPDF_PAGEOBJ_TEXT:
            yield item
        elif kind == pdfium.FPDF_PAGEOBJ_FORM:
            waiting.append(_within(item))


def _within(form: Any) -> Iterator[Any]:
    for index in range(max(0, pdfium.FPDFFormObj_CountObjects(form))):
        yield pdfium.FPDFFormObj_GetObject(form, index)


def _is_visible(item: Any) -> bool:
    if pdfium.FPDFTextObj_GetTextRenderMode(item) in _HIDDEN_MODES:
        return False
    channels = [ctypes.c_uint() for _ in range(4)]
    has_colour = pdfium.FPDFPageObj_GetFillColor(item, *channels)
    is_clear = bool(has_colour) and channels[3].value == 0
    is_filled = pdfium.FPDFTextObj_GetTextRenderMode(item) == pdfium.FPDF_TEXTRENDERMODE_FILL
    return not (is_filled and is_clear)


def _is_blank(code: int) -> bool:
    if code == 0 or code > 0x10FFFF:
        return True
    char = chr(code)
    return char.isspace() or char in _FILLERS or unicodedata.category(char) in _FORMATTING


def _box(listing: Any, index: int) -> tuple[float, float, float, float]:
    """Left, right, bottom, top."""
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    pdfium.FPDFText_GetCharBox(listing, index, left, right, bottom, top)
    return left.value, right.value, bottom.value, top.value


def _is_flat(listing: Any, index: int) -> bool:
    """Whether the character's box has no height, in the direction of its line."""
    left, right, bottom, top = _box(listing, index)
    width, height = abs(right - left), abs(top - bottom)
    angle = pdfium.FPDFText_GetCharAngle(listing, index)
    along, across = abs(math.cos(angle)), abs(math.sin(angle))
    lean = along**2 - across**2
    if abs(lean) < 0.1:  # halfway between lying and standing, the box does not tell
        return True
    thickness = abs((height * along - width * across) / lean)
    return bool(thickness <= FLAT * max(1.0, pdfium.FPDFText_GetFontSize(listing, index)))


def _is_on(page: Any, listing: Any, index: int) -> bool:
    """Whether the character's place is on the page."""
    shown = pdfium.FS_RECTF()
    if not pdfium.FPDF_GetPageBoundingBox(page, shown):
        return True
    left, right, bottom, top = _box(listing, index)
    across = left <= shown.right and right >= shown.left
    return bool(across and bottom <= shown.top and top >= shown.bottom)


def _address(pointer: Any) -> int:
    """0 of none."""
    return ctypes.cast(pointer, ctypes.c_void_p).value or 0
