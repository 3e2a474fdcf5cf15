"""Text that is left out of a page, for want of a font, is noticed, and nothing else is.

Which fonts there are depends on the machine. So of text in other scripts it is asked that it be
either drawn or noticed, each letter.
"""

from __future__ import annotations

import math
from importlib.metadata import files
from pathlib import Path

import pytest

from tests.worker.pdf_bytes import deflated, pdf, stream
from visionq_worker.pdf_pages import MAX_PAGE_BYTES, render_page

FONT = "/Fo << >> /Font << /F 3 0 R /K 100 0 R >>"
LETTERS = "".join(chr(code) for code in range(33, 127))


def is_noticed(content: bytes) -> bool:
    return render_page(content, 1, 4, max_bytes=MAX_PAGE_BYTES).has_undrawn_text


def is_drawn(content: bytes) -> bool:
    page = render_page(content, 1, 4, max_bytes=MAX_PAGE_BYTES)
    return bool((page.pixels < 128).any())


def shown(codes: bytes, *, matrix: str = "1 0 0 1 72 700", mode: int = 0) -> bytes:
    """Content: codes of the font K."""
    return f"BT /K 24 Tf {mode} Tr {matrix} Tm <{codes.hex()}> Tj ET\n".encode()


def to_unicode(text: str) -> bytes:
    """A map from the codes 100, 101 ... to the letters of the text."""
    pairs = "".join(
        f"<{100 + at:04X}> <{char.encode('utf-16-be').hex()}>\n" for at, char in enumerate(text)
    )
    head = "/CIDInit /ProcSet findresource begin 12 dict begin begincmap /CMapType 2 def\n"
    codes = f"1 begincodespacerange <0000> <FFFF> endcodespacerange {len(text)} beginbfchar\n"
    return f"{head}{codes}{pairs}endbfchar endcmap end end".encode()


def numbered(text: str) -> bytes:
    return b"".join((100 + at).to_bytes(2) for at in range(len(text)))


def wide_font(
    ordering: str,
    encoding: str,
    *,
    name: str = "HYSMyeongJo-Medium",
    letters: str | None = None,
    file: bytes | None = None,
) -> dict[int, bytes]:
    """A composite font, number 100; `letters`: what its codes from 100 on stand for."""
    brings = "" if file is None else "/FontFile2 104 0 R"
    mapped = "" if letters is None else "/ToUnicode 103 0 R"
    objects = {
        100: f"<< /Type /Font /Subtype /Type0 /BaseFont /{name} /Encoding /{encoding} {mapped} "
        "/DescendantFonts [101 0 R] >>",
        101: f"<< /Type /Font /Subtype /CIDFontType2 /BaseFont /{name} /CIDToGIDMap /Identity "
        f"/CIDSystemInfo << /Registry (Adobe) /Ordering ({ordering}) /Supplement 1 >> /DW 1000 "
        "/FontDescriptor 102 0 R >>",
        102: f"<< /Type /FontDescriptor /FontName /{name} /Flags 6 /FontBBox [0 -148 1001 880] "
        f"/ItalicAngle 0 /Ascent 752 /Descent -271 /CapHeight 737 /StemV 58 {brings} >>",
    }
    made = {number: content.encode() for number, content in objects.items()}
    if letters is not None:
        made[103] = stream(to_unicode(letters))
    if file is not None:
        made[104] = deflated(file, f"/Length1 {len(file)}")
    return made


def simple_font(
    name: str, encoding: str = "/WinAnsiEncoding", *, file: bytes | None = None
) -> dict[int, bytes]:
    """A font of single bytes, number 100."""
    brings = "" if file is None else "/FontFile2 104 0 R"
    made = {
        100: f"<< /Type /Font /Subtype /TrueType /BaseFont /{name} /Encoding {encoding} "
        f"/FontDescriptor 102 0 R /FirstChar 0 /LastChar 255 /Widths [{'600 ' * 256}] >>".encode(),
        102: f"<< /Type /FontDescriptor /FontName /{name} /Flags 32 /FontBBox [0 -148 1001 880] "
        f"/ItalicAngle 0 /Ascent 752 /Descent -271 /CapHeight 737 /StemV 58 {brings} >>".encode(),
    }
    if file is not None:
        made[104] = deflated(file, f"/Length1 {len(file)}")
    return made


def written(content: bytes, font: dict[int, bytes], page: str = "") -> bytes:
    return pdf(content, resources=FONT, objects=font, page=page)


KOREAN = ("Korea1", "UniKS-UCS2-H")
KOREAN_TEXT = "세금계산서"


def utf16(text: str) -> bytes:
    return text.encode("utf-16-be")


WIDE = {
    "Korean": (*KOREAN, utf16(KOREAN_TEXT)),
    "Korean, one letter": (*KOREAN, utf16("세")),
    "Korean, downwards": ("Korea1", "UniKS-UTF16-V", utf16(KOREAN_TEXT)),
    "Korean, by numbers": ("Korea1", "Identity-H", bytes.fromhex("050006000700")),
    "Japanese": ("Japan1", "UniJIS-UCS2-H", utf16("請求書です")),
    "Japanese, downwards": ("Japan1", "UniJIS-UCS2-V", utf16("請求書")),
    "Japanese, Shift JIS": ("Japan1", "90ms-RKSJ-H", "請求書".encode("shift_jis")),
    "Chinese": ("GB1", "UniGB-UCS2-H", utf16("发票金额")),
    "Chinese, GBK": ("GB1", "GBK-EUC-H", "发票金额".encode("gbk")),
    "Chinese, traditional": ("CNS1", "UniCNS-UCS2-H", utf16("發票金額")),
}
NAMED = {
    "Russian": "/afii10035 /afii10089 /afii10071 /afii10084",
    "Greek": "/alpha /beta /gamma /delta",
    "Hebrew": "/afii57664 /afii57665 /afii57666 /afii57667",
    "Arabic": "/uni0627 /uni0628 /uni0629 /uni062A",
    "Thai": "/uni0E01 /uni0E02 /uni0E03 /uni0E04",
}


@pytest.mark.parametrize("script", WIDE)
def test_text_of_a_font_for_asian_scripts_is_drawn_or_noticed(script: str) -> None:
    ordering, encoding, codes = WIDE[script]
    content = written(shown(codes), wide_font(ordering, encoding))
    assert is_noticed(content) is not is_drawn(content)


@pytest.mark.parametrize("degrees", [0, 17, 45, 90, 135, 180, 270])
def test_text_is_drawn_or_noticed_whichever_way_it_runs(degrees: int) -> None:
    across, along = math.sin(math.radians(degrees)), math.cos(math.radians(degrees))
    matrix = f"{along:.5f} {across:.5f} {-across:.5f} {along:.5f} 300 400"
    content = written(shown(utf16(KOREAN_TEXT), matrix=matrix), wide_font(*KOREAN))
    assert is_noticed(content) is not is_drawn(content)
    latin = written(shown(b"Total", matrix=matrix), simple_font("Garamond"))
    assert (is_drawn(latin), is_noticed(latin)) == (True, False)


@pytest.mark.parametrize("mode", [1, 2, 4, 5])
def test_outlined_text_is_drawn_or_noticed(mode: int) -> None:
    content = written(shown(utf16(KOREAN_TEXT), mode=mode), wide_font(*KOREAN))
    assert is_noticed(content) is not is_drawn(content)


@pytest.mark.parametrize("script", NAMED)
def test_letters_that_are_named_one_by_one_are_drawn_or_noticed(script: str) -> None:
    encoding = f"<< /Type /Encoding /Differences [128 {NAMED[script]}] >>"
    content = written(shown(bytes(range(128, 132))), simple_font("Arial", encoding))
    assert is_noticed(content) is not is_drawn(content)


@pytest.mark.parametrize("letters", ["Счёт", KOREAN_TEXT, "שלום", "𒀀𒀁𒀂"])
def test_letters_that_a_map_names_are_drawn_or_noticed(letters: str) -> None:
    font = wide_font("Identity", "Identity-H", name="Foo", letters=letters)
    content = written(shown(numbered(letters)), font)
    assert is_noticed(content) is not is_drawn(content)


def test_one_letter_among_many_that_are_drawn_is_noticed() -> None:
    lines = shown(b"Invoice 2041", matrix="1 0 0 1 72 600").replace(b"/K", b"/F")
    encoding = "<< /Type /Encoding /BaseEncoding /WinAnsiEncoding /Differences [128 /uni13A0] >>"
    content = written(lines + shown(b"Total: \x80"), simple_font("Garamond", encoding))
    assert is_drawn(content)
    assert is_noticed(content)


def test_letters_that_nobody_knows_are_noticed() -> None:
    """Numbers of glyphs in a font that is not there: what is drawn is other letters."""
    font = wide_font("Identity", "Identity-H", name="Foo")
    assert is_noticed(written(shown(bytes.fromhex("002400250026")), font))


def within_form(codes: bytes, font: dict[int, bytes]) -> bytes:
    form = stream(
        shown(codes),
        "/Type /XObject /Subtype /Form /BBox [0 0 595 842] /Resources << /Font << /K 100 0 R >> >>",
    )
    objects = {**font, 110: form}
    return pdf(b"/X Do\n", resources=f"{FONT} /XObject << /X 110 0 R >>", objects=objects)


def annotated(text: str, font: dict[int, bytes], *, flags: int = 4) -> bytes:
    """A page with a note on it, drawn by the annotation's appearance."""
    appearance = stream(
        shown(utf16(text), matrix="1 0 0 1 5 5"),
        "/Type /XObject /Subtype /Form /BBox [0 0 300 40] /Resources << /Font << /K 100 0 R >> >>",
    )
    field = (
        "<< /Type /Annot /Subtype /FreeText /DA (/K 24 Tf) /Rect [72 700 372 740] "
        f"/F {flags} /Contents <FEFF{utf16(text).hex()}> /AP << /N 110 0 R >> >>"
    )
    objects = {**font, 110: appearance, 111: field.encode()}
    return pdf(b"", resources=FONT, objects=objects, page="/Annots [111 0 R]")


def test_text_in_a_form_object_and_in_a_note_is_drawn_or_noticed() -> None:
    for content in (
        within_form(utf16(KOREAN_TEXT), wide_font(*KOREAN)),
        annotated(KOREAN_TEXT, wide_font(*KOREAN)),
    ):
        assert is_noticed(content) is not is_drawn(content)
    for content in (
        within_form(b"Total", simple_font("Garamond")),
        annotated("Total 12", wide_font(*KOREAN)),
    ):
        assert (is_drawn(content), is_noticed(content)) == (True, False)
    assert not is_noticed(annotated(KOREAN_TEXT, wide_font(*KOREAN), flags=2))  # hidden


STANDARD = [
    f"{name}{style}"
    for name, styles in (
        ("Helvetica", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Courier", ("", "-Bold", "-Oblique", "-BoldOblique")),
        ("Times", ("-Roman", "-Bold", "-Italic", "-BoldItalic")),
    )
    for style in styles
]
WIN_ANSI = LETTERS.encode() + bytes(
    code for code in range(128, 256) if code not in (0x81, 0x8D, 0x8F, 0x90, 0x9D)
)


def standard_font(name: str, encoding: str) -> dict[int, bytes]:
    return {
        100: f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} /Encoding {encoding} >>".encode()
    }


def in_lines(codes: bytes) -> bytes:
    return b"".join(
        shown(codes[at : at + 20], matrix=f"1 0 0 1 40 {780 - 2 * at}")
        for at in range(0, len(codes), 20)
    )


@pytest.mark.parametrize("name", STANDARD)
def test_standard_fonts_have_all_of_their_letters(name: str) -> None:
    assert not is_noticed(written(in_lines(WIN_ANSI), standard_font(name, "/WinAnsiEncoding")))
    everything = bytes(range(256))
    assert not is_noticed(written(in_lines(everything), standard_font(name, "/StandardEncoding")))


@pytest.mark.parametrize("name", ["Symbol", "ZapfDingbats"])
def test_standard_symbols_are_all_there(name: str) -> None:
    font = {100: f"<< /Type /Font /Subtype /Type1 /BaseFont /{name} >>".encode()}
    codes = LETTERS.encode() + bytes(range(0xA1, 0xFF))
    assert not is_noticed(written(in_lines(codes), font))


@pytest.mark.parametrize("name", ["Arial", "TimesNewRoman,Bold", "Garamond", "Calibri", "Foo"])
def test_latin_letters_of_any_font_are_drawn_by_another(name: str) -> None:
    content = written(in_lines(WIN_ANSI), simple_font(name))
    assert (is_drawn(content), is_noticed(content)) == (True, False)


def roboto() -> bytes:
    """A font's file; its glyphs 37 and following are A and following."""
    [path] = (path for path in files("font-roboto") or [] if path.name == "Roboto-Regular.ttf")
    return Path(str(path.locate())).read_bytes()


UNSEEN = {
    "spaces": shown(utf16("  \u3000 ")),
    "one space": shown(utf16(" ")),
    "letters that PDFium has": shown(utf16("Total 12")),
    "text that is not to be seen": shown(utf16(KOREAN_TEXT), mode=3),
    "text that only clips": shown(utf16(KOREAN_TEXT), mode=7),
    "text beside the page": shown(utf16(KOREAN_TEXT), matrix="1 0 0 1 2000 2000"),
    "no text": shown(b""),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_is_not_to_be_seen_is_not_missed(name: str) -> None:
    assert not is_noticed(written(UNSEEN[name], wide_font(*KOREAN)))


def test_spaces_of_whichever_font_and_direction_are_not_missed() -> None:
    for font in (simple_font("Garamond"), standard_font("Helvetica", "/WinAnsiEncoding")):
        for codes in (b" ", b"   ", b"\xa0", b"\xad", b"\t\r\n"):
            for matrix in ("1 0 0 1 72 700", "0 1 -1 0 72 300"):
                assert not is_noticed(written(shown(codes, matrix=matrix), font))
    down = wide_font("Korea1", "UniKS-UTF16-V")
    assert not is_noticed(written(shown(utf16("\u3000\u3000")), down))


def test_words_that_are_drawn_twice_are_not_missed() -> None:
    shadow = shown(b"Total", matrix="1 0 0 1 72.4 700.4")
    assert not is_noticed(written(shown(b"Total") + shadow, simple_font("Garamond")))


def test_text_of_a_font_that_the_file_brings_is_not_missed() -> None:
    """Nor where nobody knows which letters they are, and of those that the font lacks."""
    file = roboto()
    simple = simple_font("ABCDEF+Roboto", file=file)
    wide = wide_font("Identity", "Identity-H", name="ABCDEF+Roboto", file=file)
    for content in (
        written(shown(b"Total 12"), simple),
        written(shown(bytes.fromhex("002500260027fffe")), wide),
    ):
        assert (is_drawn(content), is_noticed(content)) == (True, False)


def test_letters_that_are_drawings_are_not_missed() -> None:
    font = {
        100: b"<< /Type /Font /Subtype /Type3 /FontBBox [0 0 750 750] "
        b"/FontMatrix [0.001 0 0 0.001 0 0] /CharProcs << /full 101 0 R /empty 102 0 R >> "
        b"/Encoding << /Type /Encoding /Differences [97 /full /empty] >> "
        b"/FirstChar 97 /LastChar 98 /Widths [1000 1000] >>",
        101: stream(b"1000 0 0 0 750 750 d1 0 0 750 750 re f"),
        102: stream(b"1000 0 0 0 0 0 d1"),
    }
    content = written(shown(b"abab"), font)
    assert (is_drawn(content), is_noticed(content)) == (True, False)
