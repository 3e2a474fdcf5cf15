"""Pages of PDFs: their pixels, what is refused of them, and that it is another process's risk."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.worker.pdf_bytes import (
    A4,
    deflated,
    encrypted,
    filled,
    image_entries,
    lettered,
    pdf,
    pictured,
    stream,
)
from visionq.contract import FailureCode
from visionq_worker import pdf_pages, pdfium
from visionq_worker.errors import TaskError
from visionq_worker.model.geometry import Size, num_image_tokens, resized_size
from visionq_worker.pdf_pages import MAX_PAGE_BYTES, Page, render_page

RED, GREEN, BLUE = (1, 0, 0), (0, 1, 0), (0, 0, 1)
WHOLE = (0, 0, *A4)
NUM_CROPS = 4


def rendered(content: bytes, number: int = 1, *, num_crops: int = NUM_CROPS) -> Page:
    return render_page(content, number, num_crops, max_bytes=MAX_PAGE_BYTES)


def refusal(content: bytes, number: int = 1, *, max_bytes: int = MAX_PAGE_BYTES) -> TaskError:
    with pytest.raises(TaskError) as caught:
        render_page(content, number, NUM_CROPS, max_bytes=max_bytes)
    return caught.value


def colours(page: Page) -> set[tuple[int, ...]]:
    return {tuple(map(int, pixel)) for pixel in np.unique(page.pixels.reshape(-1, 3), axis=0)}


def test_page_is_rgb_from_the_top_on_white() -> None:
    page = rendered(pdf(filled(RED, (0, 421, 595, 421))))
    height = page.pixels.shape[0]
    assert colours(Page(page.pixels[: height // 2 - 1], page.points, page.shape)) == {(255, 0, 0)}
    below = page.pixels[height // 2 + 2 :]
    assert colours(Page(below, page.points, page.shape)) == {(255, 255, 255)}


@pytest.mark.parametrize("num_crops", [1, 4, 16])
@pytest.mark.parametrize("sides", [A4, (842, 595), (200, 200), (612.5, 791.97), (3000, 80)])
def test_page_has_the_size_that_the_model_would_give_it(
    sides: tuple[float, float], num_crops: int
) -> None:
    page = rendered(pdf(filled(BLUE, (0, 0, *sides)), size=sides), num_crops=num_crops)
    height, width, _ = page.pixels.shape
    assert (width, height) == resized_size(*page.shape, num_crops)
    assert page.points == Size(round(sides[0]), round(sides[1]))
    rows, columns = -(-height // 336), -(-width // 336)
    assert (
        num_image_tokens(*page.shape, num_crops) == (rows * columns + 1) * 144 + (rows + 1) * 12 + 1
    )


def test_each_page_is_found_by_its_number() -> None:
    content = pdf(*(filled(colour, WHOLE) for colour in (RED, GREEN, BLUE)))
    found = [colours(rendered(content, number)) for number in (1, 2, 3)]
    assert found == [{(255, 0, 0)}, {(0, 255, 0)}, {(0, 0, 255)}]


def test_page_that_is_turned_is_seen_upright() -> None:
    page = rendered(pdf(filled(RED, (0, 421, 595, 421)), page="/Rotate 90"))
    assert page.points == Size(842, 595)
    height, width, _ = page.pixels.shape
    assert width > height
    # Turned clockwise, the upper half is the right one.
    assert tuple(page.pixels[height // 2, width - 5]) == (255, 0, 0)
    assert tuple(page.pixels[height // 2, 5]) == (255, 255, 255)


def test_text_is_drawn_though_the_file_brings_no_font() -> None:
    page = rendered(pdf(lettered("Invoice 2041", points=80, at=(20, 400))), num_crops=16)
    dark = (page.pixels.max(axis=2) < 64).mean()
    assert 0.01 < dark < 0.2


def test_fields_of_a_form_are_drawn_as_they_were_filled_in() -> None:
    """A text field and a ticked box, with the appearances that the filling program made."""
    form = "/BBox [0 0 100 100] /Type /XObject /Subtype /Form"
    field = "/Type /Annot /Subtype /Widget /F 4 /P 10 0 R"
    objects = {
        1: b"<< /Type /Catalog /Pages 2 0 R /AcroForm << /Fields [100 0 R 101 0 R] >> >>",
        100: f"<< {field} /FT /Tx /T (name) /V (Ada) /Rect [0 742 100 842] "
        "/AP << /N 102 0 R >> >>".encode(),
        101: f"<< {field} /FT /Btn /T (yes) /V /On /AS /On /Rect [495 0 595 100] "
        "/AP << /N << /On 103 0 R /Off 104 0 R >> >> >>".encode(),
        102: stream(filled((1, 0, 0), (0, 0, 100, 100)), form),
        103: stream(filled((0, 0, 1), (0, 0, 100, 100)), form),
        104: stream(b"", form),
    }
    pixels = rendered(pdf(b"", page="/Annots [100 0 R 101 0 R]", objects=objects)).pixels
    height, width, _ = pixels.shape
    assert pixels[5, 5].tolist() == [255, 0, 0]
    assert pixels[height - 6, width - 6].tolist() == [0, 0, 255]
    assert pixels[height // 2, width // 2].tolist() == [255, 255, 255]


def test_scan_is_drawn() -> None:
    scan = Image.new("RGB", (2480, 3508), (40, 90, 160))
    ImageDraw.Draw(scan).rectangle((0, 0, 1240, 1754), fill=(250, 250, 10))
    buffer = io.BytesIO()
    scan.save(buffer, "JPEG", quality=95)
    content = pictured(stream(buffer.getvalue(), image_entries(*scan.size, "/Filter /DCTDecode")))
    page = rendered(content)
    height, width, _ = page.pixels.shape
    expected = {
        (height // 4, width // 4): (250, 250, 10),
        (3 * height // 4, width // 4): (40, 90, 160),
    }
    for at, colour in expected.items():
        assert np.abs(page.pixels[at].astype(int) - colour).max() <= 4


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"%PDF-1.7\n", FailureCode.IMAGE_TRUNCATED),
        (pdf(filled(RED, WHOLE))[:200], FailureCode.IMAGE_TRUNCATED),
        (pdf(), FailureCode.PAGE_MISSING),
        (encrypted(b"secret"), FailureCode.PDF_ENCRYPTED),
        (pdf(b"", size=(100_000, 1)), FailureCode.IMAGE_SHAPE),
        (pdf(b"", size=(1e12, 1e12)), FailureCode.IMAGE_TRUNCATED),
    ],
    ids=["a head alone", "cut off", "no pages", "encrypted", "thin", "endless"],
)
def test_what_cannot_be_rendered_is_refused_with_a_code(content: bytes, code: FailureCode) -> None:
    assert refusal(content).code == code


def test_page_that_is_not_there_is_refused_with_the_number_of_pages() -> None:
    error = refusal(pdf(b"", b""), 3)
    assert error.code == FailureCode.PAGE_MISSING
    assert "no page 3: it has 2" in error.message


def test_pdf_that_opens_without_a_password_is_read() -> None:
    assert rendered(encrypted(b"")).points == Size(*A4)


@pytest.mark.skipif(sys.platform != "linux", reason="resident memory is counted by Linux")
def test_page_that_takes_too_much_memory_is_refused_rather_than_shown_in_part() -> None:
    side = 6_000
    content = pictured(deflated(bytes(side * side * 3), image_entries(side, side)))
    many = pdf(filled(RED, (0, 0, 300, 300)) * 300_000)
    assert colours(rendered(content)) == {(0, 0, 0)}
    for hostile in (many, progressive_scan()):
        error = refusal(hostile, max_bytes=60_000_000)
        assert (error.code, "60 MB" in error.message) == (FailureCode.IMAGE_TOO_LARGE, True)


def progressive_scan() -> bytes:
    """Of which PDFium would have to keep all coefficients: without the memory it left it out."""
    scan = Image.effect_noise((2000, 2000), 50).resize((4960, 7016)).convert("RGB")
    buffer = io.BytesIO()
    scan.save(buffer, "JPEG", progressive=True, quality=50)
    return pictured(stream(buffer.getvalue(), image_entries(*scan.size, "/Filter /DCTDecode")))


def test_page_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionq_worker.pdf_pages.CPU_SECONDS", 1)
    # A colour is worked out for each pixel, in a hundred thousand steps.
    colour = deflated(
        b"{ %s pop dup dup }" % (b"abs " * 100_000),
        "/FunctionType 4 /Domain [0 1 0 1] /Range [0 1 0 1 0 1]",
    )
    shading = (
        b"<< /ShadingType 1 /ColorSpace /DeviceRGB /Matrix [595 0 0 842 0 0] /Function 101 0 R >>"
    )
    content = pdf(
        b"/S sh", resources="/Shading << /S 100 0 R >>", objects={100: shading, 101: colour}
    )
    error = refusal(content)
    assert error.code == FailureCode.IMAGE_TOO_LARGE
    assert "1 seconds" in error.message


@pytest.mark.parametrize("executable", ["/bin/false", "/nowhere/python"])
def test_renderer_that_cannot_work_is_not_the_files_fault(
    monkeypatch: pytest.MonkeyPatch, executable: str
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    with pytest.raises(TaskError) as caught:
        rendered(pdf(b""))
    assert (caught.value.code, caught.value.retryable) == (FailureCode.INTERNAL, True)


@pytest.mark.parametrize(
    ("does", "code"),
    [
        ("kill -SEGV $$", FailureCode.IMAGE_TRUNCATED),
        ("kill -KILL $$", FailureCode.INTERNAL),
        ("exit 3", FailureCode.IMAGE_TOO_LARGE),
        ("echo nonsense", FailureCode.IMAGE_TRUNCATED),
        ('echo \'{"pixels": [2, 2], "points": [1, 1], "shape": [1, 1]}\'', "image_truncated"),
    ],
)
def test_renderer_that_a_file_has_outwitted_ends_in_a_failure_with_a_code(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, does: str, code: str
) -> None:
    fake = tmp_path / "python"
    fake.write_text(f"#!/bin/sh\n{does}\n")
    fake.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(fake))
    assert refusal(pdf(b"")).code == code


def test_both_sides_know_the_same_exit_code() -> None:
    assert pdf_pages._Exits.TOO_MUCH == pdfium.EXIT_TOO_MUCH


def test_renderer_is_given_no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spy = tmp_path / "python"
    spy.write_text(f"#!/bin/sh\nenv > {tmp_path}/seen\nexit 1\n")
    spy.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(spy))
    monkeypatch.setenv("VISIONQ_STORAGE__SECRET_KEY", "not yours")
    refusal(pdf(b""))
    seen = (tmp_path / "seen").read_text()
    assert "PYTHONPATH" in seen
    assert "VISIONQ" not in seen
