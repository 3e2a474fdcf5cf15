"""What a client refuses at submit is what a worker would refuse, and no more."""

from __future__ import annotations

import io

import pytest
from PIL import Image, TiffImagePlugin

from visionq.contract import FailureCode, ImageRef, Options, Task
from visionq.errors import PromptTags
from visionq.image_heads import check_head
from visionq.kinds import BUILTIN_KINDS
from visionq_worker.errors import TaskError
from visionq_worker.images import ImageLimits, open_image
from visionq_worker.kinds import render

ID = "0b0c1a9e-52a8-4b43-9a56-0a2f8a1d9a11"
TEXTS = [
    "<|end|>",
    "a<|image_12|>b",
    "<|a|b|>",
    "<|>|>",
    "<||>",
    "<| |>",
    f"<|{'a' * 40}|>",
    f"<|{'a' * 41}|>",
    "<|\n|>",
    "</s>",
    "<|\u00e9|>",
    "<|end|",
    "Title?",
]


def _is_refused(task: Task) -> bool:
    try:
        render(task, BUILTIN_KINDS["ocr"])
    except TaskError as error:
        return error.code == FailureCode.PROMPT_TAGS
    return False


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("place", ["question", "schema"])
def test_client_and_worker_agree_about_tags(text: str, place: str) -> None:
    schema = {"type": "string", "description": text} if place == "schema" else None
    question = text if place == "question" else None
    images = (ImageRef(ref="inputs/a"),)
    options = Options(schema=schema)
    task = Task(id=ID, kind="ocr", images=images, question=question, options=options)
    try:
        BUILTIN_KINDS["ocr"].check_tags(question, schema)
    except PromptTags:
        assert _is_refused(task)
    else:
        assert not _is_refused(task)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "MPO"])
def test_whatever_pillow_writes_and_a_worker_opens_begins_as_an_image(form: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(buffer, form)
    content = buffer.getvalue()
    check_head(content[:1024])
    if form not in ("AVIF", "MPO"):
        limits = ImageLimits(max_pixels=10_000, formats=(form,))
        assert open_image(content, limits).image.size == (40, 30)


@pytest.mark.parametrize("sign", [b"II*\0", b"II\0*", b"II+\0", b"MM\0*", b"MM*\0", b"MM\0+"])
def test_each_kind_of_tiff_that_pillow_knows_begins_as_an_image(sign: bytes) -> None:
    assert sign in TiffImagePlugin.PREFIXES
    check_head(sign + bytes(100))
