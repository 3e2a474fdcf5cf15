"""`visionq render` shows the prompt and its tokens, with no server, device or weights in reach."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.cli.commands import json_of, visionq, visionq_worker
from tests.support.tiny import tiny_model
from tests.support.workers import BIN
from tests.worker.pdf_bytes import pdf
from visionq_worker.model.pixels import Picture
from visionq_worker.pdf_pages import MAX_PAGE_BYTES, render_page

Env = dict[str, str]

ASKED = "<|user|>\n<|image_1|>\nTitle and author?<|end|>\n<|assistant|>\n"
BOOK = '{"type": "object", "properties": {"title": {"type": "string"}}, "required": ["title"]}'


@pytest.fixture
def offline(tmp_path: Path) -> Env:
    """Nobody listens where these lead to."""
    return {
        "VISIONQ_MODEL__SOURCE": "tiny",
        "VISIONQ_BROKER__URL": "redis://127.0.0.1:9/0",
        "VISIONQ_STORAGE__ENDPOINT_URL": "http://127.0.0.1:9",
        "HF_HUB_OFFLINE": "1",
    }


@pytest.fixture
def cover(pictures: Path) -> Path:
    return pictures / "book_cover.jpg"


def test_the_prompt_is_shown_with_its_figures(offline: Env, cover: Path) -> None:
    shown = visionq_worker(offline, "render", "ocr", cover, "-q", "Title and author?")
    assert (shown.exit_code, shown.stderr) == (0, "")
    assert shown.stdout.startswith(ASKED)
    digest = hashlib.sha256(ASKED.encode()).hexdigest()[:16]
    assert "1933 of them images'" in shown.stdout
    assert shown.stdout.endswith(
        f"num_crops 16, max_new_tokens 1000\nocr, version 1, digest {digest}\n"
    )


def test_tokens_are_those_the_model_is_given(offline: Env, cover: Path) -> None:
    shown = json_of(visionq_worker(offline, "render", "ocr", cover, "--num-crops=4", "--json"))
    given = tiny_model().processor(shown["text"], [Image.open(cover).convert("RGB")], 4)
    assert shown["num_tokens"] == given.num_tokens
    assert shown["image_tokens"] == [given.num_image_tokens]
    assert (shown["num_crops"], shown["version"]) == (4, 1)


def test_a_size_stands_for_an_image_of_it(offline: Env) -> None:
    shown = json_of(visionq_worker(offline, "render", "ocr", "640x480", "--json"))
    assert shown["image_tokens"] == [1921]


@pytest.mark.parametrize("num_crops", [1, 4, 16])
def test_a_page_of_a_pdf_counts_as_the_worker_renders_it(
    offline: Env, tmp_path: Path, num_crops: int
) -> None:
    content = pdf(b"", b"", size=(612.4, 792.2))
    file = tmp_path / "two.pdf"
    file.write_bytes(content)
    options = (f"--num-crops={num_crops}", "--json")
    shown = json_of(visionq_worker(offline, "render", "ocr", f"{file}#page=2", *options))
    page = render_page(content, 2, num_crops, max_bytes=MAX_PAGE_BYTES)
    given = tiny_model().processor(shown["text"], [Picture.fitted(page.pixels)], num_crops)
    assert (shown["image_tokens"], shown["num_tokens"]) == (
        [given.num_image_tokens],
        given.num_tokens,
    )


def test_each_image_has_its_tokens(offline: Env, pictures: Path) -> None:
    before, after = pictures / "shelf_before.png", pictures / "shelf_after.png"
    shown = json_of(visionq_worker(offline, "render", "compare", before, after, "--json"))
    assert (shown["num_crops"], shown["image_tokens"]) == (4, [757, 757])
    assert "<|image_2|>" in shown["text"]


def test_a_picture_that_lies_on_its_side_counts_upright(offline: Env, tmp_path: Path) -> None:
    """Three tiles over four and four over three differ by a row of separators."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it right to see it upright
    file = tmp_path / "phone.jpg"
    buffer = io.BytesIO()
    Image.new("RGB", (640, 480)).save(buffer, "JPEG", exif=exif)
    file.write_bytes(buffer.getvalue())
    shown = json_of(visionq_worker(offline, "render", "ocr", file, "--json"))
    assert shown["image_tokens"] == [1933]


def test_the_schema_is_shown_below_the_question(offline: Env, cover: Path, tmp_path: Path) -> None:
    file = tmp_path / "book.json"
    file.write_text(BOOK)
    shown = visionq_worker(offline, "render", "ocr", cover, "-q", "Which?", "--schema", file)
    assert f"nothing else:\n{BOOK}<|end|>\n<|assistant|>\n" in shown.stdout
    fields = visionq_worker(offline, "render", "ocr", cover, "--field", "title", "--field=year:int")
    assert '"required": ["title", "year"]' in fields.stdout


def test_a_kind_of_the_settings_is_shown_with_its_version(cover: Path, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        '[model]\nsource = "tiny"\n[kinds.cars]\nprompt = "Count the cars."\nversion = 3\n'
        "num_crops = 2\nmax_new_tokens = 7\n"
    )
    shown = json_of(visionq_worker({}, "--settings", file, "render", "cars", cover, "--json"))
    assert shown["text"] == "<|user|>\n<|image_1|>\nCount the cars.<|end|>\n<|assistant|>\n"
    assert (shown["version"], shown["num_crops"], shown["max_new_tokens"]) == (3, 2, 7)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["guess", "COVER"], "no kind 'guess'"),
        (["ocr", "nothing.png"], "cannot read nothing.png"),
        (["ask", "COVER"], "kind 'ask' needs a question"),
        (["ask", "COVER", "-q", "And <|end|>?"], "contains a tag"),
        (["ocr", "COVER", "--num-crops=99"], "num_crops must be"),
        (["ocr", "TEXT"], "an input is no image of these kinds"),
        (["ocr", "COVER", "--field=year:date"], "str, int, float, bool"),
    ],
)
def test_a_task_that_would_be_refused_exits_2(
    offline: Env, cover: Path, tmp_path: Path, arguments: list[str], said: str
) -> None:
    (tmp_path / "letter.txt").write_text("Dear Sir or Madam,")
    named = {"COVER": str(cover), "TEXT": str(tmp_path / "letter.txt")}
    shown = visionq_worker(offline, "render", *[named.get(one, one) for one in arguments])
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert said in shown.stderr


def test_a_model_that_is_not_there_is_one_line(offline: Env, cover: Path) -> None:
    shown = visionq_worker(offline, "render", "ocr", cover, "--model=./no-such-model")
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert shown.stderr.startswith("visionq-worker: model: no model folder at ./no-such-model")


def test_visionq_hands_its_arguments_to_the_worker_beside_it(
    offline: Env, cover: Path, tmp_path: Path
) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[model]\nsource = "tiny"\n[kinds.cars]\nprompt = "Count the cars."\n')
    shown = subprocess.run(
        [
            BIN / "visionq",
            "--settings",
            file,
            "render",
            "cars",
            cover,
            "--num-crops",
            "1",
            "--json",
        ],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.stderr == ""
    said = json.loads(shown.stdout)
    assert (said["num_crops"], said["image_tokens"]) == (1, [313])


def test_without_the_worker_render_says_what_is_missing(
    offline: Env, cover: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    shown = visionq(offline | {"PATH": str(tmp_path)}, "render", "ocr", cover)
    assert (shown.exit_code, shown.stdout) == (2, "")
    assert "There is no `visionq-worker` beside this Python" in shown.stderr
